"""The axes of a map say which prefix tokens and which patches of the actual input its positions are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from packaging.version import Version
from timm.layers import HybridEmbed

import anylocal_vit
from anylocal.attention import Axis, Named, Patches, distance

Make = Callable[..., Any]


def captured(model: Any, height: int, width: int) -> Any:
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(torch.randn(1, 3, height, width))
    return maps


@pytest.mark.parametrize(
    ("name", "options", "prefix"),
    [
        ("vit_tiny_patch16_224", {}, ("cls",)),
        ("deit_tiny_patch16_224", {}, ("cls",)),
        ("deit_tiny_distilled_patch16_224", {}, ("cls", "dist")),
        ("deit3_small_patch16_224", {}, ("cls",)),
        ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}, ("cls", "reg1", "reg2", "reg3", "reg4")),
        ("vit_base_patch16_siglip_224", {"embed_dim": 96, "num_heads": 3}, ()),
    ],
)
def test_prefix_tokens_are_read_off_the_model(
    make: Make, name: str, options: dict[str, Any], prefix: tuple[str, ...]
) -> None:
    """The tokens in front of the patches have the names and the number that the model gives them."""
    maps = captured(make(name, img_size=64, depth=2, **options), 64, 64)
    patches = Patches(grid=(4, 4), prefix=prefix, image_size=(64, 64))
    assert maps[0].queries == patches
    assert maps[0].keys == patches


def test_grid_is_that_of_the_image(make: Make) -> None:
    """A model of dynamic size has the grid of the image that it was given, a rectangle too."""
    model = make(depth=1, dynamic_img_size=True)
    assert captured(model, 64, 96)[0].queries == Patches(grid=(4, 6), prefix=("cls",), image_size=(64, 96))
    assert captured(model, 96, 32)[0].queries == Patches(grid=(6, 2), prefix=("cls",), image_size=(96, 32))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"dynamic_img_size": True}),
        ("eva02_tiny_patch14_224", {"dynamic_img_size": True, "patch_size": 16}),
        pytest.param(
            "naflexvit_base_patch16_gap",
            {"embed_dim": 64, "num_heads": 2},
            marks=pytest.mark.skipif(
                Version(timm.__version__) < Version("1.0.27"),
                reason="timm can pad for it from 1.0.27 on",
            ),
        ),
    ],
)
@pytest.mark.parametrize(("size", "grid"), [((65, 65), (5, 5)), ((70, 161), (5, 11)), ((64, 96), (4, 6))])
def test_patches_of_a_padded_image_are_whole(
    make: Make, name: str, options: dict[str, Any], size: tuple[int, int], grid: tuple[int, int]
) -> None:
    """A model that pads its image has the padded grid, and patches of their own size behind the image's edge too."""
    axis = captured(make(name, depth=1, dynamic_img_pad=True, **options), *size)[0].keys
    whole = 16 * grid[0], 16 * grid[1]
    added = whole[0] - size[0], whole[1] - size[1]
    assert axis == Patches(grid, prefix=axis.prefix, image_size=whole, image_padding=added)


def test_distances_in_a_padded_image_are_those_of_whole_patches(make: Make) -> None:
    """Patches whose middles are 16 pixels apart are told to be, whatever the size of the image."""
    (attention,) = captured(make(depth=1, dynamic_img_size=True, dynamic_img_pad=True), 70, 161)
    weights = attention.numpy()[0, :, 1:, 1:].astype(float)
    rows, columns = np.divmod(np.arange(5 * 11), 11)
    apart = 16 * np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    expected = (weights * apart).sum(-1) / weights.sum(-1)
    np.testing.assert_allclose(distance(attention)[0], expected.mean(-1), rtol=1e-4)


def test_a_hybrid_pads_what_its_backbone_makes(make: Make) -> None:
    """Patches of padded features are as large as the pixels that these are made of."""
    backbone = torch.nn.Conv2d(3, 8, 4, stride=4)
    padding = {"dynamic_img_size": True, "dynamic_img_pad": True}
    model = make(depth=1, embed_layer=partial(HybridEmbed, backbone), patch_size=2, img_size=64, **padding)
    axis = captured(model, 52, 20)[0].keys
    assert axis == Patches((7, 3), prefix=("cls",), image_size=(56, 24), image_padding=(4, 4))


def test_parts_of_larger_models(make: Make) -> None:
    """A transformer inside of another module has its own axes, and names with the path to it."""

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = make(img_size=64, depth=1)

        def forward(self, x: torch.Tensor) -> Any:
            return self.backbone(x)

    maps = captured(Wrapper(), 64, 64)
    assert maps.names == ["backbone.blocks.0.attn"]
    assert maps[0].queries == Patches(grid=(4, 4), prefix=("cls",), image_size=(64, 64))


def test_dropped_patches_are_only_counted(make: Make) -> None:
    """Where patch dropout leaves patches out, the positions are counted and not passed off as a grid."""
    model = make(img_size=64, depth=1, patch_drop_rate=0.5).train()
    maps = captured(model, 64, 64)
    assert maps[0].queries == Axis(1 + 8)


def test_attention_pool_has_queries_of_its_own(make: Make) -> None:
    """The pool at the end of a SigLIP model asks with one latent query, and its keys are the patches."""
    maps = captured(make("vit_base_patch16_siglip_224", img_size=64, depth=1, embed_dim=96, num_heads=3), 64, 64)
    pool = maps["attn_pool"]
    assert pool.queries == Named(("latent",))
    assert pool.keys == Patches(grid=(4, 4), prefix=(), image_size=(64, 64))
