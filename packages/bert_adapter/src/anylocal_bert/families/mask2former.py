"""MaskFormer and Mask2Former: queries attend to a feature map, of one level or of several by turns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anylocal.adapter import MapAxes
from anylocal.attention import Patches
from anylocal_bert._family import Family

if TYPE_CHECKING:
    from anylocal_bert._family import Layer


def _last(layer: Layer) -> MapAxes | None:
    shape = layer.given("").get("image_features")
    if shape is None or "encoder_attn" not in layer.name:
        return None
    return MapAxes(None, Patches(shape[-2:], prefix=(), image_size=layer.image))


def _levels(layer: Layer) -> MapAxes | None:
    shapes, number = layer.given("").get("multi_scale_features"), re.search(r"layers\.(\d+)\.cross_attn", layer.name)
    if shapes is None or number is None:
        return None
    shape = shapes[int(number[1]) % layer.owner.num_feature_levels]
    return MapAxes(None, Patches(shape[-2:], prefix=(), image_size=layer.image))


FAMILY = Family(grids={r"MaskFormerTransformerModule": _last, r"Mask2FormerTransformerModule": _levels})
