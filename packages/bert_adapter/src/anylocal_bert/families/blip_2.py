"""BLIP-2 and others whose tokens of an image are queries that a model learned, each of which attends to all patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anylocal_bert._family import Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[str]:  # noqa: ARG001  # as `Family.media` has it
    yield "its tokens of an image are learned queries of all patches, see the maps of their cross-attention"


FAMILY = Family(media={r"(Blip2|InstructBlip(Video)?|Idefics2|Aria)(Model|ForConditionalGeneration)": _media})
