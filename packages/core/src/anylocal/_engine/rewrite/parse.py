"""Code object to instructions and back, with workarounds for `bytecode`."""

from __future__ import annotations

import dis
from typing import TYPE_CHECKING, TypeAlias

from bytecode import Bytecode, ConcreteBytecode, ConcreteInstr, Instr, Label, SetLineno
from bytecode.instr import CellVar, FreeVar, InstrLocation, TryBegin, TryEnd

from anylocal._engine.rewrite.linetable import repair
from anylocal._engine.rewrite.opcodes import FUSED, UNLISTED

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

Element: TypeAlias = Instr | Label | TryBegin | TryEnd | SetLineno


class StandIn(int):
    """The argument of a BUILD_LIST with the stack effect of another instruction, and that instruction."""

    instr: ConcreteInstr


def parse(code: types.CodeType) -> Bytecode:
    """Return the instructions of `code`, fused ones taken apart, with the names in their own order."""
    concrete = ConcreteBytecode.from_code(code)
    for i, instr in enumerate(concrete):
        if isinstance(instr, ConcreteInstr) and instr.name in UNLISTED:
            stand_in = StandIn(1 - dis.stack_effect(instr.opcode, instr.arg))
            stand_in.instr = instr
            concrete[i] = ConcreteInstr("BUILD_LIST", stand_in, location=instr.location)
    # The variable of an inlined comprehension can have the name of a free one of the function, and both are in use.
    # `bytecode` (0.19) would miscount the variables then, so the free ones have other names in between.
    called = {name if name not in code.co_varnames else f"{name}, free": name for name in code.co_freevars}
    concrete.freevars = list(called)
    parsed = concrete.to_bytecode(conserve_exception_block_stackdepth=True)
    parsed.freevars = list(code.co_freevars)
    elements: list[Element] = []
    for element in parsed:
        for part in _take_apart(element):
            if isinstance(part, Instr) and isinstance(part.arg, FreeVar):
                part.arg = FreeVar(called[part.arg.name])
            elements.append(part)
    parsed[:] = elements
    # `bytecode` orders names by first use after the arguments; locals() shows the order, so keep the code's own.
    parsed.argnames = list(code.co_varnames)
    return parsed


def start_of(location: InstrLocation | None) -> tuple[int, int]:
    """Return the line and the column at which an instruction's source starts, 0 where they are unknown."""
    # Python can be told to leave the columns out (-X no_debug_ranges).
    line, column = (None, None) if location is None else (location.lineno, location.col_offset)
    return line or 0, column or 0


def assemble(parsed: Bytecode, stacksize: int) -> types.CodeType:
    """Return the code of instructions that `parse` has made."""
    concrete = parsed.to_concrete_bytecode(compute_exception_stack_depths=False)
    for i, instr in enumerate(concrete):
        if isinstance(instr, ConcreteInstr) and isinstance(instr.arg, StandIn):
            concrete[i] = instr.arg.instr
    code = concrete.to_code(stacksize=stacksize, compute_exception_stack_depths=False)
    return code.replace(co_linetable=repair(code.co_linetable))


def _take_apart(element: Element) -> Iterator[Element]:
    if not isinstance(element, Instr) or element.name not in FUSED:
        yield element
        return
    names = element.arg
    assert isinstance(names, tuple)
    for opname, name in zip(FUSED[element.name], names, strict=True):
        yield Instr(opname, name, location=element.location)


def argument_names(code: types.CodeType) -> tuple[str, ...]:
    """Return the names of all arguments, ``*args`` and ``**kwargs`` included."""
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)  # CO_VARARGS, CO_VARKEYWORDS
    return code.co_varnames[:count]


def variable(instr: Instr) -> str | None:
    """Return the local name that an instruction loads, stores or deletes, or None."""
    arg = instr.arg
    if isinstance(arg, (CellVar, FreeVar)):
        return arg.name
    return arg if isinstance(arg, str) and "FAST" in instr.name else None
