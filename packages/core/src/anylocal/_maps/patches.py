"""Positions that are the patches of an image."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex, TypeGuard

import numpy as np
import numpy.typing as npt
import torch

from anylocal._maps.positions import Array, Axis, distinct, inside, named_position
from anylocal.errors import PositionError, ShapeError


@dataclass(frozen=True)
class Patches(Axis):
    """Positions that are patches of an image, row by row, behind prefix tokens such as ``cls``.

    Parameters
    ----------
    grid : (int, int)
        Rows and columns of patches.
    prefix : sequence of str
        Names of the tokens before the patches.
    image_size : (int, int), optional
        Height and width, in pixels, of the image that the model saw, with what it was padded by to whole patches.
    image_padding : (int, int), default (0, 0)
        How many of these pixels the model has added, below and to the right.

    Raises
    ------
    ShapeError
        Where the grid or the image size is not two positive integers, or two prefix tokens share a name.

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
        # A frozen dataclass leaves no other way to store what was given as a list, or as NumPy integers.
        object.__setattr__(self, "grid", _pair(self.grid, "grid", "(rows, columns)"))
        prefix: object = self.prefix
        names = (prefix,) if isinstance(prefix, str) else tuple(self.prefix)
        object.__setattr__(self, "prefix", names)
        distinct(names)
        if self.image_size is not None:
            object.__setattr__(self, "image_size", _pair(self.image_size, "image_size", "(height, width)"))
        object.__setattr__(self, "image_padding", _padding(self.image_padding))

    def __len__(self) -> int:
        return len(self.prefix) + math.prod(self.grid)

    def label(self, position: SupportsIndex, sample: int = 0) -> str:
        """Name one position: a prefix name, or the patch's row and column."""
        del sample
        cell = self.cell(position)
        return self.prefix[self._checked(position)] if cell is None else str(cell)

    def index(self, row: SupportsIndex, col: SupportsIndex) -> int:
        """Return the position of the patch in a row and a column, counted from the end where negative.

        Raises
        ------
        PositionError
            Where the grid has no such row or column.
        """
        rows, cols = self.grid
        row = inside(operator.index(row), rows, f"Row {operator.index(row)} of {self!r}")
        col = inside(operator.index(col), cols, f"Column {operator.index(col)} of {self!r}")
        return len(self.prefix) + row * cols + col

    def cell(self, position: SupportsIndex) -> tuple[int, int] | None:
        """Return the row and column of the patch at a position, None for a prefix token."""
        offset = self._checked(position) - len(self.prefix)
        return divmod(offset, self.grid[1]) if offset >= 0 else None

    def position(self, query: object, sample: int = 0) -> int:
        """Return the position that a query means: an integer, a prefix name, or a (row, column) pair.

        Raises
        ------
        NameNotFoundError
            Where no prefix token has the name.
        PositionError
            Where there is no such position, row or column.

        Examples
        --------
        >>> from anylocal.attention import Patches
        >>> patches = Patches(grid=(2, 3))
        >>> patches.position("cls"), patches.position((1, 0)), patches.position(-1)
        (0, 4, 6)
        """
        if isinstance(query, str):
            return named_position(query, self.prefix, self)
        if _is_pair(query):
            return self.index(*query)
        return super().position(query, sample)

    def box(self, query: object) -> tuple[float, float, float, float]:
        """Return (left, top, right, bottom), in pixels, of the patch that a query means (see `position`).

        The edges are fractions where the image size is no multiple of the grid.

        Raises
        ------
        ShapeError
            Where the query is a prefix token, or `image_size` is not known.
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
            (self.image_size[0] / self.grid[0], self.image_size[1] / self.grid[1]),
        )
        return col * width, row * height, (col + 1) * width, (row + 1) * height

    def split(self, values: Array) -> tuple[Array, Array]:
        """Split values along these positions into those of the prefix and a picture of the others.

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
            Where the last dimension is not `len(self)`.

        Examples
        --------
        >>> import numpy as np
        >>> from anylocal.attention import Patches
        >>> prefix, picture = Patches(grid=(2, 3)).split(np.arange(7.0))
        >>> prefix.tolist(), picture.tolist()
        ([0.0], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        """
        shape = tuple(values.shape)
        if not shape or shape[-1] != len(self):
            msg = f"Values of shape {shape} do not end in the {len(self)} positions of {self!r}."
            raise ShapeError(msg)
        count = len(self.prefix)
        return values[..., :count], values[..., count:].reshape(*shape[:-1], *self.grid)


class PlacedPatches(Axis):
    """Positions that are patches of an image in any order, behind prefix tokens: each says where it lies.

    What a window of a windowed layer holds, shifted or not; tokens that were reordered; images of several sizes in
    one batch, padded. Where all patches stand row by row, it is `Patches`.

    Parameters
    ----------
    grid : (int, int)
        Rows and columns of patches of the whole image.
    places : array of int, shape (windows, patches)
        Where each patch of each window lies: row * columns + column, and -1 for padding, which lies nowhere.
    prefix : sequence of str
        Names of the tokens before the patches of each window.
    image_size : (int, int), optional
        Height and width, in pixels, of the image that the model saw, with what it was padded by to whole patches.
    image_padding : (int, int), default (0, 0)
        How many of these pixels the model has added, below and to the right.

    Raises
    ------
    ShapeError
        Where the grid or the image size is not two positive integers, a place is outside of the grid, or two prefix
        tokens share a name.

    Examples
    --------
    Two windows of 2 × 2 patches side by side:

    >>> from anylocal.attention import PlacedPatches
    >>> axis = PlacedPatches(grid=(2, 4), places=[[0, 1, 4, 5], [2, 3, 6, 7]])
    >>> len(axis), axis.windows, axis.cell(2), axis.cell(2, sample=1)
    (4, 2, (1, 0), (1, 2))
    >>> axis.find(1, 3)
    (1, 3)
    """

    def __init__(
        self,
        grid: tuple[int, int],
        places: npt.ArrayLike | torch.Tensor,
        *,
        prefix: Sequence[str] = (),
        image_size: tuple[int, int] | None = None,
        image_padding: tuple[int, int] = (0, 0),
    ) -> None:
        self.grid = _pair(grid, "grid", "(rows, columns)")
        self.prefix = distinct((prefix,) if isinstance(prefix, str) else tuple(prefix))
        self.image_size = None if image_size is None else _pair(image_size, "image_size", "(height, width)")
        self.image_padding = _padding(image_padding)
        # A copy that nobody changes: an axis is a key like any other.
        given = places.cpu().numpy() if isinstance(places, torch.Tensor) else places
        array: npt.NDArray[np.int64] = np.array(given, dtype=np.int64)
        if array.ndim != 2 or not array.size or array.min() < -1 or array.max() >= math.prod(self.grid):  # noqa: PLR2004  # the number of axes
            msg = (
                f"places must be of shape (windows, patches), each -1 … {math.prod(self.grid) - 1} in a grid of"
                f" {self.grid}; got shape {array.shape}, from {array.min(initial=0)} to {array.max(initial=0)}."
            )
            raise ShapeError(msg)
        array.flags.writeable = False
        self.places = array
        super().__init__(len(self.prefix) + array.shape[1])

    @property
    def windows(self) -> int:
        """Number of windows (or of samples whose patches lie differently)."""
        return len(self.places)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PlacedPatches)
            and self._described == other._described
            and np.array_equal(self.places, other.places)
        )

    def __hash__(self) -> int:
        return hash((*self._described, self.places.tobytes()))

    @property
    def _described(self) -> tuple[object, ...]:
        return self.grid, self.prefix, self.image_size, self.image_padding

    def __repr__(self) -> str:
        image = "" if self.image_size is None else f", image_size={self.image_size}"
        return (
            f"PlacedPatches(grid={self.grid}, {self.windows} windows of {self.places.shape[1]},"
            f" prefix={self.prefix}{image})"
        )

    def cell(self, position: SupportsIndex, sample: int = 0) -> tuple[int, int] | None:
        """Return the row and column of the patch at a position of a window, None for a prefix token and padding."""
        offset = self._checked(position) - len(self.prefix)
        place = int(self.places[sample % self.windows, offset]) if offset >= 0 else -1
        return divmod(place, self.grid[1]) if place >= 0 else None

    def label(self, position: SupportsIndex, sample: int = 0) -> str:
        """Name one position of a window: a prefix name, the patch's row and column, or ``padding``."""
        at = self._checked(position)
        if at < len(self.prefix):
            return self.prefix[at]
        cell = self.cell(at, sample)
        return "padding" if cell is None else str(cell)

    def find(self, row: SupportsIndex, col: SupportsIndex) -> tuple[int, int]:
        """Return in which window and at which position the patch in a row and a column stands.

        Where it stands in several windows, as keys at the rim of overlapping ones do, in the first.

        Raises
        ------
        PositionError
            Where the grid has no such row or column, or no window holds the patch.
        """
        rows, cols = self.grid
        row = inside(operator.index(row), rows, f"Row {operator.index(row)} of {self!r}")
        col = inside(operator.index(col), cols, f"Column {operator.index(col)} of {self!r}")
        found = np.argwhere(self.places == row * cols + col)
        if not len(found):
            msg = f"No window of {self!r} holds the patch {(row, col)}."
            raise PositionError(msg)
        window, offset = (int(part) for part in found[0])
        return window, len(self.prefix) + offset

    def position(self, query: object, sample: int = 0) -> int:
        """Return the position that a query means in a window: an integer, a prefix name, or a (row, column) pair.

        Raises
        ------
        NameNotFoundError
            Where no prefix token has the name.
        PositionError
            Where there is no such position, or the window does not hold the patch.
        """
        if isinstance(query, str):
            return named_position(query, self.prefix, self)
        if not _is_pair(query):
            return super().position(query, sample)
        row, col = query
        self.find(row, col)  # refuses what no window holds
        place = (operator.index(row) % self.grid[0]) * self.grid[1] + operator.index(col) % self.grid[1]
        found = np.flatnonzero(self.places[sample % self.windows] == place)
        if not len(found):
            here, there = sample % self.windows, self.find(row, col)[0]
            msg = f"Window {here} of {self!r} does not hold the patch {(row, col)}; window {there} does."
            raise PositionError(msg)
        return len(self.prefix) + int(found[0])

    def picture(self, values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Put the values of the patches of all windows where they lie.

        Parameters
        ----------
        values : numpy.ndarray, shape (..., windows, len(self))

        Returns
        -------
        numpy.ndarray, shape (..., rows, columns)
            The mean where several windows hold a patch, NaN where none does. Prefix tokens and padding are left out.

        Raises
        ------
        ShapeError
            Where the last two dimensions are others.

        Examples
        --------
        >>> import numpy as np
        >>> from anylocal.attention import PlacedPatches
        >>> axis = PlacedPatches(grid=(1, 3), places=[[1, 0]], prefix=["cls"])
        >>> axis.picture(np.array([[9.0, 0.25, 0.75]])).tolist()
        [[0.75, 0.25, nan]]
        """
        if values.shape[-2:] != (self.windows, len(self)):
            msg = (
                f"Values of shape {values.shape} do not end in the {self.windows} windows and {len(self)} positions of"
                f" {self!r}."
            )
            raise ShapeError(msg)
        there = self.places >= 0
        counts = np.bincount(self.places[there], minlength=math.prod(self.grid))
        patches = values[..., len(self.prefix) :][..., there]
        sums = np.zeros((*values.shape[:-2], len(counts)), dtype=patches.dtype)
        np.add.at(sums.T, self.places[there], patches.T)
        filled = np.where(counts > 0, sums / np.maximum(counts, 1).astype(patches.dtype), np.nan)
        return filled.astype(patches.dtype).reshape(*values.shape[:-2], *self.grid)


def _pair(value: Sequence[SupportsIndex], name: str, meaning: str) -> tuple[int, int]:
    try:
        first, second = (operator.index(item) for item in value)
    except (TypeError, ValueError):
        msg = f"{name} must be {meaning}, two positive integers; got {value!r}."
        raise ShapeError(msg) from None
    if first < 1 or second < 1:
        msg = f"{name} must be {meaning}, two positive integers; got {value!r}."
        raise ShapeError(msg)
    return first, second


def _padding(value: Sequence[SupportsIndex]) -> tuple[int, int]:
    down, right = (operator.index(item) for item in value)
    if min(down, right) < 0:
        msg = f"image_padding must be (down, right), two integers of 0 or more; got {value!r}."
        raise ShapeError(msg)
    return down, right


def _is_pair(query: object) -> TypeGuard[Sequence[SupportsIndex]]:
    return isinstance(query, Sequence | np.ndarray) and len(query) == 2  # noqa: PLR2004  # the number of axes
