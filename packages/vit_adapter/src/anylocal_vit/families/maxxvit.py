"""MaxViT and CoAtNet: windows, and strided windows over the whole grid; torchvision's MaxViT names them otherwise."""

from anylocal_vit._family import Block, Family, Grid, Partition, Windows, channels_first, channels_last, pair, tiles


def _partition(block: Block, grid: Grid) -> Partition:
    by_block = getattr(block.module, "partition_block", block.name == "attn_block")
    return Partition(grid, tiles(grid, pair(block.module.partition_size), strided=not by_block))


def _grid_of_torchvision(block: Block) -> Grid:
    return pair(block.module.grid_size)


def _of_torchvision(block: Block, grid: Grid) -> Partition:
    """Divide a grid into squares; the strided windows hold what has the same place in each."""
    side = block.module.p
    if block.module.partition_type == "window":
        return Partition(grid, tiles(grid, (side, side)))
    return Partition(grid, tiles(grid, (grid[0] // side, grid[1] // side), strided=True))


FAMILY = Family(
    # (image, window, head, …)
    layouts={"RelativePositionalMultiHeadAttention.forward": lambda tensor, _: tensor.flatten(0, 1)},
    windows={
        "PartitionAttentionCl": Windows(channels_last, _partition),
        "PartitionAttention2d": Windows(channels_first, _partition),
        "ParallelPartitionAttention": Windows(channels_last, _partition),
        "PartitionAttentionLayer": Windows(_grid_of_torchvision, _of_torchvision, having="partition_type"),
    },
)
