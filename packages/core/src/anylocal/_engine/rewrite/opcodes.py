"""The opcodes that the rewriter knows by name, and what each of them does to a local name."""

from __future__ import annotations

from typing import Final

STORE_FAST: Final = frozenset({"STORE_FAST"})
STORES: Final = frozenset({"STORE_FAST", "STORE_DEREF"})
DELETES: Final = frozenset({"DELETE_FAST", "DELETE_DEREF"})
CHECKED_LOADS: Final = frozenset({"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW"})
RETURNS: Final = frozenset({"RETURN_VALUE", "RETURN_CONST"})
NAMED: Final = frozenset({"LOAD_GLOBAL", "LOAD_ATTR", "LOAD_METHOD", "LOAD_DEREF"}) | CHECKED_LOADS
SAVES: Final = frozenset({"LOAD_FAST_AND_CLEAR"})

# 3.13+ fuses neighbours into one instruction with two names; each is taken apart into what it does, in order.
FUSED: Final = {
    "STORE_FAST_STORE_FAST": ("STORE_FAST", "STORE_FAST"),
    "STORE_FAST_LOAD_FAST": ("STORE_FAST", "LOAD_FAST"),
    "LOAD_FAST_LOAD_FAST": ("LOAD_FAST", "LOAD_FAST"),
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW": ("LOAD_FAST_BORROW", "LOAD_FAST_BORROW"),
}

# Carries a target for monitoring only (3.14+): it never jumps there.
NEVER_JUMPS: Final = frozenset({"END_ASYNC_FOR"})


# `bytecode` (0.19) has a list of what the number of such an instruction may be, and newer Pythons have more: t-strings
# (3.14) and defaults of type parameters (3.13) could not be assembled. While we work, BUILD_LIST stands in for them.
UNLISTED: Final = frozenset({"BUILD_INTERPOLATION", "CALL_INTRINSIC_2"})
