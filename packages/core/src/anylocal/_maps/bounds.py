"""The bounds check of indices, everywhere the same. Works without torch."""

from __future__ import annotations

import operator

from anylocal.errors import PositionError


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
