"""What really happens in a function, as `sys.settrace` sees it: the oracle that captures are compared with."""

from __future__ import annotations

import dis
import re
import sys
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from anylocal._engine.rewrite import UNBOUND

if TYPE_CHECKING:
    import types
    from collections.abc import Callable

    from anylocal import Call

_RETURNS = frozenset({"RETURN_VALUE", "RETURN_CONST"})


class Return(NamedTuple):
    """One call that returned: from which line, and what its names held."""

    line: int
    values: dict[str, Any]


class Outcome(NamedTuple):
    """What a caller sees: a result, or an exception with the lines and columns of its traceback.

    And the exceptions that Python only prints, as of a generator that yields once more when it is dropped.
    """

    result: str
    exception: str
    positions: list[tuple[str, int | None, int | None, int | None, int | None]]
    printed: list[str]


class Event(NamedTuple):
    """What a tracer is told."""

    function: str
    kind: str
    line: int


class Seen(NamedTuple):
    """All that was seen: what the caller got, the returns of the function, and every event a tracer was told of."""

    outcome: Outcome
    returns: list[Return]
    events: list[Event]


def outcome(function: Any, drive: Callable[[Any], Any]) -> Outcome:
    """Run a function and return what its caller sees."""
    printed: list[str] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda told: printed.append(plain(f"{type(told.exc_value).__name__}: {told.exc_value}"))
    try:
        result = drive(function)
    except Exception as error:  # noqa: BLE001  # samples raise what they like
        return Outcome("", plain(f"{type(error).__name__}: {error}"), _positions(error, function), printed)
    finally:
        sys.unraisablehook = before
    return Outcome(plain(repr(result)), "", [], printed)


def watch(function: Any, drive: Callable[[Any], Any]) -> Seen:
    """Run a function under a tracer, and return what both its caller and the tracer see."""
    code = function.__code__
    returns: list[Return] = []
    events: list[Event] = []

    def tracer(frame: types.FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != code.co_filename:
            return None
        # The event comes at each yield, await and exception too, where the instruction is another.
        if event == "return" and dis.opname[frame.f_code.co_code[frame.f_lasti]] not in _RETURNS:
            event = "pause"
        events.append(Event(frame.f_code.co_qualname, event, frame.f_lineno))
        if event == "return" and frame.f_code is code:
            held = {name: value for name, value in frame.f_locals.items() if value is not UNBOUND}
            returns.append(Return(frame.f_lineno, held))
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        seen = outcome(function, drive)
    finally:
        sys.settrace(before)
    return Seen(seen, returns, events)


def assert_same(calls: list[Call], returns: list[Return]) -> None:
    """Assert that what was recorded are the very objects that the frame held, no more and no less."""
    recorded = [(call.line, dict(call.values)) for call in calls]
    expected = [(r.line, {k: v for k, v in r.values.items() if k != "__class__"}) for r in returns]
    assert [(line, sorted(values)) for line, values in recorded] == [(line, sorted(v)) for line, v in expected]
    for (_, values), (_, wanted) in zip(recorded, expected, strict=True):
        for name, value in values.items():
            assert value is wanted[name], name


def without_checks(events: list[Event]) -> list[Event]:
    """Leave out what a tracer is told where a name turns out to be unbound as its function returns.

    That is the exception of each checked load, and on 3.11 the line once more.
    """
    kept: list[Event] = []
    for event in events:
        if event.kind == "return":
            while kept[-1].kind == "exception" or (kept[-2].kind == "exception" and kept[-1].kind == "line"):
                del kept[-1 if kept[-1].kind == "exception" else -2 :]
        kept.append(event)
    return kept


def _positions(error: BaseException, function: Any) -> list[tuple[str, Any, Any, Any, Any]]:
    frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
    return [
        (frame.name, frame.lineno, frame.end_lineno, frame.colno, frame.end_colno)
        for frame in frames
        if frame.filename == function.__code__.co_filename
    ]


def plain(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
