"""Qwen2-VL and later: images and videos of any size, of which squares of patches are merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from anylocal.attention import Patches
from anylocal_bert._family import Family, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    vision = model.config.vision_config
    kinds: tuple[Literal["image", "video"], ...] = ("image", "video")
    for kind in kinds:
        grids = given.get(f"{kind}_grid_thw")
        for source, (frames, high, wide) in enumerate(() if grids is None else grids.tolist()):
            grid = high // vision.spatial_merge_size, wide // vision.spatial_merge_size
            size = high * vision.patch_size, wide * vision.patch_size
            patches = Patches(grid, prefix=(), image_size=size)
            yield Run(kind, source, patches, range(frames * len(patches)), frames if kind == "video" else None)


FAMILY = Family(media={r"Qwen(2|2_5_|3)VL(Moe)?(Model|ForConditionalGeneration)": _media})
