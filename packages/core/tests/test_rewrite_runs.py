"""Captures see what `sys.settrace` sees, and nobody sees captures: for every sample function, both ways."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from anylocal import Capture, capture
from anylocal._engine import dynamo, tensors
from anylocal._engine.functions import local_names

from . import oracle
from .samples import SAMPLES

if TYPE_CHECKING:
    import types

runs = pytest.mark.parametrize(
    ("function", "drive"),
    [
        pytest.param(sample.function, drive, id=f"{sample.function.__name__}-{i}")
        for sample in SAMPLES
        if local_names(sample.function)
        for i, drive in enumerate(sample.drives)
    ],
)
Drive = Callable[[Any], Any]


@pytest.fixture(
    autouse=True,
    params=[(False, False), (True, False), (True, True)],
    ids=["checked", "held", "held, beside a compiler"],
)
def _how_code_is_rewritten(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do it in each way: how a name turns out to be unbound, and a call to have started."""
    monkeypatch.setattr(tensors, "is_loaded", lambda: request.param[0])
    monkeypatch.setattr(dynamo, "is_used", lambda: request.param[1])


@contextmanager
def everything(function: Any, **options: Any) -> Iterator[Capture]:
    """Capture all names of a function."""
    with warnings.catch_warnings():
        # That some name was never bound is what half of the samples are about.
        warnings.simplefilter("ignore")
        with capture(function, *local_names(function), limit=None, **{"keep": "graph", **options}) as cap:
            yield cap


@runs
def test_each_return_is_recorded_as_settrace_sees_it(function: types.FunctionType, drive: Drive) -> None:
    """Each real return, with its line and the very objects that the frame held."""
    with everything(function) as cap:
        seen = oracle.watch(function, drive)
    oracle.assert_same(cap.calls, seen.returns)


@runs
def test_results_and_exceptions_are_the_same(function: types.FunctionType, drive: Drive) -> None:
    """The caller sees no difference, down to the columns in tracebacks."""
    expected = oracle.outcome(function, drive)
    with everything(function):
        assert oracle.outcome(function, drive) == expected


@runs
def test_results_are_the_same_with_all_that_can_be_injected(function: types.FunctionType, drive: Drive) -> None:
    """Each assignment recorded and edited to what it is anyway, besides a second capture of the returns."""
    expected = oracle.outcome(function, drive)
    same = {name: lambda value: value for name in local_names(function)}
    with everything(function), everything(function, every=True, edit=same):
        assert oracle.outcome(function, drive) == expected


@runs
def test_the_last_assignment_is_what_the_frame_holds(function: types.FunctionType, drive: Drive) -> None:
    """`every=True` agrees with the values at the return, for names that nothing but the function itself binds."""
    alone = set(function.__code__.co_varnames) - set(function.__code__.co_cellvars)
    with everything(function, every=True) as every, everything(function) as cap:
        outcome = oracle.outcome(function, drive)
    if len(cap.calls) == 1 and not outcome.exception:
        for name, value in cap.calls[0].values.items():
            if name in alone:
                assert every[name][-1] is value, name


@runs
def test_calls_that_do_not_return_are_counted(function: types.FunctionType, drive: Drive) -> None:
    """What raised, or was left unfinished, is the difference between starts and returns."""
    with everything(function) as cap:
        seen = oracle.watch(function, drive)
    assert cap.counts["finished"] == len(seen.returns)
    assert cap.counts["unfinished"] >= bool(seen.outcome.exception and not seen.returns)


@runs
def test_tracers_see_the_same(function: types.FunctionType, drive: Drive) -> None:
    """Every event of every frame, with its line; except where a name turns out to be unbound at a return."""
    expected = oracle.watch(function, drive).events
    with everything(function):
        seen = oracle.watch(function, drive).events
    assert oracle.without_checks(seen) == oracle.without_checks(expected)


def test_tracers_see_no_difference_at_all_where_all_names_are_bound() -> None:
    """The exception to the rule above is needed by no function that binds what is captured."""

    def bound(x: int) -> int:
        y = x
        for i in (1, 2):
            y += i
        return y

    expected = oracle.watch(bound, _with_false).events
    with capture(bound, "x", "y"):
        assert oracle.watch(bound, _with_false).events == expected


def test_a_capture_may_open_and_close_under_a_tracer() -> None:
    """While a debugger or a coverage tool looks on, whose instrumented instructions are not copied."""

    def doubled(x: int) -> int:
        y = 2 * x
        return y

    code = doubled.__code__
    recorded: list[int] = []

    def drive(function: Any) -> None:
        for _ in range(3):
            function(1)
            with capture(function, "y") as cap:
                function(2)
            recorded.extend(cap["y"])

    oracle.watch(doubled, drive)
    assert recorded == [4, 4, 4]
    assert doubled.__code__ is code


def test_a_tracer_is_told_of_the_check_where_a_name_is_unbound(request: pytest.FixtureRequest) -> None:
    """It sees an exception that nobody else sees: the price of a check in bytecode, pinned here; there is no other."""
    is_held = "held" in request.node.callspec.id

    def unbound(bind: bool) -> bool:
        if bind:
            y = 1
        return not bind

    plain = [event.kind for event in oracle.watch(unbound, _with_false).events]
    with everything(unbound):
        checked = [event.kind for event in oracle.watch(unbound, _with_false).events]
    assert (plain.count("exception"), checked.count("exception")) == (0, 0 if is_held else 1)


def _with_false(function: Drive) -> Any:
    return function(False)


def test_a_checked_load_does_not_touch_the_exception_being_handled() -> None:
    """`sys.exception()` and the context of a later exception are as if there were no check."""
    import sys

    def inner(bind: bool) -> BaseException | None:
        if bind:
            y = 1
        return sys.exception()

    def outer() -> None:
        try:
            _ = dict[str, int]()[""]
        except KeyError:
            assert type(inner(False)) is KeyError
            raise ValueError from None

    with everything(inner), pytest.raises(ValueError) as caught:  # noqa: PT011  # its context is what matters
        outer()
    assert type(caught.value.__context__) is KeyError


def test_deep_recursion_is_as_deep_as_ever() -> None:
    """A recursion that fits without a capture fits with one, but for the recorder's own frames at its end."""
    import sys

    def down(n: int) -> int:
        depth = n
        return depth if n == 0 else down(n - 1)

    with capture(down, "depth") as cap:
        down(sys.getrecursionlimit() - 150)
    assert len(cap) == sys.getrecursionlimit() - 149
