"""Which local names of a code object may be bound, by control flow.

For each instruction that can be reached, `Flow.before` says which names may be bound and which may be
unbound when it starts; a name that may be both needs a checked load there. The analysis is the textbook one
for definite assignment: states flow along jumps and into exception handlers, and are joined by union until
nothing changes.

One case needs the evaluation stack as well. An inlined comprehension (3.12+) that reuses a name of its
function saves the function's value on the stack (LOAD_FAST_AND_CLEAR), and puts it back with an ordinary
STORE_FAST at its end, on both its normal and its exceptional way out. That store is not an assignment: its
value may be NULL, and the name is afterwards as bound as it was before. So the saved values are followed
through the stack. Nothing but SWAP moves them and nothing but that STORE_FAST consumes them, hence every other
instruction matters by its net effect on the depth alone.
"""

from __future__ import annotations

import dis
import functools
import heapq
import types
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from bytecode import Instr, Label
from bytecode.instr import CellVar, FreeVar, TryBegin, TryEnd

from anylocal._engine.rewrite.opcodes import CHECKED_LOADS, DELETES, NEVER_JUMPS, RETURNS, SAVES, STORE_FAST, STORES
from anylocal._engine.rewrite.parse import Element, argument_names, parse, variable

if TYPE_CHECKING:
    from collections.abc import Sequence

# A function that names one of these may read all its locals.
ASKS_FOR_LOCALS: Final = frozenset({"locals", "vars", "dir", "eval", "exec", "_getframe", "currentframe", "stack"})


class Saved(NamedTuple):
    """A value of the function that a comprehension keeps on the stack while it uses the name."""

    name: str
    may_be_bound: bool
    may_be_unbound: bool


Stack: TypeAlias = tuple[Saved | None, ...]


class State(NamedTuple):
    """The state before an instruction: two bit sets over the names, and the stack."""

    may_be_bound: int
    may_be_unbound: int
    stack: Stack

    def join(self, other: State) -> State:
        """Return the state that covers both."""
        return State(
            self.may_be_bound | other.may_be_bound,
            self.may_be_unbound | other.may_be_unbound,
            tuple(_join_slots(a, b) for a, b in zip(self.stack, other.stack, strict=False)),
        )


def _join_slots(a: Saved | None, b: Saved | None) -> Saved | None:
    if a is None or b is None:
        return None
    return Saved(a.name, a.may_be_bound or b.may_be_bound, a.may_be_unbound or b.may_be_unbound)


class Flow:
    """The control flow of one code object.

    Attributes
    ----------
    elements : Bytecode
        Its instructions, as `parse` returns them.
    before : dict of int to State
        The state before the instruction at each index that can be reached.
    cells : dict of str to (CellVar or FreeVar)
        The names that live in cells, which are always checked when they are loaded.
    """

    def __init__(self, code: types.CodeType) -> None:
        self.code = code
        self.elements = parse(code)
        self.cells = _cells(code, self.elements)
        self._bit = {name: 1 << i for i, name in enumerate(dict.fromkeys(code.co_varnames + code.co_cellvars))}
        self._targets = {element: i for i, element in enumerate(self.elements) if isinstance(element, Label)}
        self._handlers = _handlers(self.elements)
        self._follow_stack = any(isinstance(e, Instr) and e.name in SAVES for e in self.elements)
        self.before: dict[int, State] = {}
        self._pending: list[int] = []
        self._solve()

    def is_bound(self, name: str, index: int) -> bool:
        """Return whether `name` is certainly bound before the instruction at `index`."""
        state = self.before.get(index)
        return state is not None and name not in self.cells and not state.may_be_unbound & self._bit[name]

    def is_unbound(self, name: str, index: int) -> bool:
        """Return whether `name` is certainly unbound before the instruction at `index`."""
        state = self.before.get(index)
        return state is not None and name not in self.cells and not state.may_be_bound & self._bit[name]

    def can_hold(self, name: str) -> bool:
        """Return whether a name may hold a value from the start unnoticed by the function's own code.

        True only of names that are not arguments and may be unbound at some return.
        """
        arguments = argument_names(self.code)
        if name not in self.code.co_varnames or name in arguments or name in self.cells or self.deletes(name):
            return False
        if not ASKS_FOR_LOCALS.isdisjoint(self.code.co_names):
            return False
        about = [(i, e) for i, e in enumerate(self.elements) if isinstance(e, Instr) and i in self.before]
        loads = [i for i, e in about if e.name in CHECKED_LOADS and variable(e) == name]
        returns = [i for i, e in about if e.name in RETURNS]
        return all(self.is_bound(name, i) for i in loads) and not all(self.is_bound(name, i) for i in returns)

    def is_assignment(self, index: int) -> bool:
        """Return whether the instruction at `index` assigns to a name of the function itself.

        False where a comprehension stores into its own variable, or puts the function's back, and where an
        ``except … as error:`` ends, which compiles to ``error = None; del error``.
        """
        instr = self.elements[index]
        if not isinstance(instr, Instr) or instr.name not in STORES or self._clears(index):
            return False
        return index in self.before and self.saved(variable(instr) or "", index) is None

    def saved(self, name: str, index: int) -> tuple[int, Saved] | None:
        """Return the depth in the stack at which a comprehension keeps the function's value of a name, and its slot."""
        stack = self.before[index].stack if index in self.before else ()
        places = (i for i, slot in enumerate(stack) if slot is not None and slot.name == name)
        # Of nested comprehensions, the outermost keeps the function's.
        first = next(places, None)
        slot = None if first is None else stack[first]
        return None if first is None or slot is None else (len(stack) - first, slot)

    def _clears(self, index: int) -> bool:
        """Return whether a store is directly followed by a deletion with the same location in the source."""
        store, delete = self.elements[index], self.elements[index + 1]
        return (
            isinstance(store, Instr)
            and isinstance(delete, Instr)
            and delete.name in DELETES
            and (variable(delete), delete.location) == (variable(store), store.location)
        )

    def deletes(self, name: str) -> bool:
        """Return whether the function, or one inside it, deletes the name."""
        return deletes(self.code, name)

    def assigned(self) -> tuple[str, ...]:
        """Return the names that the function binds: its arguments, then the others as they are first assigned.

        Names that only functions inside it assign, as a comprehension's ``:=`` before 3.12, come last.
        """
        names = dict.fromkeys(argument_names(self.code))
        for index, element in enumerate(self.elements):
            if isinstance(element, Instr) and self.is_assignment(index):
                names[variable(element) or ""] = None
        names |= dict.fromkeys(name for name, cell in self.cells.items() if isinstance(cell, CellVar))
        return tuple(name for name in names if not name.startswith("."))

    def _solve(self) -> None:
        arguments = sum(self._bit[name] for name in argument_names(self.code))
        everything = (1 << len(self._bit)) - 1
        self._reach(0, State(arguments, everything & ~arguments, ()))
        while self._pending:
            # By index: the predecessors of an instruction are mostly before it, so few are visited twice.
            index = heapq.heappop(self._pending)
            element, state = self.elements[index], self.before[index]
            if not isinstance(element, Instr):
                self._reach(index + 1, state)
                continue
            after = self._after(element, state, jump=False)
            self._raise(index, state, after)
            if element.has_jump() and element.name not in NEVER_JUMPS:
                assert isinstance(element.arg, Label)
                self._reach(self._targets[element.arg], self._after(element, state, jump=True))
            if not element.is_final():
                self._reach(index + 1, after)

    def _reach(self, index: int, state: State) -> None:
        """Add a state in which an instruction may start, and visit it again if that is new."""
        if index == len(self.elements):
            return
        known = self.before.get(index)
        joined = state if known is None else known.join(state)
        if joined != known:
            self.before[index] = joined
            if index not in self._pending:
                heapq.heappush(self._pending, index)

    def _raise(self, index: int, before: State, after: State) -> None:
        """Reach the handler around an instruction, which may raise before or after its effect."""
        region = self._handlers[index]
        if region is None:
            return
        assert isinstance(region.target, Label)
        assert isinstance(region.stack_depth, int)
        pushed = (None,) * (1 + region.push_lasti)
        for state in {before, after}:
            stack = state.stack[: region.stack_depth] + pushed if self._follow_stack else ()
            self._reach(self._targets[region.target], state._replace(stack=stack))

    def _after(self, instr: Instr, state: State, *, jump: bool) -> State:
        bound, unbound, stack = state
        name = variable(instr)
        bit = self._bit.get(name, 0) if name is not None else 0
        top = stack[-1] if stack else None
        if instr.name in STORE_FAST and isinstance(top, Saved) and top.name == name:
            bound = (bound | bit) if top.may_be_bound else (bound & ~bit)
            unbound = (unbound | bit) if top.may_be_unbound else (unbound & ~bit)
        elif instr.name in STORES or instr.name in CHECKED_LOADS:
            # A load that did not raise proves the name bound.
            bound, unbound = bound | bit, unbound & ~bit
        elif instr.name in DELETES or instr.name in SAVES:
            bound, unbound = bound & ~bit, unbound | bit
        return State(bound, unbound, self._stack_after(instr, state, jump=jump) if self._follow_stack else ())

    def _stack_after(self, instr: Instr, state: State, *, jump: bool) -> Stack:
        stack = state.stack
        if instr.name in SAVES:
            name = variable(instr) or ""
            bit = self._bit.get(name, 0)
            return (*stack, Saved(name, bool(state.may_be_bound & bit), bool(state.may_be_unbound & bit)))
        if instr.name == "SWAP":
            depth = instr.arg
            assert isinstance(depth, int)
            slots = list(stack)
            slots[-1], slots[-depth] = slots[-depth], slots[-1]
            return tuple(slots)
        effect = instr.stack_effect(jump=jump)
        return stack[:effect] if effect < 0 else stack + (None,) * effect


@functools.lru_cache(maxsize=1024)
def may_be_unbound(code: types.CodeType, names: tuple[str, ...]) -> frozenset[str]:
    """Return the names that may be unbound when the function returns."""
    flow = Flow(code)
    returns = [i for i, element in enumerate(flow.elements) if isinstance(element, Instr) and element.name in RETURNS]
    return frozenset(
        name
        for name in names
        if name not in code.co_varnames
        or any(index in flow.before and not flow.is_bound(name, index) for index in returns)
    )


def deletes(code: types.CodeType, name: str) -> bool:
    """Return whether a function, or one inside it, deletes a name."""
    inside = [c for c in code.co_consts if isinstance(c, types.CodeType) and name in c.co_freevars]
    here = any(i.opname in DELETES and i.argval == name for i in dis.get_instructions(code))
    return here or any(deletes(c, name) for c in inside)


def _cells(code: types.CodeType, elements: Sequence[Element]) -> dict[str, CellVar | FreeVar]:
    """Return the names whose value the function itself keeps in a cell.

    A cell that only an inlined comprehension needs is made in it, after the function's start, and does not count. Nor
    does one beside a free variable of the same name: the function reads the free one.
    """
    cells: dict[str, CellVar | FreeVar] = {name: FreeVar(name) for name in code.co_freevars}
    for element in elements:
        if isinstance(element, Instr):
            if element.name == "RESUME":
                break
            if element.name == "MAKE_CELL" and isinstance(element.arg, CellVar):
                cells.setdefault(element.arg.name, element.arg)
    return cells


def _handlers(elements: Sequence[Element]) -> list[TryBegin | None]:
    """Return the exception region of each element."""
    regions: list[TryBegin | None] = []
    active: TryBegin | None = None
    for element in elements:
        if isinstance(element, TryBegin):
            active = element
        elif isinstance(element, TryEnd):
            active = None
        regions.append(active)
    return regions
