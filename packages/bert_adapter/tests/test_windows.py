"""The places of patches in windows: a changed patch must show up where its axis places it."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

import anylocal_bert
from anylocal.attention import AttentionMap, AttentionMaps, Axis, Patches, PlacedPatches
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
    return where(axis, differing(item).sum((2, 3)))


def differing(item: AttentionMap) -> torch.Tensor:
    """Return which weights differ from those of the last image: (image, window, head, query, key)."""
    of_images = item.tensor().unflatten(0, (-1, item.windows))
    # In the rows of others, only the ratio of the changed key to all other visible keys differs.
    visible = of_images.masked_fill(of_images < 1e-20, torch.nan)
    ratios = (visible[:-1] / visible[-1]).log()
    differs: torch.Tensor = (ratios - ratios.nanmedian(-1, keepdim=True).values).abs() > 1e-3
    return differs


def where(axis: Any, counts: torch.Tensor) -> list[tuple[int, int] | None]:
    """Return the cell of the position that has most, of counts of shape (image, window, position)."""
    places = [divmod(int(place), len(axis)) for place in counts.flatten(1).argmax(1)]
    return [
        axis.cell(position, window) if isinstance(axis, PlacedPatches) else axis.cell(position)
        for window, position in places
    ]


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


SQUARE = [(row, column) for row in range(ROWS) for column in range(ROWS)]
SAMS = {
    "sam": "SamVisionEncoder",
    "sam_hq": "SamHQVisionEncoder",
    "sam3": "Sam3ViTModel",
    "got_ocr2": "GotOcr2VisionEncoder",
    "slanext": "SLANeXtVisionEncoder",
    "deepseek_ocr2": "DeepseekOcr2SamVisionEncoder",
    "unlimited_ocr": "UnlimitedOcrSamVisionEncoder",
}


def built(model_type: str, name: str, **settings: Any) -> Any:
    """Return a part of a model."""
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"This version of transformers has no {model_type}.")
    torch.manual_seed(0)
    theirs = import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    config = getattr(theirs, re.sub(r"(Encoder|Model)$", "Config", name))(**settings)
    return perturb(getattr(theirs, name)(config), scale=0.1).eval()


@pytest.mark.parametrize(("model_type", "name"), SAMS.items())
def test_a_patch_of_an_image_that_is_segmented(model_type: str, name: str) -> None:
    """In SAM's encoders, also those of other models, each patch is at its place in padded windows, and without any."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    own = {"intermediate_size": 32, "pretrain_image_size": ROWS * PATCH} if model_type == "sam3" else {"mlp_dim": 32}
    sizes |= {"image_size": ROWS * PATCH, "patch_size": PATCH, "window_size": WINDOW, "global_attn_indexes": [1], **own}
    pixels = images(len(SQUARE) + 1, ROWS, ROWS)
    for number, (row, column) in enumerate(SQUARE):
        pixels[number, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] += 3
    first, second = captured(built(model_type, name, **sizes), pixels)
    assert changed(first) == SQUARE
    assert first.windows == 9
    assert second.keys == second.queries == Patches((ROWS, ROWS), prefix=(), image_size=(ROWS * PATCH, ROWS * PATCH))


def hiera() -> Any:
    """Return SAM 2's encoder, for grids of 8 × 8, 4 × 4, 2 × 2 and 1 × 1."""
    return built(
        "sam2",
        "Sam2HieraDetModel",
        hidden_size=16,
        num_attention_heads=1,
        image_size=[32, 32],
        blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[16, 32, 48, 64],
        num_attention_heads_per_stage=[1, 2, 2, 2],
        window_size_per_stage=[4, 3, 2, 2],
        global_attention_blocks=[4],
        window_positional_embedding_background_size=[4, 4],
    )


def with_changed_input(model: Any, block: int, cells: list[tuple[int, int]]) -> AttentionMap:
    """Return the map of a block, in whose input each image but the last has a cell that differs."""

    def change(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = arguments[0].clone()
        noise = torch.randn(hidden.shape[-1], generator=torch.Generator().manual_seed(2))
        for number, (row, column) in enumerate(cells):
            hidden[number, row, column] += 3 * noise
        return hidden, *arguments[1:]

    with model.blocks[block].register_forward_pre_hook(change):
        return captured(model, images(len(cells) + 1, 8, 8))[block]


@pytest.mark.parametrize(("block", "size", "windows"), [(0, 8, 4), (2, 4, 4)])
def test_a_patch_of_windows_of_several_sizes(block: int, size: int, windows: int) -> None:
    """SAM 2's windows differ by stage, and those of the second do not fit its grid."""
    cells = [(row, column) for row in range(size) for column in range(size)]
    found = with_changed_input(hiera(), block, cells)
    assert changed(found) == cells
    assert found.windows == windows


def test_queries_that_are_pooled_in_windows() -> None:
    """Where SAM 2 begins a stage, a patch is a key of its own, and part of the query that its square is pooled to."""
    cells = [(row, column) for row in range(8) for column in range(8)]
    found = with_changed_input(hiera(), 1, cells)
    differs = differing(found)
    assert where(found.keys, differs.sum((2, 3))) == cells
    assert where(found.queries, differs.sum((2, 4))) == [(row // 2, column // 2) for row, column in cells]


def test_windows_that_pooling_does_not_divide() -> None:
    """Of the 3 × 3 patches of a window SAM 2 leaves some out, so that its queries are no squares of the grid."""
    model = hiera()
    maps = captured(model, images(1, 8, 8))
    assert (maps[3].queries, maps[3].windows) == (Axis(1), 4)
    assert repr(maps[3].keys) == "PlacedPatches(grid=(4, 4), 4 windows of 9, prefix=(), image_size=(32, 32))"
    assert maps[4].keys == maps[4].queries == Patches((2, 2), prefix=(), image_size=(32, 32))


def test_a_softmax_that_a_layer_drops() -> None:
    """SAM 2's layers compute one of heads with heads before they call the function that makes the map."""
    model = hiera()
    maps = captured(model, images(1, 8, 8))
    assert [each.name for each in maps] == [f"blocks.{number}.attn" for number in range(6)]
    assert not maps.unsupported


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
