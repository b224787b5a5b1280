"""Molmo2: an image is seen as a whole and in overlapping tiles, which make one grid; tokens pool squares of patches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from anylocal.attention import Patches
from anylocal_bert._family import Family, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    side = model.config.vision_config.patch_size
    videos, images = given.get("video_grids"), given.get("image_grids")
    if videos is not None:
        # A video is encoded by what encodes images, which is given other numbers than these.
        pooled = _pooled(given["video_token_pooling"])
        for source, (frames, rows, columns) in enumerate(videos.tolist()):
            frame = _patches((rows, columns), pooled, side)
            pooled = pooled[frames * len(frame) :]
            yield Run("video", source, frame, range(frames * len(frame)), frames)
    elif images is not None:
        pooled = _pooled(given["image_token_pooling"])
        for source, (*whole, rows, columns) in enumerate(images.tolist()):
            for view, grid in (("overview", whole), ("tiles", (rows, columns))):
                patches = _patches((grid[0], grid[1]), pooled, side)
                pooled = pooled[len(patches) :]
                yield Run("image", source, patches, range(len(patches)), view=view)


def _pooled(given: torch.Tensor) -> torch.Tensor:
    """Return which patches each token pools, -1 for none; what pools none at all is no token."""
    return given[(given >= 0).any(-1)]


def _patches(grid: tuple[int, int], pooled: torch.Tensor, side: int) -> Patches:
    """Return the first tokens of `pooled`, with the image's size where their squares show it."""
    (rows, columns), across = grid, math.isqrt(pooled.shape[1])
    plain = Patches(grid, prefix=())
    if across**2 != pooled.shape[1] or len(pooled) < len(plain):
        return plain
    squares = pooled[: len(plain)].reshape(rows, columns, across, across)
    down, right = (squares >= 0).any(3).any(1).flatten(), (squares >= 0).any(2).any(0).flatten()
    # Padding comes last, unless squares are larger than those of the released models.
    if not (down[0] and right[0]):
        return plain
    size = rows * across * side, columns * across * side
    padding = int((~down).sum()) * side, int((~right).sum()) * side
    return Patches(grid, prefix=(), image_size=size, image_padding=padding)


FAMILY = Family(media={r"Molmo2(Model|ForConditionalGeneration)": _media})
