"""InternVL: squares of patches are merged; a large image is divided into tiles, and seen as a whole after these."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from anylocal_bert._family import Family, Run, images

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    patch = model.config.vision_config.patch_size
    side = round((patch[0] if isinstance(patch, (list, tuple)) else patch) / model.config.downsample_ratio)
    tiles = images(given.get("pixel_values"), side)
    stands = given["input_ids"] == given["tokens"]["image"]
    # The tokens of all tiles of an image follow each other; other tokens are between images.
    lengths = [len([*run]) for row in stands.tolist() for is_image, run in groupby(row) if is_image]
    for source, length in enumerate(lengths):
        left = length
        while left > 0 and (tile := next(tiles, None)) is not None:
            view = f"tile {(length - left) // len(tile.cells)}" if length > len(tile.cells) else ""
            left -= len(tile.cells)
            yield tile._replace(source=source, view=view)


FAMILY = Family(media={r"InternVL(Model|ForConditionalGeneration)": _media})
