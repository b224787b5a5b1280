"""NesT: blocks, fewer from level to level."""

import torch

from anylocal_vit._family import Block, Family, Grid, Partition, Windows, channels_first, tiles


def _blocks(block: Block, grid: Grid) -> Partition | None:
    size = block.module.block_size
    if size * size != block.shape[3]:
        return None
    pooled = grid if isinstance(block.module.pool, torch.nn.Identity) else (-(-grid[0] // 2), -(-grid[1] // 2))
    return Partition(pooled, tiles(pooled, (size, size)))


FAMILY = Family(windows={"NestLevel": Windows(channels_first, _blocks)})
