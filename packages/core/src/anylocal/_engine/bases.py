"""The bases of a class, whatever its metaclass says: what that runs is the user's code."""

from __future__ import annotations

from typing import Final

bases_of: Final = vars(type)["__mro__"].__get__
"""Returns the class and its bases."""


def is_a(kind: type, cls: type) -> bool:
    """Return whether a class has another one among its bases, or is it; no metaclass is asked."""
    if kind is cls:
        return True
    for base in bases_of(kind):  # noqa: SIM110  # at each call, and dynamo traces it
        if base is cls:
            return True
    return False
