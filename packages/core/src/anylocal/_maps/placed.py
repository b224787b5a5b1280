"""Positions that are patches of an image, each with its own place in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import torch

from anylocal._maps.patches import checked_place, is_pair, padding_of, pair_of
from anylocal._maps.positions import Axis, distinct, named_position
from anylocal.errors import PositionError, ShapeError


class PlacedPatches(Axis):
    """Positions that are patches of an image in any order, after prefix tokens; each knows its place.

    For windowed layers, shifted or not; reordered tokens; images of several sizes in one padded batch. For patches that
    simply stand row by row, use `Patches`.

    Parameters
    ----------
    grid : (int, int)
        Rows and columns of patches of the whole image.
    places : array of int, shape (windows, patches)
        Place of each patch of each window: row * columns + column, or -1 for padding.
    prefix : sequence of str
        Names of the tokens before the patches of each window.
    image_size : (int, int), optional
        Height and width in pixels of the image that the model saw, including the padding to whole patches.
    image_padding : (int, int), default (0, 0)
        Pixels of padding in it, below and to the right.

    Raises
    ------
    ShapeError
        If the grid or the image size is not two positive integers, a place is outside the grid, or two prefix tokens
        share a name.

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
        self.grid = pair_of(grid, "grid", "(rows, columns)")
        self.prefix = distinct((prefix,) if isinstance(prefix, str) else tuple(prefix))
        self.image_size = None if image_size is None else pair_of(image_size, "image_size", "(height, width)")
        self.image_padding = padding_of(image_padding)
        # A read-only copy: an axis can be the key of a dict.
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
        """Number of windows (or of samples, if their patches are placed differently)."""
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
        """Return the row and column of the patch at a position of a window, None for a prefix token or padding."""
        offset = self._checked(position) - len(self.prefix)
        place = int(self.places[sample % self.windows, offset]) if offset >= 0 else -1
        return divmod(place, self.grid[1]) if place >= 0 else None

    def label(self, position: SupportsIndex, sample: int = 0) -> str:
        """Return the label of a position of a window: a prefix name, the patch's row and column, or ``padding``."""
        at = self._checked(position)
        if at < len(self.prefix):
            return self.prefix[at]
        cell = self.cell(at, sample)
        return "padding" if cell is None else str(cell)

    def find(self, row: SupportsIndex, col: SupportsIndex) -> tuple[int, int]:
        """Return the window that holds the patch in a row and a column, and the patch's position in it.

        If several windows hold it, as overlapping windows do at their edges, return the first.

        Raises
        ------
        PositionError
            If the row or the column is out of range, or no window holds the patch.
        """
        found = np.argwhere(self.places == checked_place(row, col, self.grid, self))
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
            If no prefix token has the name.
        PositionError
            If the position is out of range, or the window does not hold the patch.
        """
        if isinstance(query, str):
            return named_position(query, self.prefix, self)
        if not is_pair(query):
            return super().position(query, sample)
        row, col = query
        window, _ = self.find(row, col)
        here = sample % self.windows
        found = np.flatnonzero(self.places[here] == checked_place(row, col, self.grid, self))
        if not len(found):
            msg = f"Window {here} of {self!r} does not hold the patch {(row, col)}; window {window} does."
            raise PositionError(msg)
        return len(self.prefix) + int(found[0])

    def picture(self, values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Arrange the values of the patches of all windows in the grid of the image.

        Parameters
        ----------
        values : numpy.ndarray, shape (..., windows, len(self))

        Returns
        -------
        numpy.ndarray, shape (..., rows, columns)
            The mean if several windows hold a patch, NaN if none does. Prefix tokens and padding are left out.

        Raises
        ------
        ShapeError
            If the last two dimensions are not the windows and the positions.

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
