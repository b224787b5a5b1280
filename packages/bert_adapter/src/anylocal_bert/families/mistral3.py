"""Mistral 3 and LightOnOCR: Pixtral's patches, of which squares are merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anylocal_bert._family import Family, Run, sized

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    if given.get("image_sizes") is not None:
        yield from sized(given["image_sizes"], model.config.vision_config.patch_size * model.config.spatial_merge_size)


FAMILY = Family(media={r"(Mistral3|LightOnOcr)(Model|ForConditionalGeneration)": _media})
