"""Llama 4: an image is divided into tiles, with separators after each and after each row, and seen as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from anylocal.attention import Patches
from anylocal_bert._family import Family, Run, tiled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_APART: Final = 2
"""Tokens between the last tile and the whole image: a separator of rows and a mark. Two images are further apart."""


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    shape = given.get("pixel_values")
    if shape is None:
        return
    side = round(model.config.vision_config.patch_size / model.config.vision_config.pixel_shuffle_ratio)
    tile = Patches((shape[-2] // side, shape[-1] // side), prefix=(), image_size=(shape[-2], shape[-1]))
    found = (image for row in given["input_ids"] for image in _images(row.tolist(), given["tokens"]["image"], tile))
    for source, separators in enumerate(found):
        if separators:
            columns = separators.index(separators[-1]) + 1
            if separators != [*separators[: columns - 1], separators[-1]] * (len(separators) // columns):
                yield "in how many columns its tiles are, whose separators differ"
                return
            places = [(number // columns + 1, number % columns + 1) for number in range(len(separators))]
            yield tiled(source, tile, places)
        yield Run("image", source, tile, range(len(tile)), view="overview" if separators else "")


def _images(row: Sequence[int], token: int, tile: Patches) -> Iterator[list[int]]:
    """Yield the separator after each tile of an image, for each image of a text."""
    starts = [at for at, each in enumerate(row) if each == token][:: len(tile)]
    separators: list[int] = []
    for start, following in zip(starts, [*starts[1:], len(row) + _APART + 1], strict=True):
        end = start + len(tile)
        if following - end <= _APART:
            separators.append(row[end])
        else:
            yield separators
            separators = []


FAMILY = Family(media={r"Llama4ForConditionalGeneration": _media})
