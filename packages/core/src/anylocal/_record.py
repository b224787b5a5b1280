"""What the rewritten code calls: one finished call -> one record.

The name ``__anylocal__`` in the builtins stands for `Recorder`. Its functions are called with the number of a plan,
which knows who listens to the function. A number that is unknown (the function has its own code back, but a frame of
the rewritten one still runs) is nobody's business.
"""

from __future__ import annotations

import contextlib
import threading
import types
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from anylocal import _torch
from anylocal._memory import Budget
from anylocal._rewrite import UNBOUND, Wants
from anylocal.errors import LimitWarning


class Record(NamedTuple):
    """One thing that happened in a function; `names` is empty for its start."""

    subscription: Subscription
    kind: str
    line: int
    module: Any
    thread: int | None
    names: tuple[str, ...]
    values: tuple[Any, ...]
    versions: tuple[int | None, ...]


class Log:
    """All records of one capture, in the order in which they came, and the switch that stops them."""

    def __init__(self, limit: int | str | None) -> None:
        self.records: list[Record] = []
        self.open = False
        self.active = False
        self.full = False
        self.full_was_told = False
        self.thread: int | None = None
        self.budget = Budget(limit)

    def clear(self) -> None:
        """Forget everything, and record again if the limit had been reached."""
        self.records.clear()
        self.budget.clear()
        if self.full:
            self.full, self.full_was_told, self.active = False, False, True

    def start(self, record: Record) -> None:
        """Take the start of a call, unless the limit is reached: calls that all raise are bounded as well."""
        if self.budget.take_start():
            self.records.append(record)
        else:
            self._stop()

    def add(self, record: Record) -> None:
        """Take a record, unless the limit is reached."""
        if self.budget.take(record.values):
            self.records.append(record)
        else:
            self._stop()

    def _stop(self) -> None:
        self.active, self.full = False, True
        # Where warnings are errors, the model goes on all the same, and the end of the scope says it again.
        with contextlib.suppress(LimitWarning):
            self.tell_that_full(stacklevel=6)

    def tell_that_full(self, stacklevel: int) -> None:
        """Warn, once, that the limit is reached."""
        if not self.full or self.full_was_told:
            return
        recorded = sum(bool(record.names) for record in self.records)
        message = (
            f"The capture reached its limit ({self.budget}) after {recorded} records and stopped recording;"
            ' the model goes on. Clear it between batches, record less (modules=, keep=), or raise limit="…GiB".'
        )
        warnings.warn(LimitWarning(message), stacklevel=stacklevel)
        self.full_was_told = True


class Subscription:
    """What one capture wants from one function, and from whose calls of it.

    Parameters
    ----------
    function : types.FunctionType
        The function.
    log : Log
        Where records go.
    wants : Wants
        What to record and to edit.
    keep : callable
        Makes of a value what is recorded of it.
    edits : mapping of str to callable
        The new value of a name from the value that would be assigned.
    accepts : callable, optional
        Whether a call on behalf of an owner (``self``, ``module``) counts; None for every call.
    joined : frozenset of str
        Names recorded at their assignments and handed over with the call that they belong to.
    """

    __slots__ = (
        "accepts", "called", "edited", "edits", "function", "joined", "keep", "log", "others_called", "records",
        "reported", "start", "tells_owner", "wants",
    )  # fmt: skip

    def __init__(
        self,
        function: types.FunctionType,
        log: Log,
        *,
        wants: Wants,
        keep: Callable[[Any], Any],
        edits: Mapping[str, Callable[[Any], Any]] = MappingProxyType({}),
        accepts: Callable[[object], bool] | None = None,
        joined: frozenset[str] = frozenset(),
    ) -> None:
        self.function = function
        self.wants = wants
        self.log = log
        self.keep = keep
        self.edits = edits
        self.accepts = accepts
        self.joined = joined
        self.reported = ("returned",) if joined or not wants.assigned else ("assigned",)
        self.edited: set[str] = set()
        self.called = False
        # How calls differed that were made, but not captured.
        self.others_called = ""
        # A subscription that wants nothing at all is there to see when calls start and finish.
        self.records = bool(wants.returned or wants.assigned or wants.resulted or not wants.edited)
        self.tells_owner = bool(wants.assigned or wants.resulted or not wants.returned)
        self.start = Record(self, "entered", function.__code__.co_firstlineno, None, None, (), (), ())

    def concerns(self, owner: object) -> bool:
        """Say whether a call is one of those that are captured."""
        log = self.log
        if not log.open:
            return False
        if self.accepts is not None and not self.accepts(owner):
            self.others_called = "on behalf of other objects than the one captured"
            return False
        if log.thread is not None and log.thread != threading.get_ident():
            self.others_called = "in other threads than the one that opened the capture"
            return False
        return True

    def begin(self, owner: object) -> None:
        """Record that a call starts; whose it is matters only where assignments are joined to their call."""
        self.called = True
        if not self.records or not self.log.active:
            return
        start = self.start
        if self.tells_owner:
            module = owner if _torch.is_module(owner) else None
            start = start._replace(module=module, thread=threading.get_ident())
        self.log.start(start)

    def add(self, kind: str, line: int, owner: object, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        """Record what names held; those that held nothing are left out."""
        if not self.records or not self.log.active:
            return
        bound = [i for i, value in enumerate(values) if value is not UNBOUND]
        if len(bound) != len(values):
            names, values = tuple(names[i] for i in bound), tuple(values[i] for i in bound)
        kept = tuple(self._keep(name, line, value) for name, value in zip(names, values, strict=True))
        self.log.add(
            Record(
                self,
                kind,
                line,
                owner if _torch.is_module(owner) else None,
                threading.get_ident(),
                names,
                kept,
                tuple(map(_torch.version, kept)),
            )
        )

    def edit(self, line: int, name: str, value: Any) -> Any:
        """Return what the user makes of a value."""
        try:
            edited = self.edits[name](value)
        except Exception as error:
            error.add_note(f"Raised by edit= for {self._place(name, line)}")
            raise
        self.edited.add(name)
        return edited

    def _keep(self, name: str, line: int, value: Any) -> Any:
        try:
            return self.keep(value)
        except Exception as error:
            error.add_note(f"Raised by keep= for {self._place(name, line)}")
            raise

    def _place(self, name: str, line: int) -> str:
        return f"{name!r} in {self.function.__qualname__}, line {line} of {self.function.__code__.co_filename}"


class Plan:
    """One rewriting of one function: what its recorder calls carry, and who listens.

    `listeners` is replaced as a whole when it changes, so that a running call sees one state or the other.
    """

    __slots__ = ("listeners", "wants")

    def __init__(self, wants: Wants) -> None:
        self.wants = wants
        self.listeners: tuple[tuple[Subscription, tuple[int, ...]], ...] = ()

    def listen(self, subscriptions: list[Subscription]) -> None:
        """Serve those subscriptions whose wants this rewriting covers, by the places of their names in it."""
        place = {name: i for i, name in enumerate(self.wants.returned)}
        self.listeners = tuple(
            (subscription, tuple(place[name] for name in subscription.wants.returned))
            for subscription in subscriptions
            if self.wants.covers(subscription.wants)
        )


plans: Final[dict[int, Plan]] = {}


def entered(number: int, owner: object) -> None:
    """Note that a call starts."""
    plan = plans.get(number)
    if plan is not None:
        for subscription, _ in plan.listeners:
            if subscription.concerns(owner):
                subscription.begin(owner)


def returned(number: int, line: int, owner: object, *values: Any) -> None:
    """Record what the names hold as a call returns."""
    plan = plans.get(number)
    if plan is not None:
        for subscription, places in plan.listeners:
            if subscription.concerns(owner):
                picked = tuple(values[i] for i in places)
                subscription.add("returned", line, owner, subscription.wants.returned, picked)


def assigned(number: int, line: int, name: str, owner: object, value: Any) -> None:
    """Record a value that was just assigned."""
    plan = plans.get(number)
    if plan is not None:
        for subscription, _ in plan.listeners:
            if name in subscription.wants.assigned and subscription.concerns(owner):
                subscription.add("assigned", line, owner, (name,), (value,))


def resulted(number: int, line: int, name: str, owner: object, value: Any) -> None:
    """Record a value that was just assigned from a call of what was asked for."""
    plan = plans.get(number)
    if plan is not None:
        for subscription, _ in plan.listeners:
            if any(wanted == name for wanted, _ in subscription.wants.resulted) and subscription.concerns(owner):
                subscription.add("assigned", line, owner, (name,), (value,))


def edited(number: int, line: int, name: str, owner: object, value: Any) -> Any:
    """Return what is to be assigned instead of a value."""
    plan = plans.get(number)
    if plan is not None:
        for subscription, _ in plan.listeners:
            if name in subscription.edits and subscription.concerns(owner):
                value = subscription.edit(line, name, value)
    return value


class Recorder:
    """What rewritten code calls: the functions above under one name.

    A class, for dynamo traces nothing else than callables and constants among the builtins.
    """

    entered = staticmethod(entered)
    returned = staticmethod(returned)
    assigned = staticmethod(assigned)
    resulted = staticmethod(resulted)
    edited = staticmethod(edited)
