"""The assignments of a function, and what their right-hand sides name."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bytecode import Instr

from anylocal._engine.rewrite.flow import Flow
from anylocal._engine.rewrite.opcodes import NAMED, STORES
from anylocal._engine.rewrite.parse import start_of, variable

if TYPE_CHECKING:
    import types


class Assigned(NamedTuple):
    """One assignment: where it starts (line and column), the line that is recorded, and what its value names."""

    start: tuple[int, int]
    line: int
    name: str
    uses: frozenset[object]


def assignments(code: types.CodeType) -> list[Assigned]:
    """Return the assignments that a function makes itself, in the order of its source."""
    flow = Flow(code)
    found: dict[tuple[tuple[int, int], str], Assigned] = {}
    line = code.co_firstlineno
    loaded: list[tuple[object, tuple[int, int]]] = []
    for index, instr in enumerate(flow.elements):
        if not isinstance(instr, Instr):
            continue
        name = variable(instr)
        if isinstance(instr.lineno, int):
            line = int(instr.lineno)
        if instr.name in STORES and name is not None and flow.is_assignment(index):
            start = start_of(instr.location)
            uses = frozenset(used for used, place in loaded if place >= start)
            # The compiler may have copied a block, such as that of a `finally`; or fused the stores of two names.
            found.setdefault((start, name), Assigned(start, line, name, uses))
            loaded.clear()
        elif instr.name in NAMED:
            used = name or (instr.arg[-1] if isinstance(instr.arg, tuple) else instr.arg)
            loaded.append((used, start_of(instr.location)))
    return sorted(found.values())
