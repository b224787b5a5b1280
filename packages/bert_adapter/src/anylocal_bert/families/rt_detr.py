"""RT-DETR and D-FINE, whose encoder attends within some of the feature maps of its backbone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anylocal.adapter import MapAxes
from anylocal.attention import Patches
from anylocal_bert._family import Family

if TYPE_CHECKING:
    from anylocal_bert._family import Layer


def _grids(layer: Layer) -> MapAxes | None:
    shapes, number = layer.given("").get("inputs_embeds"), re.match(r"(?:aifi|encoder)\.(\d+)\.", layer.name)
    if shapes is None or number is None:
        return None
    shape = shapes[layer.owner.encode_proj_layers[int(number[1])]]
    axis = Patches(shape[-2:], prefix=(), image_size=layer.image)
    return MapAxes(axis, axis)


FAMILY = Family(grids={r"(RTDetr(V2)?|DFine)HybridEncoder": _grids})
