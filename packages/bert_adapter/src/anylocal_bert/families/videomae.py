"""VideoMAE and others that divide a video into tubes, and TimeSformer, which attends in time and in space by turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from anylocal.adapter import MapAxes
from anylocal.attention import Named, VideoPatches
from anylocal_bert._family import Family

if TYPE_CHECKING:
    from anylocal_bert._family import Layer


def _video(layer: Layer) -> tuple[int, ...] | None:
    """Return the shape of the video that a model was given, (batch, frame, channel, row, column)."""
    given = layer.given("")
    shape = given.get("pixel_values_videos", given.get("pixel_values"))
    return shape if isinstance(shape, tuple) and len(shape) == 5 else None  # noqa: PLR2004  # its axes


def _tubes(layer: Layer) -> MapAxes | None:
    shape = _video(layer)
    cuts = [module for module in layer.owner.modules() if isinstance(module, torch.nn.Conv3d)]
    if shape is None or len(cuts) != 1:
        return None
    sizes = zip((shape[1], shape[3], shape[4]), cuts[0].kernel_size, strict=True)
    has_cls = getattr(getattr(layer.owner, "embeddings", None), "cls_token", None) is not None
    grid: Any = tuple(size // side for size, side in sizes)
    if min(grid) < 1:
        return None
    axis = VideoPatches(grid, prefix=("cls",) if has_cls else (), image_size=(shape[3], shape[4]))
    return MapAxes(axis, axis)


def _turns(layer: Layer) -> MapAxes | None:
    shape = _video(layer)
    if shape is None or "temporal" not in layer.name:
        return None
    side = layer.owner.config.patch_size
    frames = Named(tuple(f"frame {frame}" for frame in range(shape[1])))
    return MapAxes(frames, frames, (shape[3] // side) * (shape[4] // side))


FAMILY = Family(
    grids={r"VideoMAEModel|VivitModel|VJEPA2Encoder": _tubes, r"TimesformerModel": _turns},
)
