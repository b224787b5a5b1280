"""Warnings of captures that recorded nothing, with the reason.

Others may know reasons that the engine does not: `register` takes the dotted name of an explainer, a function of the
captured function that returns the end of a sentence, or an empty string. It is imported when a reason is needed.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

from anylocal._engine.subscription import OTHER_THREADS
from anylocal.errors import EditNotAppliedWarning, NothingRecordedWarning

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anylocal._engine.records import Log
    from anylocal._engine.subscription import Subscription

_MOST: Final = 3
_explainers: Final[dict[str, None]] = {}


def register(explainer: str) -> None:
    """Ask an explainer, such as ``"package.module:function"``, why a function returned without binding a name."""
    _explainers[explainer] = None


def warn_of_missing_names(label: str, subscriptions: Iterable[Subscription], log: Log, names: Iterable[str]) -> None:
    """Warn of each name without a single value, and of each edit that was never applied."""
    subscriptions = tuple(subscriptions)
    if log.full:
        return
    records = log.records
    seen = {name for record in records for name in record.names} | log.forgotten_names
    missing = [name for name in names if name not in seen]
    if missing:
        concerned = [s for s in subscriptions if {*s.spec.returned, *s.spec.assigned} & set(missing)]
        what = ", ".join(map(repr, missing))
        message = f"The capture of {label} recorded no value of {what}: {_reason(concerned, missing)}"
        warnings.warn(NothingRecordedWarning(message), stacklevel=3)
    applied = {name for s in subscriptions for name in s.edited}
    idle = sorted({name for s in subscriptions for name in s.spec.edited} - applied)
    if idle:
        concerned = [s for s in subscriptions if s.spec.edited & set(idle)]
        message = f"The edit of {', '.join(map(repr, idle))} was never applied: {_reason(concerned, idle)}"
        warnings.warn(EditNotAppliedWarning(message), stacklevel=3)


def warn_of_no_calls(label: str, what: str, subscriptions: list[Subscription], log: Log) -> None:
    """Warn if none of the functions finished a call."""
    concerned = {id(s.request) for s in subscriptions}
    finished = any(r.kind == "returned" and id(r.request) in concerned for r in log.records) or any(
        s.function in log.forgotten_functions for s in subscriptions
    )
    if not finished and not log.full:
        message = f"The capture of {label} recorded no {what}: {_reason(subscriptions, [])}"
        warnings.warn(NothingRecordedWarning(message), stacklevel=4)


def _reason(subscriptions: list[Subscription], names: list[str]) -> str:
    # One function may have several requests.
    functions = list(dict.fromkeys(s.function.__qualname__ for s in subscriptions))
    listed = ", ".join(functions[:_MOST])
    listed += f" and {len(functions) - _MOST} more" if len(functions) > _MOST else ""
    were = "were" if len(functions) > 1 else "was"
    finished = [s for s in subscriptions if s.last_line is not None]
    if finished:
        return _unbound(finished[-1], names)
    called = [s for s in subscriptions if s.called]
    if called and not any(s.records for s in called):
        return f"{listed} ran without it."
    if called:
        return f"every call of {listed} raised, or was left unfinished."
    others = next((s.others_called for s in subscriptions if s.others_called), "")
    if others:
        remedy = "Leave threads= out" if others == OTHER_THREADS else "Capture the one that runs, or the class"
        return f"{listed} {were} called, but {others}. {remedy}."
    return f"{listed} {were} not called while the capture was open."


def _unbound(subscription: Subscription, names: list[str]) -> str:
    # Here only: a warning can wait for it, every import of anylocal could not.
    from pkgutil import resolve_name

    function, line = subscription.function, subscription.last_line
    them = "it" if len(names) == 1 else "them"
    more = next(filter(None, (resolve_name(name)(function) for name in _explainers)), "")
    ending = f": {more}." if more else "."
    return f"{function.__qualname__} returned at line {line} on a path that never binds {them}{ending}"
