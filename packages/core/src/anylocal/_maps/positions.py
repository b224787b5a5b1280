"""What the positions along the query or the key axis of a map stand for.

An `Axis` only counts them; `Patches` and `PlacedPatches` know where they lie in an image, `Tokens` (a room of their
own) which words they are.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeVar

import numpy.typing as npt
import torch

from anylocal.errors import NameNotFoundError, PositionError, ShapeError

Array = TypeVar("Array", torch.Tensor, npt.NDArray[Any])


class Axis:
    """Positions of which nothing is known but their number.

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
            Counted from the end where negative.
        sample : int
            Which sample of the batch; only `Tokens` differ between samples.

        Raises
        ------
        PositionError
            Where there is no such position.
        """
        del sample
        return str(self._checked(position))

    def labels(self, sample: int = 0) -> list[str]:
        """Name every position, in order; see `label`."""
        return [self.label(position, sample) for position in range(len(self))]

    def position(self, query: object, sample: int = 0) -> int:
        """Return the position that a query means: here, an integer only.

        Raises
        ------
        PositionError
            Where there is no such position.
        """
        del sample
        return self._checked(query)

    def _checked(self, position: object) -> int:
        try:
            found = operator.index(position)  # type: ignore[arg-type]  # what is no integer raises, and is caught
        except TypeError:
            msg = f"{position!r} is no position of {self!r}; give an integer below {len(self)}."
            raise PositionError(msg) from None
        return inside(found, len(self), f"Position {found} of {self!r}")


@dataclass(frozen=True)
class Named(Axis):
    """Positions that have names and lie nowhere: the class token as the only query, the latents of a pool.

    Parameters
    ----------
    names : tuple of str
        One for each position.

    Raises
    ------
    ShapeError
        Where two positions share a name.

    Examples
    --------
    >>> from anylocal.attention import Named
    >>> axis = Named(("cls",))
    >>> len(axis), axis.label(0), axis.position("cls")
    (1, 'cls', 0)
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        # A frozen dataclass leaves no other way to store what was given as a list.
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
            Where no position has the name.
        PositionError
            Where there is no such position.
        """
        return named_position(query, self.names, self) if isinstance(query, str) else super().position(query, sample)


def inside(position: int, length: int, what: str) -> int:
    """Count from the end where negative."""
    if not -length <= position < length:
        msg = f"{what} is out of range: there are {length}."
        raise PositionError(msg)
    return position % length


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        msg = f"Two prefix tokens share a name in {names!r}; give each its own, e.g. 'register 1'."
        raise ShapeError(msg)
    return names


def named_position(query: str, prefix: tuple[str, ...], axis: Axis) -> int:
    if query not in prefix:
        raise NameNotFoundError(query, repr(axis), prefix, kind="prefix token")
    return prefix.index(query)
