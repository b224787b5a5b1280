"""ByoaNet, and all networks whose attention layers `timm.layers.create_attn` makes."""

from typing import Any

import numpy as np
import torch

from anylocal_vit._family import GATE, Block, Family, Grid, Partition, Places, Windows, one_head, pair, tiles


def overlapping(grid: Grid, block: int, halo: int) -> Places:
    """Return square blocks of a grid, each with a halo around it; outside the grid it is padding."""
    index = np.pad(np.arange(grid[0] * grid[1]).reshape(grid), halo, constant_values=-1)
    width = block + 2 * halo
    windows = np.lib.stride_tricks.sliding_window_view(index, (width, width))[::block, ::block]
    return windows.reshape(-1, width * width)


def _grid(block: Block) -> Grid:
    return pair((block.values["H"], block.values["W"]))


def _blocks_with_halo(block: Block, grid: Grid) -> Partition:
    module = block.module
    query_grid = grid[0] // module.block_stride, grid[1] // module.block_stride
    keys = overlapping(grid, module.block_size, module.halo_size)
    return Partition(grid, keys, query_grid, tiles(query_grid, pair(module.block_size_ds)))


def _heads_in_batch(tensor: torch.Tensor, module: Any) -> torch.Tensor:
    """(image × head, block, query, key)."""
    return tensor.unflatten(0, (-1, module.num_heads)).transpose(1, 2).flatten(0, 1)  # type: ignore[no-any-return]  # torch leaves `unflatten` untyped


FAMILY = Family(
    layouts={"HaloAttn.forward": _heads_in_batch, "NonLocalAttn.forward": one_head},
    windows={"HaloAttn": Windows(_grid, _blocks_with_halo)},
    unsupported={
        "LambdaLayer": "a lambda layer, which summarises all positions before a query is asked",
        "BilinearAttnTransform": "a bilinear transform of rows and columns",
        **dict.fromkeys(("SplitAttn", "SelectiveKernelAttn", "GlobalContext", "GatherExcite", "CoordAttn"), GATE),
        **dict.fromkeys(("ChannelAttn", "LightChannelAttn", "SpatialAttn", "LightSpatialAttn"), GATE),
        **dict.fromkeys(("EcaModule", "CecaModule"), GATE),
    },
)
