"""Where the patches of windows lie: for each way in which timm's models cut a grid of patches up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Grid: TypeAlias = tuple[int, int]
Places: TypeAlias = npt.NDArray[np.int64]
"""Shape (windows, patches): row * columns + column, -1 for padding."""


class Block(NamedTuple):
    """What cuts a grid up, and what is known of a call of it.

    Attributes
    ----------
    module : torch.nn.Module
        The block.
    size : tuple of int or None
        The shape of its input.
    values : mapping of str to object
        Locals of its attention.
    name : str
        The name of the attention's module within the block.
    lengths : (int, int)
        Queries and keys of its map.
    """

    module: Any
    size: tuple[int, ...] | None
    values: Mapping[str, Any]
    name: str
    lengths: tuple[int, int]


class Cut(NamedTuple):
    """A grid of patches that is cut up. What the queries are is None where it is what the keys are."""

    grid: Grid
    keys: Places
    query_grid: Grid | None = None
    queries: Places | None = None


def tiles(grid: Grid, window: Grid, *, shift: Grid = (0, 0), strided: bool = False) -> Places:
    """Return the windows that a grid is cut into, row by row, each row by row; padded below and to the right.

    Parameters
    ----------
    grid, window : (int, int)
        Rows and columns.
    shift : (int, int)
        By how much the grid is rolled up and to the left before, as in Swin.
    strided : bool
        Each window takes patches from all over the grid, at equal distances, as in MaxViT's grid attention.
    """
    (rows, columns), (height, width) = grid, window
    index = np.arange(rows * columns).reshape(grid)
    index = np.roll(index, (-shift[0], -shift[1]), (0, 1))
    index = np.pad(index, ((0, -rows % height), (0, -columns % width)), constant_values=-1)
    down, across = index.shape[0] // height, index.shape[1] // width
    if strided:
        cut = index.reshape(height, down, width, across).transpose(1, 3, 0, 2)
    else:
        cut = index.reshape(down, height, across, width).transpose(0, 2, 1, 3)
    return cut.reshape(-1, height * width)


def overlapping(grid: Grid, block: int, halo: int) -> Places:
    """Return square blocks of a grid, each with a halo around it; what lies outside of the grid is padding."""
    index = np.pad(np.arange(grid[0] * grid[1]).reshape(grid), halo, constant_values=-1)
    width = block + 2 * halo
    windows = np.lib.stride_tricks.sliding_window_view(index, (width, width))[::block, ::block]
    return windows.reshape(-1, width * width)


def pair(value: Any) -> Grid:
    """Return height and width, which may be given as one number."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _channels_last(block: Block) -> Grid | None:
    if block.size is not None and len(block.size) == 4:  # noqa: PLR2004  # (batch, row, column, channel)
        return block.size[1], block.size[2]
    # The first source of Swin, and forks of it, hands on a list of patches and knows how it is laid out.
    resolution = getattr(block.module, "input_resolution", None)
    return None if resolution is None else pair(resolution)


def _channels_first(block: Block) -> Grid | None:
    if block.size is not None and len(block.size) == 4:  # noqa: PLR2004  # (batch, channel, row, column)
        return block.size[2], block.size[3]
    return None


def _swin(block: Block) -> Cut | None:
    grid = _channels_last(block)
    if grid is None:
        return None
    window, shift = pair(block.module.window_size), pair(getattr(block.module, "shift_size", 0))
    return Cut(grid, tiles(grid, window, shift=shift))


def _davit(block: Block) -> Cut | None:
    grid = _channels_first(block)
    return None if grid is None else Cut(grid, tiles(grid, pair(block.module.window_size)))


def _sam(block: Block) -> Cut | None:
    window, grid = block.module.window_size, _channels_last(block)
    # Some blocks attend to the whole image.
    return Cut(grid, tiles(grid, pair(window))) if window and grid is not None else None


def _sam2(block: Block) -> Cut | None:
    grid = _channels_last(block)
    if grid is None:
        return None
    window = pair(block.module.window_size) if block.module.is_windowed else grid
    keys, stride = tiles(grid, window), block.module.q_stride
    if stride is None:
        return Cut(grid, keys)
    pooled, small = ((size[0] // stride[0], size[1] // stride[1]) for size in (grid, window))
    return Cut(grid, keys, pooled, tiles(pooled, small))


def _efficientvit(block: Block) -> Cut | None:
    grid = _channels_first(block)
    if grid is None:
        return None
    # Smaller than what was asked for where the grid is; older timm has it in the block only.
    asked = pair(getattr(block.module.attn, "resolution", block.module.window_resolution))
    return Cut(grid, tiles(grid, (min(asked[0], grid[0]), min(asked[1], grid[1]))))


def _maxvit(block: Block) -> Cut | None:
    grid = _channels_first(block) if block.module.__class__.__name__.endswith("2d") else _channels_last(block)
    if grid is None:
        return None
    by_block = getattr(block.module, "partition_block", block.name == "attn_block")
    return Cut(grid, tiles(grid, pair(block.module.partition_size), strided=not by_block))


def _mobilevit(block: Block) -> Cut | None:
    grid = _channels_first(block)
    if grid is None:
        return None
    # What does not fit is stretched, not padded. A window is what stands at one place of every patch.
    height, width = pair(block.module.patch_size)
    down, across = -(-grid[0] // height), -(-grid[1] // width)
    stretched = down * height, across * width
    return Cut(stretched, tiles(stretched, (down, across), strided=True))


def _nest(block: Block) -> Cut | None:
    grid, size = _channels_first(block), block.module.block_size
    if grid is None:
        return None
    if size * size != block.lengths[1]:
        return None
    pooled = grid if isinstance(block.module.pool, torch.nn.Identity) else (-(-grid[0] // 2), -(-grid[1] // 2))
    return Cut(pooled, tiles(pooled, (size, size)))


def _twins(block: Block) -> Cut | None:
    grid = int(block.values["H"]), int(block.values["W"])
    return Cut(grid, tiles(grid, pair(block.module.ws)))


def _iformer(block: Block) -> Cut | None:
    if not block.module.window_size:
        return None
    grid = int(block.values["Ho"]), int(block.values["Wo"])
    return Cut(grid, tiles(grid, pair(block.module.window_size)))


def _halo(block: Block) -> Cut | None:
    module, grid = block.module, (int(block.values["H"]), int(block.values["W"]))
    keys = overlapping(grid, module.block_size, module.halo_size)
    asking = grid[0] // module.block_stride, grid[1] // module.block_stride
    return Cut(grid, keys, asking, tiles(asking, pair(module.block_size_ds)))


CUTS: Final[Mapping[str, Callable[[Block], Cut | None]]] = {
    "SwinTransformerBlock": _swin,
    "SwinTransformerV2Block": _swin,
    "SwinTransformerV2CrBlock": _swin,
    "GlobalContextVitBlock": _swin,
    "TinyVitBlock": _swin,
    "SpatialBlock": _davit,
    "Block": _sam,
    "MultiScaleBlock": _sam2,
    "LocalWindowAttention": _efficientvit,
    "PartitionAttentionCl": _maxvit,
    "PartitionAttention2d": _maxvit,
    "ParallelPartitionAttention": _maxvit,
    "MobileVitBlock": _mobilevit,
    "NestLevel": _nest,
    "LocallyGroupedAttn": _twins,
    "SHMA": _iformer,
    "HaloAttn": _halo,
}
"""By the name of a block's class, how it cuts the grid up, None where it does not."""


def cutting(module: torch.nn.Module) -> Callable[[Block], Cut | None] | None:
    """Return how a module cuts the grid up that it is given, None where it does not."""
    name = type(module).__name__
    # Plain transformers call their blocks so, too.
    return CUTS.get(name) if name != "Block" or hasattr(module, "window_size") else None


def unrolled(hiera: Any, windows: int, lengths: tuple[int, int]) -> Cut | None:
    """Return where Hiera's patches stand, in an order in which each pooling takes neighbours in the list.

    Its windows are dealt out: patch n of the list belongs to window n modulo the number of windows.

    Parameters
    ----------
    hiera : torch.nn.Module
        The model.
    windows : int
        How many there are.
    lengths : (int, int)
        Queries and keys of each.
    """
    grid: Grid = (int(hiera.tokens_spatial_shape[0]), int(hiera.tokens_spatial_shape[1]))
    stride = pair(hiera.q_stride)
    order = hiera.unroll(torch.arange(grid[0] * grid[1])[None, :, None])[0, :, 0].numpy()
    down, across = np.divmod(order, grid[1])
    pooled: dict[int, tuple[Grid, Places]] = {}
    while len(down):
        dealt = (down * grid[1] + across).reshape(-1, windows).T if len(down) % windows == 0 else None
        if dealt is not None:
            pooled[dealt.shape[1]] = grid, dealt
        grid = grid[0] // stride[0], grid[1] // stride[1]
        # The first of those that are pooled stands for them, and the first of all groups stand in front.
        kept = grid[0] * grid[1]
        down, across = down[:kept] // stride[0], across[:kept] // stride[1]
    if not set(lengths) <= set(pooled):
        return None
    asking, asked = (pooled[length] for length in lengths)
    return Cut(asked[0], asked[1], asking[0], asking[1])
