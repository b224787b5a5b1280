"""Hiera: patches in an order in which pooling takes neighbours in the list, and windows interleaved in it."""

import math
from typing import Any

import numpy as np
import torch

from anylocal_vit._family import Block, Family, Grid, Partition, Places, Windows, pair


def _grid(block: Block) -> Grid | None:
    return pair(block.model.tokens_spatial_shape) if hasattr(block.model, "unroll") else None


def _unrolled(block: Block, grid: Grid) -> Partition | None:
    """Return the windows at the stages of pooling whose lengths are those of the map's queries and keys."""
    in_windows = getattr(block.module, "use_mask_unit_attn", False)
    by_length = dict(_stages(block.model, grid, math.prod(block.model.mask_spatial_shape) if in_windows else 1))
    queries, keys = map(by_length.get, block.shape[2:])
    return None if queries is None or keys is None else Partition(*keys, *queries)


def _stages(model: Any, grid: Grid, windows: int) -> list[tuple[int, tuple[Grid, Places]]]:
    """Return the length of a window, the grid and the places of patches at each stage of pooling.

    Windows are interleaved: patch n of the list belongs to window n modulo the number of windows.
    """
    stages, stride = [], pair(model.q_stride)
    order = model.unroll(torch.arange(grid[0] * grid[1])[None, :, None])[0, :, 0].numpy()
    down, across = np.divmod(order, grid[1])
    while len(down):
        if len(down) % windows == 0:
            places = (down * grid[1] + across).reshape(-1, windows).T
            stages.append((places.shape[1], (grid, places)))
        grid = grid[0] // stride[0], grid[1] // stride[1]
        # The first patch of each pooled group stands for it, and these come first in the list.
        kept = grid[0] * grid[1]
        down, across = down[:kept] // stride[0], across[:kept] // stride[1]
    return stages


FAMILY = Family(windows={"MaskUnitAttention": Windows(_grid, _unrolled)})
