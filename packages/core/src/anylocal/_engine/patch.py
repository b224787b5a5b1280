"""Puts a rewritten ``__code__`` into a function and takes it out again.

Captures may overlap: a function has one rewriting for all of them, always made from its own code, and gets that very
code object back when the last one is closed, in whatever order.
"""

from __future__ import annotations

import itertools
from collections import deque
from functools import reduce
from operator import attrgetter, or_
from typing import TYPE_CHECKING, Final

from anylocal._engine import dynamo, tensors
from anylocal._engine.lock import lock
from anylocal._engine.plan import Plan, recorder
from anylocal._engine.rewrite import RECORDER, rewrite
from anylocal.errors import StateError

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable

    from anylocal._engine.spec import CaptureSpec
    from anylocal._engine.subscription import Subscription

_numbers: Final = itertools.count(1)


class _Patched:
    """A function with rewritten code."""

    def __init__(self, function: types.FunctionType) -> None:
        self.function = function
        self.own = function.__code__
        self.installed = function.__code__
        self.subscriptions: list[Subscription] = []
        self._rewritings: dict[tuple[CaptureSpec, bool], tuple[Plan, types.CodeType]] = {}

    @property
    def is_ours(self) -> bool:
        """Whether the function still has the code that was put into it here."""
        return self.function.__code__ is self.installed

    def update(self) -> None:
        """Put the code for the subscriptions into the function: its own code, without any."""
        if not self.subscriptions:
            code = self.own
        else:
            spec = reduce(or_, (subscription.spec for subscription in self.subscriptions))
            code = self._rewriting(spec)
        # Frames that run an earlier rewriting go on calling the recorder under its number.
        for plan, _ in self._rewritings.values():
            plan.listen(self.subscriptions)
        if code is not self.installed:
            self.function.__code__ = self.installed = code

    def _rewriting(self, spec: CaptureSpec) -> types.CodeType:
        # Only where compilers may trace the code is it better that names hold a value from the start.
        key = spec, tensors.is_loaded()
        if key not in self._rewritings:
            number = next(_numbers)
            code = rewrite(self.own, number, *key)
            plan = Plan(number, spec)
            plan.end_with(code)
            self._rewritings[key] = plan, code
        return self._rewritings[key][1]

    def forget(self) -> None:
        """Drop all plans of the function."""
        for plan, _ in self._rewritings.values():
            plan.forget()


_patched: Final[dict[types.FunctionType, _Patched]] = {}


class _Detaching:
    """Subscriptions to detach. The garbage collector may close a capture while functions are being patched."""

    def __init__(self) -> None:
        self.subscriptions: deque[Subscription] = deque()
        self.is_running = False

    def run(self) -> None:
        """Detach them all, unless a caller is patching functions."""
        if self.is_running:
            return
        self.is_running = True
        try:
            while self.subscriptions:
                _detach_one(self.subscriptions.popleft())
        finally:
            self.is_running = False


_detaching: Final = _Detaching()


def attach(subscriptions: Iterable[Subscription]) -> None:
    """Attach each subscription to its function; all of them or, if one fails, none.

    Raises
    ------
    StateError
        If the code of a function was replaced by other code while a capture of it is open.
    """
    done: list[Subscription] = []
    dynamo.watch()
    with lock:
        was_running, _detaching.is_running = _detaching.is_running, True
        try:
            for subscription in subscriptions:
                done.append(subscription)
                attach_one(subscription)
        except BaseException:
            _detaching.subscriptions.extend(done)
            raise
        finally:
            _detaching.is_running = was_running
            _detaching.run()
            _notify_compiler()


def _notify_compiler() -> None:
    open_ = [subscription for entry in _patched.values() for subscription in entry.subscriptions]
    # An edit concerns the calls of some modules only, so each of them is compiled separately.
    owners = [len(getattr(s.filter, "members", None) or ()) for s in open_ if s.edits]
    dynamo.code_changed(captured=bool(open_), variants=max(owners, default=0))


def attach_one(subscription: Subscription) -> None:
    function = subscription.function
    entry = _patched.get(function)
    if entry is None:
        entry = _Patched(function)
    if not entry.is_ours:
        raise StateError(
            f"The code of {function.__qualname__} was replaced by another tool while a capture of it is open."
            " Close that capture first, or let the other tool undo its patch."
        )
    # The name must exist before the first call of the new code, in the builtins that this very function uses.
    # typeshed has the attribute for some versions of Python only.
    builtins: dict[str, object] = attrgetter("__builtins__")(function)
    builtins.setdefault(RECORDER, recorder)
    _patched[function] = entry
    entry.subscriptions.append(subscription)
    entry.update()


def detach(subscriptions: Iterable[Subscription]) -> None:
    """Detach the subscriptions; a function without any gets its own code back."""
    dynamo.collect()
    with lock:
        _detaching.subscriptions.extend(subscriptions)
        _detaching.run()
        _notify_compiler()


def _detach_one(subscription: Subscription) -> None:
    entry = _patched.get(subscription.function)
    if entry is None or subscription not in entry.subscriptions:
        return
    entry.subscriptions.remove(subscription)
    # Code of another tool stays; it may still call the recorder, where nothing listens any more.
    if entry.is_ours:
        entry.update()
    if not entry.subscriptions:
        entry.forget()
        del _patched[subscription.function]


def own_code(function: types.FunctionType) -> types.CodeType:
    """Return the code of a function as it was written, whether or not it is captured at the moment."""
    entry = _patched.get(function)
    return function.__code__ if entry is None or not entry.is_ours else entry.own
