"""Warnings of captures that recorded nothing, with the reason."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

from anylocal._engine.explainers import REGISTERED
from anylocal._engine.subscription import OTHER_THREADS
from anylocal.errors import CodeReplacedWarning, EditNotAppliedWarning, NothingRecordedWarning, level_of_user

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable, Sequence

    from anylocal._engine.records import Log
    from anylocal._engine.subscription import Subscription

_MOST: Final = 3
_NEVER_MADE: Final = "; where a fused kernel runs, a model never makes the value"


def warn_of_missing_names(
    label: str, subscriptions: Iterable[Subscription], log: Log, names: Iterable[str], *, of_model: bool
) -> None:
    """Warn of each name without a value, in a model also of one that was only None, and of edits without effect."""
    subscriptions = tuple(subscriptions)
    if log.full:
        return
    seen = log.seen_names()
    missing = [name for name in names if name not in seen]
    empty = [name for name in names if of_model and seen.get(name) is False]
    if empty:
        what = f"{', '.join(map(repr, empty))} was None in every call that the capture of {label} recorded"
        concerned = [s for s in subscriptions if set(s.request.names) & set(empty) and s.last_line is not None]
        warnings.warn(NothingRecordedWarning(what + _NEVER_MADE + _kernel(concerned)), stacklevel=3)
    if missing:
        warn_of_no_value(label, subscriptions, missing)
    applied = {name for s in subscriptions for name in s.edited}
    met_none = sorted({name for s in subscriptions for name in s.kept_none} - applied)
    if met_none:
        concerned = [s for s in subscriptions if s.kept_none & set(met_none)]
        what = (
            f"The edit of {', '.join(map(repr, met_none))} had no effect: it was given None and returned None each time"
        )
        warnings.warn(EditNotAppliedWarning(what + _NEVER_MADE + _kernel(concerned)), stacklevel=3)
    idle = sorted({name for s in subscriptions for name in s.spec.edited} - applied - set(met_none))
    if idle:
        concerned = [s for s in subscriptions if s.spec.edited & set(idle)]
        message = f"The edit of {', '.join(map(repr, idle))} was never applied: {_reason(concerned, idle)}"
        warnings.warn(EditNotAppliedWarning(message), stacklevel=3)


def warn_of_no_value(label: str, subscriptions: Iterable[Subscription], missing: Sequence[str]) -> None:
    """Warn that some names have no value, with the reason."""
    concerned = [s for s in subscriptions if set(s.request.names) & set(missing)]
    what = ", ".join(map(repr, missing))
    message = f"The capture of {label} recorded no value of {what}: {_reason(concerned, missing)}"
    warnings.warn(NothingRecordedWarning(message), stacklevel=level_of_user())


def warn_of_replaced(label: str, functions: Sequence[types.FunctionType]) -> None:
    """Warn of functions that have other code, or have been defined again, since the capture was opened."""
    if functions:
        message = (
            f"{_listed([function.__qualname__ for function in functions])}: replaced while the capture of {label} was"
            " open (by a reload, a cell executed again or another tool), and calls of the new code are not recorded."
            " Open a capture after that."
        )
        warnings.warn(CodeReplacedWarning(message), stacklevel=level_of_user())


def warn_of_no_calls(label: str, what: str, subscriptions: list[Subscription], log: Log) -> None:
    """Warn if none of the functions finished a call."""
    concerned = {id(s.request) for s in subscriptions}
    finished = any(r.kind == "returned" and id(r.request) in concerned for r in log.records) or any(
        s.function in log.forgotten_functions for s in subscriptions
    )
    if not finished and not log.full:
        message = f"The capture of {label} recorded no {what}: {_reason(subscriptions, [])}"
        warnings.warn(NothingRecordedWarning(message), stacklevel=4)


def _reason(subscriptions: list[Subscription], names: Sequence[str]) -> str:
    # One function may have several requests.
    functions = list(dict.fromkeys(s.function.__qualname__ for s in subscriptions))
    listed = _listed(functions)
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


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


def _unbound(subscription: Subscription, names: Sequence[str]) -> str:
    function, line = subscription.function, subscription.last_line
    them = "it" if len(names) == 1 else "them"
    return f"{function.__qualname__} returned at line {line} on a path that never binds {them}{_kernel([subscription])}"


def _kernel(subscriptions: list[Subscription]) -> str:
    """Return the end of a sentence, with what explainers know of the functions."""
    # Here only: a warning can wait for it, every import of anylocal could not.
    from pkgutil import resolve_name

    explainers = [resolve_name(name) for name in REGISTERED]
    reasons = (
        explain(function) for explain in explainers for function in dict.fromkeys(s.function for s in subscriptions)
    )
    more = next(filter(None, reasons), "")
    return f": {more}." if more else "."
