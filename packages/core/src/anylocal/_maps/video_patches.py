"""Positions that are the patches of a video, frame by frame and row by row."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np

from anylocal._maps.bounds import inside
from anylocal._maps.patches import pair_of, split_along
from anylocal._maps.positions import Array, Axis, distinct, named_position
from anylocal.errors import ShapeError

_AXES = ("frame", "row", "column")


@dataclass(frozen=True)
class VideoPatches(Axis):
    """Positions that are patches of a video, frame by frame and row by row, after prefix tokens such as ``cls``.

    Those of a volume are patches of this kind too, with slices for frames. A class of its own, and no `Patches`: what
    draws `Patches` over an image has rows and columns only.

    Parameters
    ----------
    grid : (int, int, int)
        Frames, rows and columns of patches, as the model has merged them.
    prefix : sequence of str
        Names of the tokens before the patches.
    image_size : (int, int), optional
        Height and width in pixels of a frame.

    Raises
    ------
    ShapeError
        If the grid is not three positive integers, the image size not two, or two prefix tokens share a name.

    Examples
    --------
    >>> from anylocal.attention import VideoPatches
    >>> patches = VideoPatches(grid=(8, 14, 14), prefix=("cls",))
    >>> len(patches), patches.label(197), patches.index(1, 0, 0), patches.cell(197)
    (1569, '(1, 0, 0)', 197, (1, 0, 0))
    """

    grid: tuple[int, int, int]
    prefix: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        # Lists and NumPy's integers are converted; a frozen dataclass allows no plain assignment.
        try:
            frames, rows, columns = (operator.index(size) for size in self.grid)
        except (TypeError, ValueError):
            frames = rows = columns = 0
        if min(frames, rows, columns) < 1:
            msg = f"grid must be (frames, rows, columns), three positive integers; got {self.grid!r}."
            raise ShapeError(msg)
        object.__setattr__(self, "grid", (frames, rows, columns))
        object.__setattr__(self, "prefix", distinct(tuple(self.prefix)))
        if self.image_size is not None:
            object.__setattr__(self, "image_size", pair_of(self.image_size, "image_size", "(height, width)"))

    def __len__(self) -> int:
        return len(self.prefix) + math.prod(self.grid)

    def label(self, position: SupportsIndex, sample: int = 0) -> str:
        """Return the label of a position: a prefix name, or the patch's frame, row and column."""
        del sample
        cell = self.cell(position)
        return self.prefix[self._checked(position)] if cell is None else str(cell)

    def index(self, frame: SupportsIndex, row: SupportsIndex, col: SupportsIndex) -> int:
        """Return the position of the patch in a frame, a row and a column, counted from the end if negative.

        Raises
        ------
        PositionError
            If one of them is out of range.
        """
        given = zip((frame, row, col), self.grid, _AXES, strict=True)
        place = [inside(at, size, name, of=self) for at, size, name in given]
        return len(self.prefix) + int(np.ravel_multi_index(place, self.grid))

    def cell(self, position: SupportsIndex) -> tuple[int, int, int] | None:
        """Return the frame, row and column of the patch at a position, None for a prefix token."""
        offset = self._checked(position) - len(self.prefix)
        if offset < 0:
            return None
        frame, rest = divmod(offset, self.grid[1] * self.grid[2])
        return (frame, *divmod(rest, self.grid[2]))

    def position(self, query: object, sample: int = 0) -> int:
        """Return the position that a query means: an integer, a prefix name, or (frame, row, column).

        Raises
        ------
        NameNotFoundError
            If no prefix token has the name.
        PositionError
            If the position, frame, row or column is out of range.
        """
        if isinstance(query, str):
            return named_position(query, self.prefix, self)
        if isinstance(query, Sequence | np.ndarray) and len(query) == len(self.grid):
            return self.index(*query)
        return super().position(query, sample)

    def split(self, values: Array) -> tuple[Array, Array]:
        """Split values along these positions into those of the prefix tokens and a picture of each frame.

        Parameters
        ----------
        values : torch.Tensor or numpy.ndarray, shape (..., len(self))

        Returns
        -------
        prefix : same type, shape (..., len(self.prefix))
        pictures : same type, shape (..., frames, rows, cols)

        Raises
        ------
        ShapeError
            If the last dimension is not `len(self)`.
        """
        return split_along(self, self.prefix, self.grid, values)
