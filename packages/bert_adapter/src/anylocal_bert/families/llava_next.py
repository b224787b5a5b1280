"""LLaVA-NeXT and LLaVA-OneVision: an image is seen as a whole and in tiles, each row of which ends with a separator."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from anylocal.attention import Patches
from anylocal_bert._family import Family, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    sizes = given.get("image_sizes")
    across = model.config.vision_config.image_size // model.config.vision_config.patch_size
    # OneVision divides an image into tiles only if it is alone.
    counts = given.get("batch_num_images")
    alone = None if counts is None else [int(n) == 1 for n in counts for _ in range(int(n))]
    for source, size in enumerate(() if sizes is None else torch.as_tensor(sizes).tolist()):
        whole = Patches((across, across), prefix=(), image_size=size)
        tiles = _tiles(model, given, size, across) if alone is None or alone[source] else None
        if tiles is None:
            yield Run("image", source, whole, [*range(len(whole)), -1])
            continue
        patches = Patches(tiles, prefix=(), image_size=size)
        rows = np.pad(np.arange(len(patches)).reshape(tiles), ((0, 0), (0, 1)), constant_values=-1)
        yield Run("image", source, whole, range(len(whole)), view="overview")
        yield Run("image", source, patches, rows.ravel().tolist(), view="tiles")
    shape = given.get("pixel_values_videos")
    if shape is not None and not hasattr(model, "apply_pooling"):
        yield "how it pools the patches of a video"
    elif shape is not None:
        frame = Patches((math.ceil(across / 2),) * 2, prefix=(), image_size=(shape[-2], shape[-1]))
        for source in range(shape[0]):
            yield Run("video", source, frame, [*range(shape[1] * len(frame)), -1], shape[1])


def _tiles(model: Any, given: Mapping[str, Any], size: list[int], across: int) -> tuple[int, int] | None:
    """Return the rows and columns of the patches of all tiles, without the padding of the image; None without tiles."""
    config: Any = model.config
    theirs: Any = sys.modules[type(model).__module__]
    side = config.vision_config.image_size
    if theirs.image_size_to_num_patches(size, config.image_grid_pinpoints, side) == 1:
        return None
    down, right = theirs.get_anyres_image_grid_shape(size, config.image_grid_pinpoints, side)
    high, wide = theirs.unpad_image(torch.empty(1, down * across, right * across), size).shape[1:]
    ratio_name = given.get("vision_aspect_ratio") or str(getattr(config, "vision_aspect_ratio", ""))
    if ratio_name.startswith("anyres_max_"):
        # More features than it allows are scaled down.
        ratio = math.sqrt(high * wide / (int(ratio_name.removeprefix("anyres_max_")) * across**2))
        high, wide = (int(high // ratio), int(wide // ratio)) if ratio > 1.1 else (high, wide)  # noqa: PLR2004  # theirs
    return high, wide


FAMILY = Family(media={r"Llava(Next|NextVideo|Onevision)(Model|ForConditionalGeneration)": _media})
