"""The bases of a class, whatever its metaclass says: what that runs is the user's code."""

from __future__ import annotations

from typing import Final

from anylocal._engine import dynamo

bases_of: Final = vars(type)["__mro__"].__get__
"""Returns the class and its bases."""

# A third of the time of a loop, at each call.
_is_subclass: Final = type.__subclasscheck__


def is_a(kind: type, cls: type) -> bool:
    """Return whether a class has another one among its bases, or is it; no metaclass is asked."""
    if not dynamo.tracing():
        return _is_subclass(cls, kind)
    for base in bases_of(kind):  # noqa: SIM110  # dynamo traces no other way
        if base is cls:
            return True
    return False
