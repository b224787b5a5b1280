"""MobileViT: a window holds the pixels at the same place of every patch; V2 has linear attention."""

from anylocal_vit._family import LINEAR, Block, Family, Grid, Partition, Windows, channels_first, pair, tiles


def _strided_windows(block: Block, grid: Grid) -> Partition:
    height, width = pair(block.module.patch_size)
    down, across = -(-grid[0] // height), -(-grid[1] // width)
    # A grid that patches do not divide is stretched, not padded.
    stretched = down * height, across * width
    return Partition(stretched, tiles(stretched, (down, across), strided=True))


FAMILY = Family(
    windows={"MobileVitBlock": Windows(channels_first, _strided_windows)},
    unsupported={"LinearSelfAttention": LINEAR},
)
