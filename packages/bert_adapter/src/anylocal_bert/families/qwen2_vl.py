"""Qwen2-VL, and others built as it is: images and videos of any size, of which squares of patches are merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

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
    if given.get("input_features") is not None:
        yield "how it places sounds in its text"


def _images(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    if given.get("video_grid_thw") is not None:
        yield "which frames of a video its placeholders stand for, which are those of images"
        return
    yield from _media(model, given)


_QWEN: Final = r"Qwen(2|2_5_|3)VL(Moe)?(Model|ForConditionalGeneration)"
_OMNI: Final = r"Qwen2_5OmniThinker(Model|ForConditionalGeneration)"
_OTHERS: Final = r"(Exaone4_5_|PaddleOCRVL)(Model|ForConditionalGeneration)"
_GLM: Final = r"(Glm(4|46)[vV](Moe)?|GlmOcr)(Model|ForConditionalGeneration)"

FAMILY = Family(media={rf"{_QWEN}|{_OMNI}|{_OTHERS}": _media, _GLM: _images})
