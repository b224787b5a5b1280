"""The instructions of a function, with calls of the recorder injected.

In Python, the injected calls read::

    __anylocal__.entered_17(self)                         # where the function starts, if requested; otherwise
    __anylocal__.raised_17(self)                          # where an exception leaves it
    __anylocal__.returned_17(42, self, attn, q)           # before each return, the value returned still on the stack
    __anylocal__.assigned_17_attn(41, self, attn)         # after an assignment, and at the start, if requested
    __anylocal__.resulted_17_0(41, self, attn)            # after attn = softmax(…), if requested
    attn = __anylocal__.edited_17(41, "attn", self, …)    # on the value about to be assigned, if requested
    __anylocal__.called_17(41, "F.f", self, F.f)(x)       # in place of F.f(x), if requested

17 is the number of this rewriting, 42 the line, and 0 the place of a key among all: dynamo requires names that Python
could have. Constants are plain (the pool of a traced function must hold nothing else), and the recorder is reached
through one name in the builtins, so that the module of the function stays as it was. If that has a global of the name,
another one is taken.

A name that is certainly bound at a return is loaded as it is. One that may be unbound there is loaded with a check,
in an exception region of its own, whose handler (after the last instruction) puts `UNBOUND` in its place. Regions
cannot nest in the table, so a region around it is closed before and opened again after it. Compiled code (dynamo) knows
no such exception, and its graph would break. So where there may be compilers, the name holds `UNBOUND` from the start,
if the function itself cannot tell: if its own code never deletes it, loads it only where it is bound, and does not ask
for its locals.

Instructions keep their places in the line table, and injected ones stand on the line of what they were injected for,
so neither tracebacks nor tracers see them. With two exceptions: the locals of a frame show `UNBOUND` in a name that has
no value yet; and where a checked name is unbound at a return, tracers (`sys.settrace`, `sys.monitoring`) get the event
of the exception that the check raises, and on 3.11 that of the line once more. No instruction of CPython asks whether
a name is bound without raising.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bytecode import Instr, Label
from bytecode.instr import InstrArg, InstrLocation, TryBegin, TryEnd

from anylocal._engine.python import CALLS_ARE_PRECALLED, LOADS_OF_UNBOUND_CRASH, NULL_IS_BELOW
from anylocal._engine.rewrite.callees import callees, pushes_null
from anylocal._engine.rewrite.flow import Flow, deletes
from anylocal._engine.rewrite.opcodes import ATTRIBUTES, NAMED, RETURNS, STORES
from anylocal._engine.rewrite.parse import Element, argument_names, start_of, variable
from anylocal._engine.spec import UNBOUND, CaptureSpec

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

NOWHERE: Final = InstrLocation(None, None, None, None)

# Where the number of the rewriting goes into the name of a method; no name in a source has it.
NUMBER: Final = "#"
# Where the name of the recorder goes: `RECORDER`, unless the function's module has a global of that name.
NAME: Final = "#recorder"


def owner_name(code: types.CodeType) -> str | None:
    """Return the argument on whose behalf a call runs: `module`, else the first one, if any.

    Plain functions that work for a module take it as `module` by convention; methods take it first.
    """
    names = argument_names(code)
    positional = names[: code.co_argcount]
    if "module" in names and positional[:1] not in {("self",), ("cls",)}:
        return "module"
    return positional[0] if positional else None


# CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR.
_SUSPENDED: Final = 0x20 | 0x80 | 0x200


def must_tell_starts(code: types.CodeType) -> bool:
    """Return whether each call of a function is to be told of as it starts, even if it could be at its end.

    A generator may never end; and of a function that deletes its owner, nothing tells at its end whose call it was.
    """
    owner = owner_name(code)
    return bool(code.co_flags & _SUSPENDED) or (owner is not None and deletes(code, owner))


class Injector:
    def __init__(self, flow: Flow, spec: CaptureSpec, *, holding: bool, starts: bool) -> None:
        self.flow = flow
        self.spec = spec
        self._starts = starts
        self.owner = owner_name(flow.code)
        # In a cell it is bound at any time, unless something deletes it.
        self._owner_may_go = self.owner in flow.cells and flow.deletes(self.owner)
        self._held = [name for name in spec.returned if holding and flow.can_hold(name)]
        self._callees = callees(flow.elements) if spec.called else {}
        self.extra_stack = 9 + len(spec.returned)
        self._region: TryBegin | None = None
        # Where no other region is, what raises is told of in one around the whole function.
        self._on_raise = Label()
        self._outermost: TryBegin | None = None
        self._reopened: dict[int, TryBegin] = {}
        self._handlers: list[Element] = []
        self._here: InstrLocation | None = None
        self._line = flow.code.co_firstlineno
        # The names loaded since the last assignment, and where.
        self.loaded: list[tuple[object, InstrLocation | None]] = []

    def elements(self) -> Iterator[Element]:
        started = False
        for index, element in enumerate(self.flow.elements):
            if isinstance(element, TryBegin):
                self._region = element
                yield from self._close_outermost()
                yield element
            elif isinstance(element, TryEnd):
                self._region = None
                yield TryEnd(self._reopened.get(id(element.entry), element.entry))
                yield from self._open_outermost()
            elif not isinstance(element, Instr):
                yield element
            else:
                self._move_to(element)
                if element.name in RETURNS:
                    yield from self._return(index, element)
                elif element.name in STORES and self.flow.is_assignment(index):
                    yield from self._store(index, element)
                elif self._callees.get(index) in self.spec.called:
                    yield from self._callee(index, element)
                else:
                    yield element
                if element.name == "RESUME" and not started:
                    started = True
                    yield from self._start(index)
                    yield from self._open_outermost()
        yield from self._close_outermost()
        if not self._starts:
            yield from self._raise()
        yield from self._handlers

    def _open_outermost(self) -> Iterator[Element]:
        if not self._starts:
            self._outermost = TryBegin(self._on_raise, push_lasti=True, stack_depth=0)
            yield self._outermost

    def _close_outermost(self) -> Iterator[Element]:
        if self._outermost is not None:
            yield TryEnd(self._outermost)
        self._outermost = None

    def _move_to(self, instr: Instr) -> None:
        self._here = instr.location
        if instr.name in NAMED:
            name = variable(instr) or (instr.arg[-1] if isinstance(instr.arg, tuple) else instr.arg)
            self.loaded.append((name, instr.location))
        if isinstance(instr.lineno, int):
            self._line = int(instr.lineno)

    # The injected calls, one method each.

    def _start(self, index: int) -> Iterator[Element]:
        self._here = NOWHERE
        for name in self._held:
            yield from self._constant(UNBOUND)
            yield self._variable_op("STORE", name)
        if self._starts:
            yield from self._call(f"entered_{NUMBER}", [self._owner(index, depth=2)])
            yield Instr("POP_TOP", location=self._here)
        for name in argument_names(self.flow.code):
            if name in self.spec.edited:
                yield from self._load(name, index, depth=0)
                yield from self._replace("edited", name, index)
                yield self._variable_op("STORE", name)
            if name in self.spec.assigned | self.spec.given:
                yield from self._load(name, index, depth=0)
                yield from self._announce(f"assigned_{NUMBER}_{name}", index)
                yield Instr("POP_TOP", location=self._here)

    def _raise(self) -> Iterator[Element]:
        """Tell of a call that raises, and raise on: the place of the instruction and the exception are on the stack.

        If the telling raises, as it does where the stack is full, the exception is still the function's own.
        """
        self._here = NOWHERE
        failed, told = Label(), Label()
        region = TryBegin(failed, push_lasti=False, stack_depth=2)
        yield self._on_raise
        yield region
        # Bound, as functions that delete it tell of their starts; comprehensions put it back before they raise.
        owner = self._constant(None)
        if self.owner is not None:
            owner = [self._variable_op("LOAD", self.owner)]
        yield from self._call(f"raised_{NUMBER}", [owner])
        yield TryEnd(region)
        # What was returned; or, from the handler, what was raised.
        yield told
        yield Instr("POP_TOP", location=self._here)
        yield Instr("RERAISE", 1, location=self._here)
        self._handlers += [failed, Instr("JUMP_BACKWARD_NO_INTERRUPT", told, location=self._here)]

    def _return(self, index: int, instr: Instr) -> Iterator[Element]:
        depth = 1 if instr.name == "RETURN_VALUE" else 0
        arguments = [self._constant(self._line), self._owner(index, depth + 3)]
        for i, name in enumerate(self.spec.returned):
            arguments.append(list(self._load(name, index, depth=depth + 4 + i)))
        yield from self._call(f"returned_{NUMBER}", arguments)
        yield Instr("POP_TOP", location=self._here)
        yield instr

    def _store(self, index: int, instr: Instr) -> Iterator[Element]:
        name = variable(instr)
        assert name is not None
        if name in self.spec.edited:
            yield from self._replace("edited", name, index)
        methods = [f"assigned_{NUMBER}_{name}"] if name in self.spec.assigned else []
        results = sorted(result for result in self.spec.resulted if result.name == name)
        keys = [self.spec.keys.index(result.key) for result in results if self._is_value_of(instr, result.uses)]
        methods += [f"resulted_{NUMBER}_{key}" for key in keys]
        self.loaded.clear()
        if methods:
            yield Instr("COPY", 1, location=self._here)
        yield instr
        for method in methods:
            yield from self._announce(method, index)
        if methods:
            yield Instr("POP_TOP", location=self._here)

    def _callee(self, index: int, instr: Instr) -> Iterator[Element]:
        """Load a function about to be called, and put the recorder's in its place: not as a method, and with a NULL."""
        name = instr.arg[-1] if isinstance(instr.arg, tuple) else instr.arg
        if instr.name == "LOAD_GLOBAL":
            yield Instr("LOAD_GLOBAL", (False, name), location=self._here)
        elif instr.name in ATTRIBUTES:
            yield Instr("LOAD_ATTR", name if CALLS_ARE_PRECALLED else (False, name), location=self._here)
        else:
            yield instr
        yield from self._replace("called", self._callees[index], index)
        if pushes_null(instr):
            yield Instr("PUSH_NULL", location=self._here)
            if NULL_IS_BELOW:
                yield Instr("SWAP", 2, location=self._here)

    def _is_value_of(self, store: Instr, used: str) -> bool:
        """Return whether the right-hand side of an assignment, which is after its target, names something."""
        target = start_of(store.location)
        return any(name == used and start_of(location) >= target for name, location in self.loaded)

    # Each of the next two finds the value on top of the stack; the first replaces it.

    def _replace(self, method: str, name: str, index: int) -> Iterator[Element]:
        # The value lies below the callable, its NULL or self, and three arguments.
        value: list[Element] = [Instr("COPY", 6, location=self._here)]
        owner = self._unchecked_owner(index, pushed=4)
        arguments = [self._constant(self._line), self._constant(name), owner, value]
        yield from self._call(f"{method}_{NUMBER}", arguments)
        yield Instr("SWAP", 2, location=self._here)
        yield Instr("POP_TOP", location=self._here)

    def _announce(self, method: str, index: int) -> Iterator[Element]:
        # As above, with one argument less.
        value: list[Element] = [Instr("COPY", 5, location=self._here)]
        owner = self._unchecked_owner(index, pushed=3)
        yield from self._call(method, [self._constant(self._line), owner, value])
        yield Instr("POP_TOP", location=self._here)

    # How a call is put together.

    def _call(self, method: str, arguments: list[list[Element]]) -> Iterator[Element]:
        yield Instr("LOAD_GLOBAL", (False, NAME), location=self._here)
        if CALLS_ARE_PRECALLED:
            yield Instr("LOAD_METHOD", method, location=self._here)
        else:
            yield Instr("LOAD_ATTR", (True, method), location=self._here)
        for argument in arguments:
            yield from argument
        count = len(arguments)
        if CALLS_ARE_PRECALLED:
            yield Instr("PRECALL", count, location=self._here)
        yield Instr("CALL", count, location=self._here)

    def _owner(self, index: int, depth: int) -> list[Element]:
        return self._constant(None) if self.owner is None else list(self._load(self.owner, index, depth=depth))

    def _constant(self, value: InstrArg | None) -> list[Element]:
        return [Instr("LOAD_CONST", value, location=self._here)]

    def _load(self, name: str, index: int, depth: int) -> Iterator[Element]:
        """Load a name, or `UNBOUND` where it has no value; `depth` values are on the stack before."""
        if not self._exists(name) or self.flow.is_unbound(name, index):
            yield from self._constant(UNBOUND)
        elif self.flow.is_bound(name, index) or name in self._held:
            yield self._variable_op("LOAD", name)
        else:
            yield from self._or_unbound(self._variable_op("LOAD", name, checked=True), depth)

    def _or_unbound(self, load: Instr, depth: int) -> Iterator[Element]:
        """Run a load that may raise an exception, and load `UNBOUND` where it does."""
        handler, resume = Label(), Label()
        around, is_outermost = self._region, self._outermost is not None
        yield from self._close_outermost()
        if around is not None:
            yield TryEnd(self._reopened.get(id(around), around))
        region = TryBegin(handler, push_lasti=False, stack_depth=depth)
        yield region
        yield load
        yield TryEnd(region)
        if is_outermost:
            yield from self._open_outermost()
        if around is not None:
            again = TryBegin(around.target, around.push_lasti, around.stack_depth)
            self._reopened[id(around)] = again
            yield again
        yield resume
        self._handlers += [
            handler,
            Instr("POP_TOP", location=self._here),
            Instr("LOAD_CONST", UNBOUND, location=self._here),
            Instr("JUMP_BACKWARD_NO_INTERRUPT", resume, location=self._here),
        ]

    def _unchecked_owner(self, index: int, pushed: int) -> list[Element]:
        """Load the owner, or None where it may be unbound: the depth of the stack, for a handler, is unknown here.

        A comprehension that uses the owner's name keeps the owner on the stack, below what was `pushed` since.
        """
        name = self.owner
        if name is None or self._owner_may_go:
            return self._constant(None)
        saved = self.flow.saved(name, index)
        if saved is None:
            known = name in self.flow.cells or self.flow.is_bound(name, index)
            return [self._variable_op("LOAD", name)] if known else self._constant(None)
        depth, slot = saved
        if slot.may_be_unbound:
            return self._constant(None)
        copy: list[Element] = [Instr("COPY", depth + pushed, location=self._here)]
        if name in self.flow.cells:
            copy.append(Instr("LOAD_ATTR", (False, "cell_contents"), location=self._here))
        return copy

    def _exists(self, name: str) -> bool:
        return name in self.flow.cells or name in self.flow.code.co_varnames

    def _variable_op(self, operation: str, name: str, *, checked: bool = False) -> Instr:
        cell = self.flow.cells.get(name)
        if cell is not None:
            return Instr(f"{operation}_DEREF", cell, location=self._here)
        suffix = "_CHECK" if checked and LOADS_OF_UNBOUND_CRASH else ""
        return Instr(f"{operation}_FAST{suffix}", name, location=self._here)
