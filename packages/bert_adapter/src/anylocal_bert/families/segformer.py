"""SegFormer: each stage has a grid of its own, whose keys a convolution of each layer may merge."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from anylocal.adapter import MapAxes
from anylocal.attention import Patches
from anylocal_bert._family import Family, convolved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anylocal_bert._family import Layer


def _grids(layer: Layer) -> MapAxes | None:
    stage = re.search(r"\d+", layer.name)
    given = layer.given("").get("pixel_values")
    if stage is None or given is None:
        return None
    convolutions: Iterator[tuple[str, Any]] = (
        (name, part) for name, part in layer.owner.named_modules() if isinstance(part, torch.nn.Conv2d)
    )
    queries = merged = None
    for name, part in convolutions:
        own = re.search(r"\d+", name)
        if "patch_embeddings" in name and own is not None and own[0] == stage[0]:
            queries = convolved(part, layer.given(name))
        elif name.startswith(f"{layer.name}."):
            merged = convolved(part, layer.given(name))
    size = given[-2:]
    if queries is None:
        return None
    keys = Patches(merged or queries, prefix=(), image_size=size)
    return MapAxes(Patches(queries, prefix=(), image_size=size), keys)


FAMILY = Family(grids={r"SegformerModel": _grids})
