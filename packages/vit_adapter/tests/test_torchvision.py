"""Models of torchvision whose layers leave attention to a plain function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.maxvit import MaxVit, PartitionAttentionLayer
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlock, SwinTransformerBlockV2

import anylocal_vit
from anylocal.attention import AttentionMap, Patches, PlacedPatches
from anylocal.testing import perturb


def swin(block: Any) -> Any:
    torch.manual_seed(0)
    model = SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=3, block=block)
    return perturb(model, scale=1.0).eval()


def maxvit() -> Any:
    """Return a model of 8 × 8 and 4 × 4 positions, whose second stage has as many windows as heads."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"input_size": (32, 32), "stem_channels": 8, "partition_size": 2, "num_classes": 3}
    model = MaxVit(**sizes, block_channels=[16, 32], block_layers=[1, 1], head_dim=8, stochastic_depth_prob=0.0)
    # Variances of its batch norms must stay positive.
    return perturb(model, scale=0.2).eval()


MODELS: Any = {
    "Swin": (lambda: swin(SwinTransformerBlock), "ShiftedWindow", [4, 4, 1, 1]),
    "Swin V2": (lambda: swin(SwinTransformerBlockV2), "ShiftedWindow", [4, 4, 1, 1]),
    "MaxViT": (maxvit, "MultiHeadAttention", [16, 16, 4, 4]),
}


@pytest.mark.parametrize(("build", "layer", "windows"), MODELS.values(), ids=MODELS)
def test_the_maps_of_windows(build: Any, layer: str, windows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each belongs to the layer that called a plain function, and is the softmax in float64, window by window."""
    model, image, expected = build(), torch.randn(2, 3, 32, 32), []
    softmax = torch.nn.functional.softmax

    def noted(scores: torch.Tensor, dim: int) -> torch.Tensor:
        # MaxViT's has an axis of windows.
        expected.append(scores.double().softmax(dim).flatten(0, -4))
        return softmax(scores, dim=dim)

    monkeypatch.setattr(torch.nn.functional, "softmax", noted)
    with torch.no_grad():
        model(image)
    monkeypatch.undo()
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(image)
    assert maps.names == [name for name, module in model.named_modules() if layer in type(module).__name__]
    for attention, reference in zip(maps, expected, strict=True):
        assert reference.std() > 0.02
        torch.testing.assert_close(attention.tensor().double(), reference, atol=1e-6, rtol=0)
    assert [attention.windows for attention in maps] == windows


def test_windows_have_their_places() -> None:
    """The second layer's are shifted by half a window; those of one window are not."""
    model = swin(SwinTransformerBlock)
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    rolled = np.roll(np.arange(64).reshape(8, 8), (-2, -2), (0, 1))
    keys = maps[1].keys
    assert isinstance(keys, PlacedPatches)
    assert np.array_equal(keys.places[0], rolled[:4, :4].ravel())
    assert maps[3].keys == Patches(grid=(4, 4), prefix=(), image_size=(32, 32))


def captured(model: Any, image: torch.Tensor) -> list[AttentionMap]:
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(image)
    return list(maps)


@pytest.mark.parametrize("number", range(4))
def test_a_position_that_changes_in_windows_of_two_kinds(number: int) -> None:
    """The column that changes most in a layer of MaxViT is that of its place, in the window that holds it."""
    model, image, place = maxvit(), torch.randn(1, 3, 32, 32), (1, 2)
    layer = [part for part in model.modules() if isinstance(part, PartitionAttentionLayer)][number]

    def change(_: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        changed = given[0].clone()
        changed[0, :, place[0], place[1]] *= -1
        return (changed,)

    before = captured(model, image)[number]
    with layer.register_forward_pre_hook(change):
        after = captured(model, image)[number]
    scores = (after.tensor() / before.tensor()).log()
    moved = (scores - scores.median(-1, keepdim=True).values).abs().sum((1, 2))
    assert isinstance(before.keys, PlacedPatches)
    assert before.keys.grid == ((8, 8) if number < 2 else (4, 4))
    assert before.keys.find(*place) == divmod(int(moved.argmax()), len(before.keys))
    assert before.queries == before.keys
