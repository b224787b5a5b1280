"""TNT: attention of the pixels within each patch, and of the patches."""

import math

from anylocal_vit._family import Block, Family, Grid, Partition, Windows, grid_of, tiles


def _pixels(block: Block) -> Grid | None:
    """Return the grid of pixels, each patch of which is a window."""
    if block.name != "attn_in" or block.image is None:
        return None
    batch, _, _, keys = block.shape
    patches, side = grid_of(batch // block.image[0], block.image[1]), math.isqrt(keys)
    return None if patches is None or side * side != keys else (patches[0] * side, patches[1] * side)


def _patches(block: Block, grid: Grid) -> Partition:
    side = math.isqrt(block.shape[3])
    return Partition(grid, tiles(grid, (side, side)))


FAMILY = Family(windows={"Block": Windows(_pixels, _patches, having="attn_in")})
