"""The own code of each rewriting, wherever that is: in the function, in another one, or in a frame."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import types

# By identity: equal code may belong to different functions.
_own: Final[dict[int, types.CodeType]] = {}


def register(code: types.CodeType, own: types.CodeType) -> None:
    """Note that `code` is a rewriting of `own`, as long as it lives."""
    _own[id(code)] = own
    weakref.finalize(code, _own.pop, id(code), None).atexit = False


def own_of(code: types.CodeType) -> types.CodeType:
    """Return the code of which a code object is a rewriting; the very same one if it is none."""
    return _own.get(id(code), code)
