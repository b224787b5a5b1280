"""Which functions a code object calls, by their names in the source.

A callee is the value of a name or of attributes of one, as ``F.softmax`` or ``self.attend``. On the stack a NULL is
beside it, or the object that it is a method of: the load pushes both, or a PUSH_NULL is next to it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from bytecode import Instr

from anylocal._engine.python import NULL_IS_BELOW
from anylocal._engine.rewrite.opcodes import ATTRIBUTES, NAMES
from anylocal._engine.rewrite.parse import Element, parse, variable

if TYPE_CHECKING:
    import types
    from collections.abc import Sequence


def callees(elements: Sequence[Element]) -> dict[int, str]:
    """Return the names of the functions called, by the index of the instruction that loads each."""
    opcodes = [element.name if isinstance(element, Instr) else "" for element in elements] + [""]
    found: dict[int, str] = {}
    path, is_called = "", False
    for index, element in enumerate(elements):
        if opcodes[index] in NAMES:
            path, is_called = "", NULL_IS_BELOW and opcodes[index - 1] == "PUSH_NULL"
        elif opcodes[index] not in ATTRIBUTES or not path:
            path = ""
            continue
        assert isinstance(element, Instr)
        path = f"{path}.{_name(element)}".lstrip(".")
        is_called = is_called or pushes_null(element) or (opcodes[index + 1] == "PUSH_NULL" and not NULL_IS_BELOW)
        if is_called and opcodes[index + 1] not in ATTRIBUTES:
            found[index] = path
    return found


def pushes_null(load: Instr) -> bool:
    """Return whether the load of a function pushes a NULL as well, or the object that it is a method of."""
    return load.name == "LOAD_METHOD" or (isinstance(load.arg, tuple) and bool(load.arg[0]))


def _name(load: Instr) -> str:
    return variable(load) or str(load.arg[-1] if isinstance(load.arg, tuple) else load.arg)


@functools.lru_cache(maxsize=4096)
def callee_names(code: types.CodeType) -> frozenset[str]:
    """Return the names of the functions that a code object calls."""
    return frozenset(callees(parse(code)).values())
