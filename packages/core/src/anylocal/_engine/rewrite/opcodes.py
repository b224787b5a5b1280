"""The opcodes that the rewriter knows by name, by their effect on a local name."""

from __future__ import annotations

import dis
from typing import Final

from anylocal._engine.python import ABSENT_OPCODES


def _opcodes(*names: str) -> frozenset[str]:
    """Return a set of opcodes, each of which this Python has, or is known not to have."""
    unknown = {*names} - dis.opmap.keys() - ABSENT_OPCODES
    assert not unknown, f"no opcodes of this Python: {', '.join(sorted(unknown))}; see _engine/python.py"
    return frozenset(names)


STORE_FAST: Final = _opcodes("STORE_FAST")
STORES: Final = _opcodes("STORE_FAST", "STORE_DEREF")
DELETES: Final = _opcodes("DELETE_FAST", "DELETE_DEREF")
CHECKED_LOADS: Final = _opcodes("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW")
RETURNS: Final = _opcodes("RETURN_VALUE", "RETURN_CONST")
NAMED: Final = _opcodes("LOAD_GLOBAL", "LOAD_ATTR", "LOAD_METHOD", "LOAD_DEREF") | CHECKED_LOADS
# Loads of a name of any kind, and of an attribute of what is on top of the stack.
NAMES: Final = _opcodes("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF") | CHECKED_LOADS
ATTRIBUTES: Final = _opcodes("LOAD_ATTR", "LOAD_METHOD")
SAVES: Final = _opcodes("LOAD_FAST_AND_CLEAR")

# Neighbours fused into one instruction with two names; each is taken apart into its two operations, in order.
FUSED: Final = {
    "STORE_FAST_STORE_FAST": ("STORE_FAST", "STORE_FAST"),
    "STORE_FAST_LOAD_FAST": ("STORE_FAST", "LOAD_FAST"),
    "LOAD_FAST_LOAD_FAST": ("LOAD_FAST", "LOAD_FAST"),
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW": ("LOAD_FAST_BORROW", "LOAD_FAST_BORROW"),
}
_opcodes(*FUSED)

# From 3.14 on it carries a target for monitoring only, and never jumps there (gh-128534).
NEVER_JUMPS: Final = _opcodes("END_ASYNC_FOR")

# `bytecode` (0.19) lists the arguments that such an instruction may have, and newer Pythons have more: t-strings (3.14)
# and defaults of type parameters (3.13) could not be assembled. BUILD_LIST stands in for them in between.
UNLISTED: Final = _opcodes("BUILD_INTERPOLATION", "CALL_INTRINSIC_2")
