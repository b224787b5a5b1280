"""Models of torchvision whose layers leave attention to a plain function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlock, SwinTransformerBlockV2

import anylocal_vit
from anylocal.attention import Patches, PlacedPatches
from anylocal.testing import perturb


def swin(block: Any) -> Any:
    torch.manual_seed(0)
    model = SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=3, block=block)
    return perturb(model, scale=1.0).eval()


@pytest.mark.parametrize("block", [SwinTransformerBlock, SwinTransformerBlockV2])
def test_the_maps_of_a_plain_function(block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each belongs to the layer that called it, and is the softmax in float64."""
    model, image, expected = swin(block), torch.randn(2, 3, 32, 32), []
    softmax = torch.nn.functional.softmax

    def noted(scores: torch.Tensor, dim: int) -> torch.Tensor:
        expected.append(scores.double().softmax(dim))
        return softmax(scores, dim=dim)

    monkeypatch.setattr(torch.nn.functional, "softmax", noted)
    with torch.no_grad():
        model(image)
    monkeypatch.undo()
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(image)
    layers = [name for name, module in model.named_modules() if "ShiftedWindow" in type(module).__name__]
    assert maps.names == layers
    for attention, reference in zip(maps, expected, strict=True):
        assert reference.std() > 0.02
        torch.testing.assert_close(attention.tensor().double(), reference, atol=1e-6, rtol=0)
    assert [attention.windows for attention in maps] == [4, 4, 1, 1]


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
