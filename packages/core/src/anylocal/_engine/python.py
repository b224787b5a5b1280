"""Every difference between CPython versions that anylocal minds, as a named flag with an example and its origin.

No other file compares ``sys.version_info``. A gh number is that of an issue of python/cpython.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_VERSION: Final = sys.version_info[:2]


def has_gil() -> bool:
    """Return whether one thread runs at a time: a free-threaded build of 3.13 or later can do without (PEP 703).

    It changes while Python runs: importing an extension that needs the lock turns it on.
    """
    enabled: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)
    return enabled is None or enabled()


CALLS_ARE_PRECALLED: Final = _VERSION == (3, 11)
"""A method call is LOAD_METHOD … PRECALL n, CALL n; from 3.12 on it is LOAD_ATTR … CALL n (gh-90690, gh-93429).

``dis.dis("a.b(1)")`` shows PRECALL on 3.11 alone.
"""

NULL_IS_BELOW: Final = _VERSION < (3, 13)
"""Where nothing is bound to a callable, a NULL is below it on the stack; from 3.13 on it is above (gh-106307).

``dis.dis("f(*x)")`` shows PUSH_NULL before LOAD_NAME up to 3.12, and after it from 3.13 on.
"""

LOADS_OF_UNBOUND_CRASH: Final = _VERSION >= (3, 12)
"""LOAD_FAST of a name that is not bound reads a NULL and crashes; LOAD_FAST_CHECK raises (gh-93143).

On 3.11 LOAD_FAST itself raises: ``def f(): x; x = 1`` compiles to LOAD_FAST there, to LOAD_FAST_CHECK later.
"""

COMPREHENSIONS_ARE_INLINED: Final = _VERSION >= (3, 12)
"""PEP 709: ``[x for x in xs]`` runs in the frame of its function, which saves its own `x` on the stack
(LOAD_FAST_AND_CLEAR, possibly a NULL) and puts it back with a plain STORE_FAST.
"""

# The first and the last version that has an opcode, where that is not every one from 3.11 on.
_LIFETIMES: Final = {
    "LOAD_METHOD": ((3, 11), (3, 11)),  # gh-93429; later in `dis.opmap` still, for the compiler alone
    "CALL_INTRINSIC_2": ((3, 12), None),  # PEP 695
    "LOAD_FAST_AND_CLEAR": ((3, 12), None),  # PEP 709
    "LOAD_FAST_CHECK": ((3, 12), None),  # gh-93143
    "RETURN_CONST": ((3, 12), (3, 13)),  # gh-101632, gh-125837
    "LOAD_FAST_LOAD_FAST": ((3, 13), None),  # gh-105229, as the next two
    "STORE_FAST_LOAD_FAST": ((3, 13), None),
    "STORE_FAST_STORE_FAST": ((3, 13), None),
    "BUILD_INTERPOLATION": ((3, 14), None),  # PEP 750
    "LOAD_FAST_BORROW": ((3, 14), None),  # gh-130704, as the next
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW": ((3, 14), None),
}

ABSENT_OPCODES: Final = frozenset(
    name for name, (first, last) in _LIFETIMES.items() if first > _VERSION or (last is not None and last < _VERSION)
)
"""Opcodes of other versions, which the rewriter knows and this Python does not have.

``"RETURN_CONST" in dis.opmap`` is true on 3.12 and 3.13 alone.
"""
