"""Patches of videos and volumes, which a convolution or a pattern of einops cuts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import anylocal_vit
from anylocal.attention import AttentionMap, Axis, VideoPatches
from anylocal.testing import perturb

SHAPE = (2, 1, 4, 24, 32)
"""Images, channels, frames or slices, rows and columns."""
PATCH = (2, 8, 8)
PLACE = (1, 2, 1)
PART = (..., slice(2, 4), slice(16, 24), slice(8, 16))
PLAIN = VideoPatches((2, 3, 4), image_size=(24, 32))
AFTER_CLS = VideoPatches((2, 3, 4), prefix=("cls",), image_size=(24, 32))


class Rearrange(torch.nn.Module):
    """A layer as einops makes it, which keeps its pattern and the lengths in it; it only cuts."""

    def __init__(self, pattern: str, **axes_lengths: int) -> None:
        super().__init__()
        self.pattern, self.axes_lengths = pattern, axes_lengths

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for axis, size in enumerate(PATCH, start=2):
            x = x.unfold(axis, size, size)
        return x.flatten(5).movedim(1, -2).flatten(-2).flatten(1, 3)


class Flat(torch.nn.Module):
    """A convolution whose positions are made one axis."""

    def __init__(self, stride: tuple[int, int, int] = PATCH) -> None:
        super().__init__()
        self.proj = torch.nn.Conv3d(1, 32, stride, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat: torch.Tensor = self.proj(x).flatten(2)
        return flat.mT


class ViT(torch.nn.Module):
    """Cuts patches, and lets them attend to each other."""

    def __init__(self, cut: torch.nn.Module, *, cls: bool = False) -> None:
        super().__init__()
        self.cut = cut
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, 32)) if cls else None
        self.attn = torch.nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.cut(x)
        x = x if self.cls_token is None else torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.attn(x, x, x)[0]


def pattern(of: str) -> torch.nn.Module:
    cut = Rearrange(f"b c (f pf) (h p1) (w p2) -> {of}", pf=2, p1=8, p2=8)
    return torch.nn.Sequential(cut, torch.nn.Linear(128, 32))


def captured(model: Any, volume: torch.Tensor) -> AttentionMap:
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(volume)
    return maps[0]


def check(model: Any, axis: VideoPatches, channels: int = 1) -> None:
    """Check that where one patch changes, the scores of the first query change most in the column of its place."""
    perturb(model, scale=0.2).eval()
    volume = torch.rand(SHAPE[0], channels, *SHAPE[2:], generator=torch.Generator().manual_seed(0))
    changed = volume.clone()
    changed[PART] = 1 - changed[PART]
    before, after = captured(model, volume), captured(model, changed)
    assert before.queries == before.keys == axis
    scores = (after[0, :, 0] / before[0, :, 0]).log()
    assert int((scores - scores.median(-1, keepdim=True).values).abs().sum(0).argmax()) == axis.position(PLACE)


@pytest.mark.parametrize("cls", [False, True])
@pytest.mark.parametrize(
    "cut", [Flat, lambda: pattern("b (f h w) (pf p1 p2 c)"), lambda: pattern("b f h w (pf p1 p2 c)")]
)
def test_patches_of_a_volume(cut: Any, cls: bool) -> None:
    """They are in the order of the volume's axes, after a class token where there is one."""
    torch.manual_seed(0)
    check(ViT(cut(), cls=cls), AFTER_CLS if cls else PLAIN)


def test_a_volume_within_a_model() -> None:
    """The innermost model around the layer that cuts its input tells, whatever cuts elsewhere."""
    torch.manual_seed(0)
    beside = Flat((4, 4, 4))
    model = torch.nn.ModuleDict({"vit": ViT(Flat()), "beside": beside})
    model.forward = model["vit"].forward
    check(model, PLAIN)


class Apart(ViT):
    """Attends within each frame."""

    def forward(self, x: torch.Tensor) -> Any:
        x = self.cut(x).unflatten(1, (2, -1)).flatten(0, 1)
        return self.attn(x, x, x)[0]


class Finer(ViT):
    """Attends within windows of a finer grid, each of which has as many positions as there are patches."""

    def forward(self, x: torch.Tensor) -> Any:
        x = self.cut(x).repeat_interleave(4, 1).unflatten(1, (4, -1)).flatten(0, 1)
        return self.attn(x, x, x)[0]


@pytest.mark.parametrize(
    ("model", "length"),
    [
        (lambda: ViT(pattern("b (h w f) (pf p1 p2 c)")), 24),
        (lambda: Apart(Flat()), 12),
        (lambda: Finer(Flat()), 24),
    ],
    ids=["another order", "frames apart", "windows"],
)
def test_other_positions_are_counted(model: Any, length: int) -> None:
    """Nothing is guessed where patches are in another order, or are not those of the whole volume."""
    torch.manual_seed(0)
    assert captured(model(), torch.rand(SHAPE)).keys == Axis(length)


SIZES: dict[str, Any] = {
    "image_size": (24, 32),
    "image_patch_size": 8,
    "frames": 4,
    "frame_patch_size": 2,
    "num_classes": 3,
    "dim": 36,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 32,
}


@pytest.mark.parametrize(
    ("file", "name", "axis"), [("vit_3d", "ViT", AFTER_CLS), ("simple_vit_3d", "SimpleViT", PLAIN)]
)
def test_videos_of_vit_pytorch(file: str, name: str, axis: VideoPatches) -> None:
    """Its two models for videos are known."""
    theirs = pytest.importorskip(f"vit_pytorch.{file}")
    torch.manual_seed(0)
    check(getattr(theirs, name)(**SIZES), axis, channels=3)


@pytest.mark.parametrize("proj_type", ["conv", "perceptron"])
@pytest.mark.parametrize("classification", [False, True])
def test_volumes_of_monai(proj_type: str, classification: bool) -> None:
    """Both ways in which its ViT cuts a volume are known."""
    theirs = pytest.importorskip("monai.networks.nets")
    if proj_type == "perceptron":
        pytest.importorskip("einops")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "mlp_dim": 32, "num_layers": 2, "num_heads": 2}
    model = theirs.ViT(1, SHAPE[2:], PATCH, **sizes, proj_type=proj_type, classification=classification)
    check(model, AFTER_CLS if classification else PLAIN)
