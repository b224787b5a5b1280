"""DETR and others whose encoder and cross-attention see the last feature map of a backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anylocal.adapter import MapAxes
from anylocal.attention import Patches
from anylocal_bert._family import Family

if TYPE_CHECKING:
    from anylocal_bert._family import Layer


def _grids(layer: Layer) -> MapAxes | None:
    shape, given = layer.given("input_projection"), layer.given("").get("pixel_values")
    if shape is None or given is None:
        return None
    # The convolution changes channels only.
    memory = Patches(shape[-2:], prefix=(), image_size=given[-2:])
    if layer.name.startswith("encoder."):
        return MapAxes(memory, memory)
    return MapAxes(None, memory) if "encoder_attn" in layer.name or "cross_attn" in layer.name else None


FAMILY = Family(grids={r"(Detr|ConditionalDetr|TableTransformer|DabDetr)Model": _grids})
