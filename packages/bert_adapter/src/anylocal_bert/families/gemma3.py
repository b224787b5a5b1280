"""Gemma 3: an image, or a crop of it that is an image of its own, has a fixed number of tokens: averages of squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anylocal_bert._family import Family, Run, images

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    vision = model.config.vision_config
    across = int(model.config.mm_tokens_per_image**0.5)
    merged = vision.image_size // vision.patch_size // across
    yield from images(given.get("pixel_values"), vision.patch_size * merged)


FAMILY = Family(media={r"Gemma3(Model|ForConditionalGeneration)": _media})
