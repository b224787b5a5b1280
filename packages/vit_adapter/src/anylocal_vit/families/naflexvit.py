"""NaFlexViT: images of several sizes in one batch, whose patches come with their coordinates."""

from collections.abc import Mapping
from typing import Any

import torch

from anylocal.attention import PlacedPatches
from anylocal_vit._family import Family


def _positions(inputs: Mapping[str, Any], prefix: tuple[str, ...]) -> PlacedPatches | None:
    inputs = next((value for value in inputs.values() if isinstance(value, dict)), inputs)
    coordinates, valid = inputs.get("patch_coord"), inputs.get("patch_valid")
    if not isinstance(coordinates, torch.Tensor):
        return None
    rows, columns = (int(last) + 1 for last in coordinates.amax((0, 1)))
    # Padding is marked by a mask, or by negative coordinates.
    padding = ~valid.bool() if isinstance(valid, torch.Tensor) else (coordinates < 0).any(-1)
    places = (coordinates[..., 0] * columns + coordinates[..., 1]).masked_fill(padding, -1)
    return PlacedPatches((rows, columns), places, prefix=prefix)


FAMILY = Family(positions=_positions, inputs=("patch_coord", "patch_valid"))
