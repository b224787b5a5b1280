"""Twins-SVT: windows, and keys pooled over the whole grid, by turns."""

from anylocal_vit._family import Block, Family, Grid, Partition, Windows, pair, tiles


def _grid(block: Block) -> Grid:
    return pair((block.values["H"], block.values["W"]))


def _windows(block: Block, grid: Grid) -> Partition:
    return Partition(grid, tiles(grid, pair(block.module.ws)))


FAMILY = Family(
    layouts={"LocallyGroupedAttn.forward": lambda tensor, _: tensor.flatten(0, 1)},  # (image, window, head, …)
    windows={"LocallyGroupedAttn": Windows(_grid, _windows)},
)
