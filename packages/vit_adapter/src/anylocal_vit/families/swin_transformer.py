"""Swin: windows, shifted in every other block; torchvision's attention divides the grid itself."""

from anylocal_vit._family import Block, Family, Grid, Partition, Windows, channels_last, pair, tiles, window_size


def _of_torchvision(block: Block, grid: Grid) -> Partition | None:
    """Divide a grid as torchvision does, which pads before it rolls; a grid of one window is not rolled."""
    window = pair(block.module.window_size)
    padded = tuple(-(-length // size) * size for length, size in zip(grid, window, strict=True))
    shifts = zip(pair(block.module.shift_size), padded, window, strict=True)
    down, across = (0 if size >= length else shift for shift, length, size in shifts)
    if (down or across) and padded != grid:
        return None
    return Partition(grid, tiles(grid, window, shift=(down, across)))


FAMILY = Family(
    windows={
        "SwinTransformerBlock": Windows(channels_last, window_size, having="window_size"),
        "ShiftedWindowAttention": Windows(channels_last, _of_torchvision, having="shift_size"),
        "ShiftedWindowAttentionV2": Windows(channels_last, _of_torchvision, having="shift_size"),
    }
)
