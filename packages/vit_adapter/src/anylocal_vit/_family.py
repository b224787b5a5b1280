"""The vocabulary of `families`: the tables of a family, and windows into which blocks divide a grid of patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from anylocal import Call
    from anylocal.adapter import Mixed, Reading
    from anylocal.attention import AttentionMap, Axis, PlacedPatches

Grid: TypeAlias = tuple[int, int]
Places: TypeAlias = npt.NDArray[np.int64]
"""Shape (windows, patches): row * columns + column, -1 for padding."""

# Kinds of attention without a map, in several families.
CHANNELS: Final = "attention of channels with channels, which has no map of positions"
LINEAR: Final = "linear attention, which never relates a query to a key"
GATE: Final = "a gate, which weighs channels or positions without a query"


class Block(NamedTuple):
    """A module that divides its input into windows: one around an attention layer, or the layer itself."""

    module: Any
    input_shape: tuple[int, ...] | None  # where it was observed
    name: str  # of the attention layer within the block
    values: Mapping[str, Any]  # locals of the attention function
    shape: tuple[int, ...]  # of the map: (batch, head, query, key)
    model: Any
    image: tuple[int, Grid] | None  # number of images, and their height and width


class Partition(NamedTuple):
    """A grid of patches and its windows. The queries are those of `keys` where they have no grid of their own."""

    grid: Grid
    keys: Places
    query_grid: Grid | None = None
    queries: Places | None = None


class Windows(NamedTuple):
    """How the blocks of one class divide their input."""

    grid: Callable[[Block], Grid | None]  # None where the block is given no grid
    partition: Callable[[Block, Grid], Partition | None]  # None where the block attends to the whole grid
    having: str = ""  # an attribute that tells the blocks from other families' classes of the same name

    def of(self, block: Block) -> Partition | None:
        """Return how a block divides its input, None where it does not."""
        grid = self.grid(block)
        return None if grid is None else self.partition(block, grid)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Knowledge of one family, by the names of its classes and functions, which forks keep.

    Attributes
    ----------
    readings : mapping of str to Reading
        By function, such as ``"Attention.forward"``: how its map is read, if its source does not tell.
    layouts : mapping of str to callable
        By function: from a tensor and the module to an operand as (batch, head, position, feature), or a softmax as
        (batch, head, query, key).
    mixed : mapping of str to callable
        By function: what a fused layer makes of its maps, None if that cannot be computed.
    windows : mapping of str to Windows
        By class of a block: how it divides a grid of patches into windows.
    keys : mapping of str to callable
        By class of a layer: from the module, the grid of its queries and the number of its keys to the axis of its
        keys, None if they are a grid.
    positions : callable, optional
        From inputs and prefix tokens to the places of patches that the model was given, None if it was not.
    inputs : tuple of str
        The names of these inputs.
    locals : tuple of str
        Locals of attention functions that the entries above read.
    unsupported : mapping of str to str
        By class of an attention layer without a map: what it is instead.
    """

    readings: Mapping[str, Reading] = field(default_factory=dict)
    layouts: Mapping[str, Callable[[torch.Tensor, Any], torch.Tensor]] = field(default_factory=dict)
    mixed: Mapping[str, Callable[[Call, AttentionMap], Mixed]] = field(default_factory=dict)
    windows: Mapping[str, Windows] = field(default_factory=dict)
    keys: Mapping[str, Callable[[Any, Grid, int], Axis | None]] = field(default_factory=dict)
    positions: Callable[[Mapping[str, Any], tuple[str, ...]], PlacedPatches | None] | None = None
    inputs: tuple[str, ...] = ()
    locals: tuple[str, ...] = ()
    unsupported: Mapping[str, str] = field(default_factory=dict)


def channels_last(block: Block) -> Grid | None:
    """Return rows and columns of an input of shape (batch, row, column, channel)."""
    if block.input_shape is not None and len(block.input_shape) == 4:  # noqa: PLR2004  # the number of axes
        return block.input_shape[1], block.input_shape[2]
    # The original source of Swin, and its forks, pass on a list of patches and keep its rows and columns.
    resolution = getattr(block.module, "input_resolution", None)
    return None if resolution is None else pair(resolution)


def channels_first(block: Block) -> Grid | None:
    """Return rows and columns of an input of shape (batch, channel, row, column)."""
    if block.input_shape is not None and len(block.input_shape) == 4:  # noqa: PLR2004  # the number of axes
        return block.input_shape[2], block.input_shape[3]
    return None


def window_size(block: Block, grid: Grid) -> Partition | None:
    """Divide a grid by the block's `window_size`, of which 0 stands for the whole grid, and roll it by `shift_size`."""
    size, shift = block.module.window_size, getattr(block.module, "shift_size", 0)
    return Partition(grid, tiles(grid, pair(size), shift=pair(shift))) if size else None


def tiles(grid: Grid, window: Grid, *, shift: Grid = (0, 0), strided: bool = False) -> Places:
    """Return the windows that a grid is divided into, in row-major order; padded below and to the right.

    With `shift`, the grid is first rolled up and to the left, as in Swin. If `strided`, each window takes patches from
    all over the grid, at equal distances, as in MaxViT's grid attention.
    """
    (rows, columns), (height, width) = grid, window
    index = np.arange(rows * columns).reshape(grid)
    index = np.roll(index, (-shift[0], -shift[1]), (0, 1))
    index = np.pad(index, ((0, -rows % height), (0, -columns % width)), constant_values=-1)
    down, across = index.shape[0] // height, index.shape[1] // width
    if strided:
        divided = index.reshape(height, down, width, across).transpose(1, 3, 0, 2)
    else:
        divided = index.reshape(down, height, across, width).transpose(0, 2, 1, 3)
    return divided.reshape(-1, height * width)


def pair(value: Any) -> Grid:
    """Return height and width, which may be given as one number."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def grid_of(patches: int, size: Grid) -> Grid | None:
    """Return the rows and columns of a number of patches in an image, or a feature map, of this size.

    Examples
    --------
    >>> grid_of(49, (224, 224)), grid_of(12, (96, 128)), grid_of(50, (224, 224))
    ((7, 7), (3, 4), None)
    """
    height, width = size
    # Where a stride does not divide the size, some models round up, others round down or drop the edge.
    rounded_up = ((-(-height // stride), -(-width // stride)) for stride in range(1, max(size) + 1))
    found = next((grid for grid in rounded_up if math.prod(grid) == patches), None)
    pairs = ((rows, patches // rows) for rows in range(1, patches + 1) if patches % rows == 0)
    return found or next((grid for grid in pairs if abs(grid[1] - grid[0] * width / height) < 1), None)


def one_head(tensor: torch.Tensor, _module: Any) -> torch.Tensor:
    """Add the axis of heads that a layer of one head leaves out."""
    return tensor if tensor.ndim == 4 else tensor.unsqueeze(1)  # noqa: PLR2004  # the number of axes
