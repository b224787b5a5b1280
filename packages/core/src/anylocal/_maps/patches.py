"""Positions that are the patches of an image, row by row."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import SupportsIndex, TypeGuard

import numpy as np

from anylocal._maps.bounds import inside
from anylocal._maps.positions import Array, Axis, distinct, named_position
from anylocal.errors import ShapeError


@dataclass(frozen=True)
class Patches(Axis):
    """Positions that are patches of an image, row by row, after prefix tokens such as ``cls``.

    Parameters
    ----------
    grid : (int, int)
        Rows and columns of patches.
    prefix : sequence of str
        Names of the tokens before the patches.
    image_size : (int, int), optional
        Height and width in pixels of the image that the model saw, including the padding to whole patches.
    image_padding : (int, int), default (0, 0)
        Pixels of padding in it, below and to the right.

    Raises
    ------
    ShapeError
        If the grid or the image size is not two positive integers, or two prefix tokens share a name.

    Examples
    --------
    >>> from anylocal.attention import Patches
    >>> patches = Patches(grid=(14, 14), image_size=(224, 224))
    >>> len(patches), patches.label(0), patches.index(0, 1), patches.cell(2)
    (197, 'cls', 2, (0, 1))
    >>> patches.box((0, 1))
    (16.0, 0.0, 32.0, 16.0)
    """

    grid: tuple[int, int]
    prefix: tuple[str, ...] = ("cls",)
    image_size: tuple[int, int] | None = None
    image_padding: tuple[int, int] = field(default=(0, 0), repr=False)

    def __post_init__(self) -> None:
        # Lists and NumPy's integers are converted; a frozen dataclass allows no plain assignment.
        object.__setattr__(self, "grid", pair_of(self.grid, "grid", "(rows, columns)"))
        prefix: object = self.prefix
        names = (prefix,) if isinstance(prefix, str) else tuple(self.prefix)
        object.__setattr__(self, "prefix", names)
        distinct(names)
        if self.image_size is not None:
            object.__setattr__(self, "image_size", pair_of(self.image_size, "image_size", "(height, width)"))
        object.__setattr__(self, "image_padding", padding_of(self.image_padding))

    def __len__(self) -> int:
        return len(self.prefix) + math.prod(self.grid)

    def label(self, position: SupportsIndex, sample: int = 0) -> str:
        """Return the label of a position: a prefix name, or the patch's row and column."""
        del sample
        cell = self.cell(position)
        return self.prefix[self._checked(position)] if cell is None else str(cell)

    def index(self, row: SupportsIndex, col: SupportsIndex) -> int:
        """Return the position of the patch in a row and a column, counted from the end if negative.

        Raises
        ------
        PositionError
            If the row or the column is out of range.
        """
        return len(self.prefix) + checked_place(row, col, self.grid, self)

    def cell(self, position: SupportsIndex) -> tuple[int, int] | None:
        """Return the row and column of the patch at a position, None for a prefix token."""
        offset = self._checked(position) - len(self.prefix)
        return divmod(offset, self.grid[1]) if offset >= 0 else None

    def position(self, query: object, sample: int = 0) -> int:
        """Return the position that a query means: an integer, a prefix name, or a (row, column) pair.

        Raises
        ------
        NameNotFoundError
            If no prefix token has the name.
        PositionError
            If the position, row or column is out of range.

        Examples
        --------
        >>> from anylocal.attention import Patches
        >>> patches = Patches(grid=(2, 3))
        >>> patches.position("cls"), patches.position((1, 0)), patches.position(-1)
        (0, 4, 6)
        """
        if isinstance(query, str):
            return named_position(query, self.prefix, self)
        if is_pair(query):
            return self.index(*query)
        return super().position(query, sample)

    def box(self, query: object) -> tuple[float, float, float, float]:
        """Return (left, top, right, bottom), in pixels, of the patch that a query means (see `position`).

        The edges are fractions if the image size is not a multiple of the grid.

        Raises
        ------
        ShapeError
            If the query is a prefix token, or `image_size` is not known.
        """
        position = self.position(query)
        cell = self.cell(position)
        if cell is None:
            msg = f"{self.prefix[position]!r} is a prefix token of {self!r} and covers no pixels."
            raise ShapeError(msg)
        if self.image_size is None:
            msg = f"{self!r} does not know its image; give image_size=(height, width) in pixels."
            raise ShapeError(msg)
        (row, col), (height, width) = (
            cell,
            (size / count for size, count in zip(self.image_size, self.grid, strict=True)),
        )
        return col * width, row * height, (col + 1) * width, (row + 1) * height

    def split(self, values: Array) -> tuple[Array, Array]:
        """Split values along these positions into those of the prefix tokens and a picture of the patches.

        Parameters
        ----------
        values : torch.Tensor or numpy.ndarray, shape (..., len(self))

        Returns
        -------
        prefix : same type, shape (..., len(self.prefix))
        picture : same type, shape (..., rows, cols)

        Raises
        ------
        ShapeError
            If the last dimension is not `len(self)`.

        Examples
        --------
        >>> import numpy as np
        >>> from anylocal.attention import Patches
        >>> prefix, picture = Patches(grid=(2, 3)).split(np.arange(7.0))
        >>> prefix.tolist(), picture.tolist()
        ([0.0], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        """
        return split_along(self, self.prefix, self.grid, values)


def split_along(axis: Axis, prefix: Sequence[str], grid: Sequence[int], values: Array) -> tuple[Array, Array]:
    """Return values along an axis of patches as those of its prefix tokens, and those of its grid."""
    shape = tuple(values.shape)
    if not shape or shape[-1] != len(axis):
        msg = f"Values of shape {shape} do not end in the {len(axis)} positions of {axis!r}."
        raise ShapeError(msg)
    count = len(prefix)
    return values[..., :count], values[..., count:].reshape(*shape[:-1], *grid)


def checked_place(row: SupportsIndex, col: SupportsIndex, grid: tuple[int, int], of: Axis) -> int:
    """Return row * columns + column, after a check of both; negative ones count from the end."""
    return inside(row, grid[0], "row", of=of) * grid[1] + inside(col, grid[1], "column", of=of)


def pair_of(value: Sequence[SupportsIndex], name: str, meaning: str) -> tuple[int, int]:
    try:
        first, second = (operator.index(item) for item in value)
    except (TypeError, ValueError):
        first = second = 0
    if first < 1 or second < 1:
        msg = f"{name} must be {meaning}, two positive integers; got {value!r}."
        raise ShapeError(msg)
    return first, second


def padding_of(value: Sequence[SupportsIndex]) -> tuple[int, int]:
    down, right = (operator.index(item) for item in value)
    if min(down, right) < 0:
        msg = f"image_padding must be (down, right), two non-negative integers; got {value!r}."
        raise ShapeError(msg)
    return down, right


def is_pair(query: object) -> TypeGuard[Sequence[SupportsIndex]]:
    return isinstance(query, Sequence | np.ndarray) and len(query) == 2  # noqa: PLR2004  # the number of axes
