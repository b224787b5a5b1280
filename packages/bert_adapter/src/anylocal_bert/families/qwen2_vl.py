"""Qwen2-VL, and others built as it is: images and videos of any size, of which squares of patches are merged.

Their towers see the patches in the order of these squares. Each image, frame or window attends to itself, in a call of
its own.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from anylocal.adapter import MapAxes
from anylocal.attention import Patches, PlacedPatches
from anylocal_bert._family import Family, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from anylocal_bert._family import Layer


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


def _tower(layer: Layer, merged: int | None = None) -> MapAxes | None:
    grids, block = layer.given("").get("grid_thw"), re.match(r"(?:blocks|layers)\.(\d+)\.", layer.name)
    if grids is None or block is None:
        return None
    # Each forward pass is given another tensor.
    start = layer.memory["end"] if layer.memory.get("grids") is grids else 0
    layer.memory.update(grids=grids, end=start + layer.keys)
    config = layer.owner.config
    parts = list(_parts(config, merged or config.spatial_merge_size, grids.tolist(), int(block[1])))
    starts = accumulate((len(order) for _, order in parts), initial=0)
    found = next((part for part, at in zip(parts, starts, strict=False) if at == start), None)
    if found is None:
        return None
    grid, order = found
    size = grid[0] * config.patch_size, grid[1] * config.patch_size
    axis = PlacedPatches(grid, order[None], image_size=size)
    return MapAxes(axis, axis)


def _parts(
    config: Any, merged: int, grids: list[list[int]], block: int
) -> Iterator[tuple[tuple[int, int], npt.NDArray[np.int64]]]:
    """Yield what attends to itself in a layer, in order: the grid that it is part of, and the places of its patches."""
    whole = getattr(config, "fullatt_block_indexes", None)
    for frames, rows, columns in grids:
        down, right = rows // merged, columns // merged
        squares = np.arange(rows * columns).reshape(down, merged, right, merged).transpose(0, 2, 1, 3)
        side = max(down, right) if whole is None else config.window_size // merged // config.patch_size
        corners = [(row, column) for row in range(0, down, side) for column in range(0, right, side)]
        windows = [squares[row : row + side, column : column + side].ravel() for row, column in corners]
        # Also where all attend to all, they stay in the order of the windows.
        for order in (windows if whole is not None and block not in whole else [np.concatenate(windows)]) * frames:
            yield (rows, columns), order


_QWEN: Final = r"Qwen(2|2_5_|3)VL(Moe)?(Model|ForConditionalGeneration)"
_OMNI: Final = r"Qwen2_5OmniThinker(Model|ForConditionalGeneration)"
_OTHERS: Final = r"(Exaone4_5_|PaddleOCRVL)(Model|ForConditionalGeneration)"
_GLM: Final = r"(Glm(4|46)[vV](Moe)?|GlmOcr)(Model|ForConditionalGeneration)"

_TOWERS: Final = (
    r"Qwen2(_5_)?VisionTransformerPretrainedModel|Qwen3VL(Moe)?VisionModel|Qwen2_5OmniVisionEncoder"
    r"|Exaone4_5_VisionModel|(Glm4v(Moe)?|GlmOcr)VisionModel"
)

FAMILY = Family(
    media={rf"{_QWEN}|{_OMNI}|{_OTHERS}": _media, _GLM: _images},
    # This one merges patches after its tower, which sees them row by row.
    grids={_TOWERS: _tower, r"PaddleOCRVisionEncoder": partial(_tower, merged=1)},
)
