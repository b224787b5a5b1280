"""Puts a rewritten ``__code__`` into a function and takes it out again.

Captures may overlap: a function has one rewriting for all of them, always made from its own code, and gets that very
code object back when the last one is closed, in whatever order.
"""

from __future__ import annotations

import gc
import itertools
import sys
import types
import weakref
from functools import reduce
from operator import attrgetter, or_
from typing import TYPE_CHECKING, Any, Final

from anylocal._engine import dynamo, monitoring, own_code_readers, python, tensors
from anylocal._engine.lock import lock
from anylocal._engine.own import own_of, register
from anylocal._engine.plan import Plan, free_numbers, recorder
from anylocal._engine.spec import RECORDER
from anylocal.errors import StateError, VersionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anylocal._engine.spec import CaptureSpec
    from anylocal._engine.subscription import Subscription

# typeshed has the attribute for some versions of Python only.
_builtins_of: Final = attrgetter("__builtins__")
_numbers: Final = itertools.count(1)

# By the identity of a function's own code: whether each call is to be told of as it starts.
_told: Final[dict[int, bool]] = {}

# By the identity of a function: its rewritings for the next capture, which most often asks for the same.
_kept: Final[dict[int, _Kept]] = {}
_MOST_KEPT: Final = 4


class _Kept:
    """Rewritings of a function that nothing runs; they go with it, or as it has other code."""

    def __init__(self) -> None:
        self.own: types.CodeType | None = None
        self.rewritings: dict[tuple[CaptureSpec, bool, bool], tuple[Plan, types.CodeType]] = {}

    def take(self, function: types.FunctionType, own: types.CodeType) -> dict[Any, tuple[Plan, types.CodeType]]:
        """Return those that serve a function still, and keep them no longer."""
        kept, self.rewritings = self.rewritings, {}
        if self.own is not own or not kept:
            return {}
        # What a frame runs still, such as that of a generator, must not be heard again.
        for key in _held(kept, _ALONE):
            del kept[key]
        name = _name_of_recorder(function)
        for key, (_, code) in tuple(kept.items()):
            if name in code.co_names:
                monitoring.share_events(own, code)
            else:
                del kept[key]
        return kept


def _held(rewritings: dict[Any, tuple[Any, types.CodeType]], alone: int) -> list[Any]:
    """Return the keys of those whose code has more references than it has `alone`, as from a frame or a function."""
    return [key for key, rewriting in rewritings.items() if sys.getrefcount(rewriting[1]) > alone]


# How many that are differs between versions of Python.
_ALONE: Final = next(count for count in range(9) if not _held({None: (None, compile("", "", "exec"))}, count))


def _kept_of(function: types.FunctionType) -> _Kept:
    kept = _kept.get(id(function))
    if kept is None:
        kept = _kept[id(function)] = _Kept()
        weakref.finalize(function, _kept.pop, id(function), None).atexit = False
    return kept


class _Patched:
    """A function with rewritten code."""

    def __init__(self, function: types.FunctionType) -> None:
        self.function = function
        self.own = own_of(function.__code__)
        self.subscriptions: list[Subscription] = []
        self._kept = _kept_of(function)
        self._rewritings = self._kept.take(function, self.own)

    @property
    def is_ours(self) -> bool:
        """Whether the function still has its own code, or a rewriting of it."""
        code = self.function.__code__
        return code is self.own or own_of(code) is self.own

    def records_calls(self) -> bool:
        """Return whether the code that the function has now calls the recorder under a number of this function.

        A copy of the code, as a profiler makes, does.
        """
        return any(plan.is_called_by(self.function.__code__) for plan, _ in self._rewritings.values())

    def update(self) -> None:
        """Put the code for the subscriptions into the function: its own code, without any."""
        subscriptions: list[Subscription] | None = None
        # The garbage collector may close a capture meanwhile, in this very thread.
        while subscriptions != self.subscriptions:
            subscriptions = self.subscriptions.copy()
            code = self._rewriting(subscriptions) if subscriptions else self.own
            # Frames that run an earlier rewriting go on calling the recorder under its number; without subscriptions
            # the plans are forgotten next.
            for plan, _ in tuple(self._rewritings.values()) if subscriptions else ():
                plan.listen(subscriptions)
            if self.function.__code__ is not code:
                self.function.__code__ = code

    def _rewriting(self, subscriptions: list[Subscription]) -> types.CodeType:
        spec = reduce(or_, (s.spec for s in subscriptions))
        # A compiler continues no graph inside of an exception region.
        starts = any(s.hears_starts for s in subscriptions) or dynamo.is_used() or _must_tell_starts(self.own)
        # Only where compilers may trace the code is it better that names hold a value from the start.
        key = spec, tensors.is_loaded(), starts
        if key not in self._rewritings:
            free = free_numbers(self.own, key)
            # Who only imports the library waits for no rewriter.
            from anylocal._engine.rewrite import rewrite

            number = free.pop() if free else next(_numbers)
            code = rewrite(self.own, number, *key, _name_of_recorder(self.function))
            register(code, self.own)
            monitoring.share_events(self.own, code)
            weakref.finalize(code, free.append, number).atexit = False
            self._rewritings.setdefault(key, (Plan(number, spec, starts=starts), code))
        return self._rewritings[key][1]

    def forget(self) -> list[types.CodeType]:
        """Drop all plans of the function, and return the rewritings that something else holds."""
        rewritings, self._rewritings = self._rewritings, {}
        # No variable may hold a code.
        for rewriting in rewritings.values():
            rewriting[0].fall_silent()
        kept = rewritings if len(rewritings) <= _MOST_KEPT else dict(list(rewritings.items())[-_MOST_KEPT:])
        self._kept.own, self._kept.rewritings = self.own, kept
        return [rewritings[key][1] for key in _held(rewritings, _ALONE)]


def _must_tell_starts(own: types.CodeType) -> bool:
    told = _told.get(id(own))
    if told is None:
        # As above.
        from anylocal._engine.rewrite import must_tell_starts

        told = _told[id(own)] = must_tell_starts(own)
        weakref.finalize(own, _told.pop, id(own), None).atexit = False
    return told


def _name_of_recorder(function: types.FunctionType) -> str:
    """Return the name under which the code of a function finds the recorder, in the builtins that it uses."""
    builtins: dict[str, object] = _builtins_of(function)
    if builtins.get(RECORDER) is recorder and RECORDER not in function.__globals__:
        return RECORDER
    names = itertools.chain([RECORDER], (f"{RECORDER}{number}" for number in itertools.count(1)))
    free = (n for n in names if n not in function.__globals__ and builtins.get(n, recorder) is recorder)
    name = next(free)
    # It must exist before the first call of the new code.
    builtins[name] = recorder
    return name


_patched: Final[dict[types.FunctionType, _Patched]] = {}


def attach(subscriptions: Iterable[Subscription]) -> None:
    """Attach each subscription to its function; all of them or, if anything is raised, none.

    Raises
    ------
    StateError
        If the code of a function was replaced by other code while a capture of it is open.
    VersionError
        If Python runs without its global interpreter lock.
    """
    if not python.has_gil():
        raise VersionError(
            "Python runs without its global interpreter lock, where anylocal has not been tested: records of several"
            " threads could be lost or mixed. Start Python with PYTHON_GIL=1 or -X gil=1."
        )
    subscriptions = tuple(subscriptions)
    try:
        dynamo.watch()
        with lock:
            for subscription in subscriptions:
                attach_one(subscription)
            for entry in _entries_of(subscriptions):
                entry.update()
            _notify()
    except BaseException:
        detach(subscriptions)
        raise


def _notify() -> None:
    open_ = [subscription for entry in list(_patched.values()) for subscription in entry.subscriptions]
    own_code_readers.code_changed(captured=bool(open_))
    # An edit concerns the calls of some modules only, so each of them is compiled separately.
    owners = [len(s.members or ()) for s in open_ if s.edits]
    dynamo.code_changed(captured=bool(open_), variants=max(owners, default=0))


def attach_one(subscription: Subscription) -> None:
    """Add a subscription to those of its function, whose code is updated once for all of them."""
    function = subscription.function
    entry = _patched.get(function)
    if entry is None:
        entry = _Patched(function)
    if not entry.is_ours:
        raise StateError(
            f"The code of {function.__qualname__} was replaced by another tool while a capture of it is open."
            " Close that capture first, or let the other tool undo its patch."
        )
    _patched[function] = entry
    entry.subscriptions.append(subscription)


def _entries_of(subscriptions: Iterable[Subscription]) -> list[_Patched]:
    functions = dict.fromkeys([subscription.function for subscription in subscriptions])
    return [entry for function in functions if (entry := _patched.get(function)) is not None]


def detach(subscriptions: Iterable[Subscription]) -> None:
    """Detach the subscriptions; a function without any gets its own code back.

    It may be repeated if anything, such as Ctrl-C, cuts it short.
    """
    dynamo.collect()
    with lock:
        held: list[types.CodeType] = []
        entries = _entries_of(subscriptions)
        for subscription in subscriptions:
            entry = _patched.get(subscription.function)
            if entry is not None and subscription in entry.subscriptions:
                entry.subscriptions.remove(subscription)
        for entry in entries:
            held += _settle(entry)
        _notify()
        _take_back(held)


def _settle(entry: _Patched) -> list[types.CodeType]:
    """Give a function the code for the subscriptions that are left, and return rewritings that something else holds."""
    # Code of another tool stays; it may still call the recorder, where nothing listens any more.
    if entry.is_ours:
        entry.update()
    if entry.subscriptions:
        return []
    held = entry.forget()
    _patched.pop(entry.function, None)
    return held


def _take_back(codes: list[types.CodeType]) -> None:
    """Give their own code to functions into which others put ours, as ``old.__code__ = new.__code__`` of a reload does.

    Most often only frames that still run hold the code.
    """
    for holder in gc.get_referrers(*codes) if codes else ():
        if type(holder) is types.FunctionType and any(holder.__code__ is code for code in codes):
            holder.__code__ = own_of(holder.__code__)


def replaced(subscriptions: Iterable[Subscription]) -> list[types.FunctionType]:
    """Return the functions into which other code was put that records nothing."""
    with lock:
        entries = _entries_of(subscriptions)
        return [entry.function for entry in entries if not (entry.is_ours or entry.records_calls())]


def own_code(function: types.FunctionType) -> types.CodeType:
    """Return the code of a function as it was written, whether or not it is captured at the moment."""
    return own_of(function.__code__)
