"""YOLO12, of ultralytics: areas, which are runs of as many positions each, row by row."""

import numpy as np

from anylocal_vit._family import Block, Family, Grid, Partition, Windows, pair


def _grid(block: Block) -> Grid | None:
    rows, columns = block.values.get("H"), block.values.get("W")
    return None if rows is None or columns is None else pair((rows, columns))


def _areas(block: Block, grid: Grid) -> Partition | None:
    area, positions = block.module.area, grid[0] * grid[1]
    return Partition(grid, np.arange(positions).reshape(area, -1)) if positions % area == 0 else None


FAMILY = Family(windows={"AAttn": Windows(_grid, _areas, having="area")})
