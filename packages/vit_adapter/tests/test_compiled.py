"""Families whose maps are not those of a plain ViT, compiled as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import anylocal_vit

Make = Callable[..., Any]

SMALL: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "swin_tiny_patch4_window7_224": (
        {"embed_dim": 24, "depths": (2,), "num_heads": (3,), "window_size": 4, "img_size": (32, 48)},
        (32, 48),
    ),
    "cait_xxs24_224": ({"img_size": 64, "depth": 2}, (64, 64)),
    "convit_tiny": ({"img_size": 64, "depth": 2}, (64, 64)),
    "efficientvit_m0": ({"depth": (1, 1, 1)}, (224, 224)),
    "pvt_v2_b0": ({"depths": (1, 1, 1, 1)}, (64, 96)),
}


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    yield
    torch.compiler.reset()


# torch warns on 3.13.0.
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
@pytest.mark.parametrize("name", SMALL)
def test_a_compiled_model_gives_the_same_maps_and_axes(make: Make, name: str) -> None:
    """Without a graph break, each forward pass gives what the eager model gives, windows and mixes included."""
    options, size = SMALL[name]
    model = make(name, **options)
    inputs = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), anylocal_vit.capture_attention(model) as expected:
        model(inputs)
    model.compile(fullgraph=True, backend="aot_eager")
    with torch.no_grad(), anylocal_vit.capture_attention(model) as maps:
        model(inputs)
        model(inputs)
    assert len(maps.forwards) == 2
    for forward in maps.forwards:
        for attention, eager in zip(forward, expected, strict=True):
            assert (attention.name, attention.windows) == (eager.name, eager.windows)
            assert (attention.queries, attention.keys) == (eager.queries, eager.keys)
            torch.testing.assert_close(attention.tensor(), eager.tensor(), atol=1e-5, rtol=0)
            assert (attention.mixed is None) == (eager.mixed is None)
            if eager.mixed is not None:
                torch.testing.assert_close(attention.mixed, eager.mixed, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
@pytest.mark.parametrize("compiled", [(1,), (0, 1, 2)])
def test_compiled_blocks_belong_to_the_forward_of_their_model(make: Make, compiled: tuple[int, ...]) -> None:
    """However many of an eager model's blocks are compiled, each forward pass counts once."""
    model = make("vit_tiny_patch16_224", img_size=64, depth=3)
    for number in compiled:
        model.blocks[number].compile(backend="eager")
    with torch.no_grad(), anylocal_vit.capture_attention(model) as maps:
        for _ in range(2):
            model(torch.zeros(1, 3, 64, 64))
    assert [(attention.name, attention.forward) for attention in maps] == [
        (f"blocks.{number}.attn", forward) for forward in range(2) for number in range(3)
    ]
