"""Random functions behave the same rewritten, and their values are those that the oracles see.

``ANYLOCAL_EXAMPLES=5000`` runs as many of them, different ones each time.
"""

from __future__ import annotations

import itertools
import os
import types
import warnings
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings

from anylocal import capture
from anylocal._engine.functions import local_names

from . import oracle
from .programs import Program, namespace, programs

if TYPE_CHECKING:
    from collections.abc import Iterable

EXAMPLES = int(os.environ.get("ANYLOCAL_EXAMPLES", "0"))

many = settings(
    max_examples=EXAMPLES or 150,
    # The same ones each time where a failure must be found again, new ones where they are looked for.
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def made(program: Program, source: str, **names: Any) -> types.FunctionType:
    space = {**namespace(program), **names}
    with warnings.catch_warnings():
        # From 3.14 on the compiler warns of a return in a finally block, which a program may well have.
        warnings.simplefilter("ignore", SyntaxWarning)
        exec(compile(source, "<program>", "exec"), space)
    function = space["program"]
    assert isinstance(function, types.FunctionType)
    return function


def once(values: Iterable[str]) -> list[str]:
    return [value for value, _ in itertools.groupby(values)]


def drive(function: types.FunctionType) -> Any:
    """Run a program; a generator is taken to its end, with its result."""
    result = function([1], 2, 3)
    if not isinstance(result, types.GeneratorType):
        return result
    items: list[Any] = []
    try:
        while len(items) < 30:
            items.append(next(result))
    except StopIteration as stop:
        return items, stop.value
    return items


@many
@given(program=programs())
def test_returns_are_recorded_as_settrace_sees_them(program: Program) -> None:
    """Values are the very objects of the frame; results, exceptions and events stay as they were."""
    expected = oracle.watch(made(program, program.plain), drive)
    function = made(program, program.plain)
    cap = capture(function, *local_names(function), keep="graph", limit=None).open()
    seen = oracle.watch(function, drive)
    cap.close()
    assert seen.outcome == expected.outcome
    oracle.assert_same(cap.calls, seen.returns)
    assert oracle.without_checks(seen.events) == oracle.without_checks(expected.events)


@many
@given(program=programs())
def test_each_assignment_is_recorded_as_the_program_itself_notes_it(program: Program) -> None:
    """`every=True` records what the same program with its assignments written out notes."""
    notes: list[tuple[str, str]] = []

    def note(name: str, value: object) -> object:
        notes.append((name, oracle.plain(repr(value))))
        return value

    made_noted = made(program, program.noted, note=note)
    expected = oracle.outcome(made_noted, drive)
    function = made(program, program.plain)
    cap = capture(
        function, *local_names(function), every=True, limit=None, keep=lambda value: oracle.plain(repr(value))
    ).open()
    seen = oracle.outcome(function, drive)
    cap.close()
    assert seen[:2] == expected[:2]
    # Name by name: in `a, b = b, a` the compiler has its own order of the two. Of `a = (a := 1)` it drops one.
    for name in set(local_names(function)) - {"inner"}:
        # By the calls: reading a name that no call bound would warn.
        recorded = [call.values[name] for call in cap.calls if name in call.values]
        assert once(recorded) == once(value for noted, value in notes if noted == name), name


@many
@given(program=programs())
def test_an_edit_that_changes_nothing_changes_nothing(program: Program) -> None:
    """Every name edited to what it is anyway, twice over, with both kinds of recording."""
    expected = oracle.outcome(made(program, program.plain), drive)
    function = made(program, program.plain)
    names = local_names(function)
    same = {name: lambda value: value for name in names}
    caps = [
        capture(function, *names, every=True, edit=same).open(),
        capture(function, edit=same).open(),
        capture(function, *names).open(),
    ]
    assert oracle.outcome(function, drive) == expected
    for cap in caps:
        cap.close()
    assert oracle.outcome(made(program, program.plain), drive) == expected
