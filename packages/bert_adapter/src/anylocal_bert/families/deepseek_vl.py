"""DeepSeek-VL and Janus: each patch of an image has a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anylocal_bert._family import Family, Run, images

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    yield from images(given.get("pixel_values"), model.config.vision_config.patch_size)


FAMILY = Family(media={r"(DeepseekVL|Janus)(Model|ForConditionalGeneration)": _media})
