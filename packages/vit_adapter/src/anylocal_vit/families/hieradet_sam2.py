"""SAM 2's image encoder: windows in most blocks, and pooled queries between stages."""

from anylocal_vit._family import Block, Family, Grid, Partition, Windows, channels_last, pair, tiles


def _pooling_windows(block: Block, grid: Grid) -> Partition:
    window = pair(block.module.window_size) if block.module.is_windowed else grid
    keys, stride = tiles(grid, window), block.module.q_stride
    if stride is None:
        return Partition(grid, keys)
    query_grid, query_window = ((size[0] // stride[0], size[1] // stride[1]) for size in (grid, window))
    return Partition(grid, keys, query_grid, tiles(query_grid, query_window))


FAMILY = Family(windows={"MultiScaleBlock": Windows(channels_last, _pooling_windows)})
