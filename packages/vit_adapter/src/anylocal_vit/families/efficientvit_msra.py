"""EfficientViT of Microsoft: windows, and heads computed one after the other, each given the output of the last."""

from anylocal import Assignment
from anylocal.adapter import Reading
from anylocal_vit._family import Block, Family, Grid, Partition, Windows, channels_first, pair, tiles


def _windows(block: Block, grid: Grid) -> Partition:
    # The attention's own resolution is no larger than the grid; older timm keeps it in the block only.
    rows, columns = pair(getattr(block.module.attn, "resolution", block.module.window_resolution))
    return Partition(grid, tiles(grid, (min(rows, grid[0]), min(columns, grid[1]))))


FAMILY = Family(
    readings={
        "CascadedGroupAttention.forward": Reading(
            weights=Assignment("attn", "softmax", "attn = softmax(…)"), head_by_head=True
        )
    },
    windows={"LocalWindowAttention": Windows(channels_first, _windows)},
)
