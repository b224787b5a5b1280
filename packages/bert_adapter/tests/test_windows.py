"""The places of patches in windows: a changed patch must show up where its axis places it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

import anylocal_bert
from anylocal.attention import AttentionMap, AttentionMaps, Patches, PlacedPatches
from anylocal.testing import perturb

from .exactness import run

PATCH, WINDOW = 4, 4
ROWS, COLUMNS = 10, 7
"""Patches of an image that windows do not fit."""
KINDS = ("swin", "swinv2", "maskformer-swin", "donut-swin")


def make(model_type: str, rows: int = ROWS, columns: int = COLUMNS) -> Any:
    settings: Any = CONFIG_MAPPING[model_type]
    config = settings(
        image_size=(rows * PATCH, columns * PATCH),
        patch_size=PATCH,
        window_size=WINDOW,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
    )
    torch.manual_seed(0)
    build: Any = AutoModel.from_config
    return perturb(build(config), scale=0.1).eval()


def images(count: int, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    """Return copies of one image."""
    image = torch.randn(1, 3, rows * PATCH, columns * PATCH, generator=torch.Generator().manual_seed(1))
    return image.repeat(count, 1, 1, 1)


def captured(model: Any, pixels: torch.Tensor) -> AttentionMaps:
    with anylocal_bert.capture_attention(model) as maps:
        run(model, {"pixel_values": pixels})
    return maps


def changed(item: AttentionMap) -> list[tuple[int, int] | None]:
    """Return the patch of each image that the others in its window see differently from the last image."""
    axis = item.keys
    assert isinstance(axis, PlacedPatches)
    assert axis == item.queries
    of_images = item.tensor().unflatten(0, (-1, item.windows))
    # In the rows of others, only the ratio of the changed key to all other visible keys differs.
    visible = of_images.masked_fill(of_images < 1e-20, torch.nan)
    ratios = (visible[:-1] / visible[-1]).log()
    others = (ratios - ratios.nanmedian(-1, keepdim=True).values).abs() > 1e-3
    by_key = others.sum((2, 3)).flatten(1)
    places = [divmod(int(place), len(axis)) for place in by_key.argmax(1)]
    return [axis.cell(key, window) for window, key in places]


CELLS = [(row, column) for row in range(ROWS) for column in range(COLUMNS)]


@pytest.mark.parametrize("model_type", KINDS)
def test_a_patch_of_the_image(model_type: str) -> None:
    """In the first layer, each patch of the image is at its place."""
    pixels = images(len(CELLS) + 1)
    for number, (row, column) in enumerate(CELLS):
        pixels[number, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] += 3
    assert changed(captured(make(model_type), pixels)[0]) == CELLS


@pytest.mark.parametrize("model_type", KINDS)
def test_a_patch_of_a_shifted_layer(model_type: str) -> None:
    """Each patch that a layer gets is at its place, also in shifted windows."""
    model = make(model_type)
    (shifted,) = [
        module
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Layer") and name.endswith("layers.0.blocks.1")
    ]

    def change(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = arguments[0].clone()
        noise = torch.randn(hidden.shape[-1], generator=torch.Generator().manual_seed(2))
        for number in range(len(CELLS)):
            hidden[number, number] += 3 * noise
        return hidden, *arguments[1:]

    shifted.register_forward_pre_hook(change)
    maps = captured(model, images(len(CELLS) + 1))
    assert changed(maps[1]) == CELLS
    assert maps[0].keys != maps[1].keys


def test_windows_that_fit() -> None:
    """Also if the model pads the image itself, each patch is in one window."""
    settings: Any = CONFIG_MAPPING["swin2sr"]
    config = settings(window_size=WINDOW, embed_dim=16, depths=[2], num_heads=[2], image_size=(12, 8))
    build: Any = AutoModel.from_config
    maps = captured(build(config).eval(), torch.rand(2, 3, 12, 8))
    for item in maps:
        assert isinstance(item.keys, PlacedPatches)
        assert (item.keys.grid, item.windows) == ((12, 8), 6)
        assert sorted(item.keys.places.ravel().tolist()) == list(range(96))


def test_one_window() -> None:
    """The axis of a window that holds all patches is the plain grid, with the size of the image."""
    maps = captured(make("swin", 8, 8), images(2, 8, 8))
    assert maps[-1].keys == Patches((4, 4), prefix=(), image_size=(8 * PATCH, 8 * PATCH))
    assert maps[-1].windows == 1
