"""iFormer: one head, in windows where the grid is large."""

from anylocal_vit._family import Block, Family, Grid, Windows, one_head, pair, window_size


def _grid(block: Block) -> Grid | None:
    # Only in windows are the locals bound.
    return pair((block.values["Ho"], block.values["Wo"])) if block.module.window_size else None


FAMILY = Family(
    layouts={"SHMA.forward": one_head},
    windows={"SHMA": Windows(_grid, window_size)},
    locals=("Ho", "Wo"),
)
