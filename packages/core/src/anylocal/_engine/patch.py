"""Puts a rewritten ``__code__`` into a function and takes it out again.

Captures may overlap: a function carries one rewriting that serves all who listen, always made from its own code, and
gets that very code object back when the last one has gone, in whatever order they leave.
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
    """A function that does not have its own code at the moment."""

    def __init__(self, function: types.FunctionType) -> None:
        self.function = function
        self.own = function.__code__
        self.installed = function.__code__
        self.subscriptions: list[Subscription] = []
        self._rewritings: dict[tuple[CaptureSpec, bool], tuple[Plan, types.CodeType]] = {}

    @property
    def is_ours(self) -> bool:
        """Whether nobody else has put other code into the function since."""
        return self.function.__code__ is self.installed

    def update(self) -> None:
        """Give the function the code that serves its subscriptions: its own, if there are none."""
        if not self.subscriptions:
            code = self.own
        else:
            spec = reduce(or_, (subscription.spec for subscription in self.subscriptions))
            code = self._rewriting(spec)
        # Frames that run an earlier rewriting go on to report under its number.
        for plan, _ in self._rewritings.values():
            plan.listen(self.subscriptions)
        if code is not self.installed:
            self.function.__code__ = self.installed = code

    def _rewriting(self, spec: CaptureSpec) -> types.CodeType:
        # Only where there are compilers is it better that names hold something from the start.
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


class _Leaving:
    """Subscriptions on their way out. The garbage collector may close a capture in the midst of our own work."""

    def __init__(self) -> None:
        self.subscriptions: deque[Subscription] = deque()
        self.at_work = False

    def let_go(self) -> None:
        """Detach them all, unless that is being done further up the stack."""
        if self.at_work:
            return
        self.at_work = True
        try:
            while self.subscriptions:
                _detach_one(self.subscriptions.popleft())
        finally:
            self.at_work = False


_leaving: Final = _Leaving()


def attach(subscriptions: Iterable[Subscription]) -> None:
    """Let each subscription be served by its function; all of them or, if one fails, none.

    Raises
    ------
    StateError
        If somebody else has replaced the code of a function while a capture of it is open.
    """
    done: list[Subscription] = []
    dynamo.watch()
    with lock:
        was_at_work, _leaving.at_work = _leaving.at_work, True
        try:
            for subscription in subscriptions:
                done.append(subscription)
                attach_one(subscription)
        except BaseException:
            _leaving.subscriptions.extend(done)
            raise
        finally:
            _leaving.at_work = was_at_work
            _leaving.let_go()
            _tell_compiler()


def _tell_compiler() -> None:
    open_ = [subscription for entry in _patched.values() for subscription in entry.subscriptions]
    # An edit is of some modules' calls only, so that each of them is compiled by itself.
    owners = [len(getattr(s.filter, "members", None) or ()) for s in open_ if s.edits]
    dynamo.code_changed(captured=bool(open_), variants=max(owners, default=0))


def attach_one(subscription: Subscription) -> None:
    function = subscription.function
    entry = _patched.get(function)
    if entry is None:
        entry = _Patched(function)
    if not entry.is_ours:
        msg = (
            f"The code of {function.__qualname__} was replaced by somebody else while a capture of it is open."
            " Close that capture first, or let the other tool undo its patch."
        )
        raise StateError(msg)
    # The name must be there before the first call of the new code, in the builtins that this very function uses.
    # typeshed has the attribute for some versions of Python only.
    builtins: dict[str, object] = attrgetter("__builtins__")(function)
    builtins.setdefault(RECORDER, recorder)
    _patched[function] = entry
    entry.subscriptions.append(subscription)
    entry.update()


def detach(subscriptions: Iterable[Subscription]) -> None:
    """Serve the subscriptions no longer; a function that nobody listens to has its own code back."""
    dynamo.collect()
    with lock:
        _leaving.subscriptions.extend(subscriptions)
        _leaving.let_go()
        _tell_compiler()


def _detach_one(subscription: Subscription) -> None:
    entry = _patched.get(subscription.function)
    if entry is None or subscription not in entry.subscriptions:
        return
    entry.subscriptions.remove(subscription)
    # Somebody else's code stays: to undo it is theirs, and whatever it calls of ours is silent from now on.
    if entry.is_ours:
        entry.update()
    if not entry.subscriptions:
        entry.forget()
        del _patched[subscription.function]


def own_code(function: types.FunctionType) -> types.CodeType:
    """Return the code of a function as it was written, whether or not it is captured at the moment."""
    entry = _patched.get(function)
    return function.__code__ if entry is None or not entry.is_ours else entry.own
