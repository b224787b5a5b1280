"""The axes of a map say which prefix tokens and which patches of the actual input its positions are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import anylocal_vit
from anylocal.attention import Axis, Named, Patches

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


def test_grid_of_a_padded_image(make: Make) -> None:
    """A model that pads its image has the padded grid."""
    model = make(depth=1, dynamic_img_size=True, dynamic_img_pad=True)
    assert captured(model, 60, 90)[0].queries.grid == (4, 6)


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
