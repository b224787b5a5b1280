"""What the positions along the query or the key axis of a map stand for: the base class, and positions with names.

An `Axis` only counts them; `Patches`, `PlacedPatches` and `Tokens` have modules of their own.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeVar

import numpy.typing as npt
import torch

from anylocal._maps.bounds import inside
from anylocal.errors import NameNotFoundError, ShapeError

Array = TypeVar("Array", torch.Tensor, npt.NDArray[Any])


class Axis:
    """Positions of which only the number is known.

    Parameters
    ----------
    length : int
        Number of positions.

    Examples
    --------
    >>> from anylocal.attention import Axis
    >>> axis = Axis(3)
    >>> len(axis), axis.labels()
    (3, ['0', '1', '2'])
    """

    def __init__(self, length: SupportsIndex) -> None:
        self._length = operator.index(length)
        if self._length < 0:
            msg = f"An axis cannot have {length} positions; give a length of 0 or more."
            raise ShapeError(msg)

    def __len__(self) -> int:
        return self._length

    def __eq__(self, other: object) -> bool:
        return type(other) is Axis and type(self) is Axis and len(self) == len(other)

    def __hash__(self) -> int:
        return hash((type(self), len(self)))

    def __repr__(self) -> str:
        return f"Axis({len(self)})"

    def label(self, position: SupportsIndex, sample: int = 0) -> str:
        """Name one position.

        Parameters
        ----------
        position : int
            Counted from the end if negative.
        sample : int
            Index in the batch; axes that are the same for all samples ignore it.

        Raises
        ------
        PositionError
            If the position is out of range.
        """
        del sample
        return str(self._checked(position))

    def labels(self, sample: int = 0) -> list[str]:
        """Name every position, in order; see `label`."""
        return [self.label(position, sample) for position in range(len(self))]

    def display(self, position: SupportsIndex, sample: int = 0) -> str:
        """Name one position as pictures do: by its `label`, or by text that is easier to read."""
        return self.label(position, sample)

    def position(self, query: object, sample: int = 0) -> int:
        """Return the position that a query means: here, an integer only.

        Raises
        ------
        PositionError
            If the position is out of range.
        """
        del sample
        return self._checked(query)

    def _checked(self, position: object) -> int:
        return inside(position, len(self), "position", of=self)


@dataclass(frozen=True)
class Named(Axis):
    """Positions with names and no place in an image, such as a single class token or the latents of a pooling layer.

    Parameters
    ----------
    names : tuple of str
        One for each position.

    Raises
    ------
    ShapeError
        If two positions share a name.

    Examples
    --------
    >>> from anylocal.attention import Named
    >>> axis = Named(("cls",))
    >>> len(axis), axis.label(0), axis.position("cls")
    (1, 'cls', 0)
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        # A list becomes a tuple; a frozen dataclass allows no plain assignment.
        object.__setattr__(self, "names", distinct(tuple(self.names)))

    def __len__(self) -> int:
        return len(self.names)

    def label(self, position: SupportsIndex, sample: int = 0) -> str:
        """Return the name of a position."""
        del sample
        return self.names[self._checked(position)]

    def position(self, query: object, sample: int = 0) -> int:
        """Return the position that a query means: an integer or a name.

        Raises
        ------
        NameNotFoundError
            If no position has the name.
        PositionError
            If the position is out of range.
        """
        return named_position(query, self.names, self) if isinstance(query, str) else super().position(query, sample)


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        msg = f"Two prefix tokens share a name in {names!r}; give each its own, e.g. 'register 1'."
        raise ShapeError(msg)
    return names


def named_position(query: str, prefix: tuple[str, ...], axis: Axis) -> int:
    if query not in prefix:
        raise NameNotFoundError(query, repr(axis), prefix, kind="prefix token")
    return prefix.index(query)
