"""Indices, everywhere the same: their bounds check, and which text a sample has. Works without torch."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from anylocal.errors import PositionError

if TYPE_CHECKING:
    from anylocal._maps.map import AttentionMap


def inside(index: object, length: int, kind: str, of: object = None) -> int:
    """Return an index as counted from the start, given one counted from either end.

    A PositionError names the kind of index, such as "query", and the object that has so many of them.
    """
    owner = "" if of is None else f" of {of!r}"
    try:
        found = operator.index(index)  # type: ignore[arg-type]  # anything but an integer raises, and is caught
    except TypeError:
        msg = f"{kind.capitalize()} index {index!r}{owner} is not an integer; give one below {length}."
        raise PositionError(msg) from None
    if not -length <= found < length:
        msg = f"{kind.capitalize()} index {found}{owner} is out of range: there are {length}."
        raise PositionError(msg)
    return found % length


def place_of(attention: AttentionMap, sample: int) -> int:
    """Return by which number the axes of a map know a sample: windows differ in where they lie, not in their text."""
    placed = any(hasattr(axis, "places") for axis in (attention.queries, attention.keys))
    return sample if placed else sample // attention.windows
