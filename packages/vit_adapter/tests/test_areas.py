"""Areas of YOLO12, each of which attends to itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import anylocal_vit
from anylocal.attention import AttentionMap, Patches, PlacedPatches
from anylocal.testing import perturb

PLACES = [(0, 0), (2, 1), (3, 5)]


class AAttn(torch.nn.Module):
    """Attends within areas, under the name that ultralytics has for it."""

    def __init__(self, area: int) -> None:
        super().__init__()
        self.area, self.num_heads, self.qkv = area, 2, torch.nn.Conv2d(16, 48, 1)

    def forward(self, x: torch.Tensor) -> Any:
        _, _, H, W = x.shape
        parts = self.qkv(x).flatten(2).mT.reshape(len(x) * self.area, H * W // self.area, 3, 2, 8)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        attn = (q @ k.mT).softmax(dim=-1)
        return (attn @ v).transpose(1, 2).reshape(len(x), H * W, 16).mT.reshape(x.shape)


class Yolo(torch.nn.Module):
    """Has a feature map of 4 × 6 positions, and an attention layer."""

    def __init__(self, area: int) -> None:
        super().__init__()
        self.stem, self.attn = torch.nn.Conv2d(3, 16, 3, 2, 1), AAttn(area)

    def forward(self, x: torch.Tensor) -> Any:
        return self.attn(self.stem(x))


def first(model: Any, image: torch.Tensor) -> AttentionMap:
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(image)
    return maps[0]


def check(model: Any, layer: Any, image: torch.Tensor, place: tuple[int, int]) -> None:
    """Check that where a position of a layer's input changes, its column in the area that holds it changes most."""

    def change(_: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        changed = given[0].clone()
        noise = torch.randn(changed.shape[1], generator=torch.Generator().manual_seed(1))
        changed[0, :, place[0], place[1]] += 3 * noise
        return (changed,)

    before = first(model, image)
    with layer.register_forward_pre_hook(change):
        after = first(model, image)
    scores = (after.tensor() / before.tensor()).log()
    moved = (scores - scores.median(-1, keepdim=True).values).abs().sum((1, 2))
    assert before.windows == 4
    assert isinstance(before.keys, PlacedPatches)
    assert before.queries == before.keys
    assert before.keys.find(*place) == divmod(int(moved.argmax()), len(before.keys))


@pytest.mark.parametrize("place", PLACES)
def test_a_position_that_changes(place: tuple[int, int]) -> None:
    """Areas are runs of positions, row by row."""
    torch.manual_seed(0)
    model = perturb(Yolo(4), scale=0.3).eval()
    check(model, model.attn, torch.rand(1, 3, 8, 12), place)


def test_areas_that_end_within_a_row() -> None:
    """Nothing else than their length decides where they end."""
    keys = first(Yolo(4).eval(), torch.rand(1, 3, 4, 12)).keys
    assert keys == PlacedPatches((2, 6), [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]], image_size=(4, 12))


def test_one_area() -> None:
    """It is the whole grid."""
    assert first(Yolo(1).eval(), torch.rand(1, 3, 8, 12)).keys == Patches((4, 6), prefix=(), image_size=(8, 12))


@pytest.mark.parametrize("place", PLACES)
def test_yolo12(place: tuple[int, int]) -> None:
    """The model of ultralytics itself, whose first areas are in a feature map of a sixteenth of the image."""
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    torch.manual_seed(0)
    model = tasks.DetectionModel("yolo12n.yaml", verbose=False).eval()
    layer = next(part for part in model.modules() if type(part).__name__ == "AAttn")
    assert layer.area == 4
    # Its maps are uniform as it is made.
    perturb(layer, scale=0.3)
    check(model, layer, torch.rand(1, 3, 64, 96), place)
