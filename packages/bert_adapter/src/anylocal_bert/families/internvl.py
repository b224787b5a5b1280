"""InternVL and others whose image is divided into tiles of one size, and seen as a whole after these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from anylocal_bert._family import Family, Run, images

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_APART: Final = {"AyaVision": 1, "Cohere2Vision": 1}
"""How many tokens are between the tiles of an image, where there are some; more are between two images."""


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    patch, config = model.config.vision_config.patch_size, model.config
    side = patch[0] if isinstance(patch, (list, tuple)) else patch
    # Some name the factor, some its inverse.
    ratio = getattr(config, "downsample_ratio", 1.0)
    tiles = [*images(given.get("pixel_values"), round(side / ratio) * getattr(config, "downsample_factor", 1))]
    stands = (given["input_ids"] == given["tokens"]["image"]).tolist()
    apart = next((apart for name, apart in _APART.items() if type(model).__name__.startswith(name)), 0)
    lengths = (length for row in stands for length in _lengths(row, apart))
    at = 0
    for source, length in enumerate(lengths):
        own = tiles[at : at + -(-length // len(tiles[0].cells))] if tiles else []
        at += len(own)
        for number, tile in enumerate(own):
            yield tile._replace(source=source, view=f"tile {number}" if len(own) > 1 else "")


def _lengths(row: Iterable[bool], apart: int) -> Iterator[int]:
    """Yield how many placeholders each image of a text has: those of its tiles are at most so many tokens apart."""
    length = gap = 0
    for stands in row:
        gap = 0 if stands else gap + 1
        if length and gap > apart:
            yield length
            length = 0
        length += stands
    if length:
        yield length


FAMILY = Family(media={r"(InternVL|AyaVision|Cohere2Vision)(Model|ForConditionalGeneration)": _media})
