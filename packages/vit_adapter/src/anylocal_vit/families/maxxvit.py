"""MaxViT and CoAtNet: windows, and strided windows over the whole grid."""

from anylocal_vit._family import Block, Family, Grid, Partition, Windows, channels_first, channels_last, pair, tiles


def _partition(block: Block, grid: Grid) -> Partition:
    by_block = getattr(block.module, "partition_block", block.name == "attn_block")
    return Partition(grid, tiles(grid, pair(block.module.partition_size), strided=not by_block))


FAMILY = Family(
    windows={
        "PartitionAttentionCl": Windows(channels_last, _partition),
        "PartitionAttention2d": Windows(channels_first, _partition),
        "ParallelPartitionAttention": Windows(channels_last, _partition),
    }
)
