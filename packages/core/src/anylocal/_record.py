"""What is recorded of calls, and for whom: one finished call -> one record.

Records lie flat in one list, for tuples that last are looked at by each garbage collection; memory is counted for
several records at once.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import get_ident
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from anylocal import _compiled, _torch
from anylocal._lock import lock
from anylocal._memory import Budget
from anylocal._rewrite import UNBOUND, Wants
from anylocal.errors import LimitWarning, UnsupportedError, level_of_user

OTHER_OBJECTS: Final = "on behalf of other objects than the one captured"
OTHER_THREADS: Final = "in other threads than the one that opened the capture"


class Record(NamedTuple):
    """One thing that happened in a function; `names` is empty for its start."""

    subscription: Subscription
    kind: str
    line: int
    module: Any
    thread: int | None
    names: tuple[str, ...]
    values: tuple[Any, ...]
    versions: tuple[int | tuple[int | None, ...] | None, ...]
    # What tells a call from others of the same function in the same thread, where that matters.
    frame: int | None = None


class Log:
    """All records of one capture, in the order in which they came, and the switch that stops them."""

    def __init__(self, limit: int | str | None) -> None:
        # Of each record: its head, line, module, thread (where that matters, with the frame), and the values and
        # versions of the names.
        self.raw: list[Any] = []
        self.open = False
        self.active = False
        self.full = False
        self.full_was_told = False
        self.thread: int | None = None
        self.budget = Budget(limit)
        self.starts = _Count()
        # How many records may come before the next look; not exact where threads meet, and need not be.
        self.ahead = 0
        # Of what was forgotten: the names that had values, and the functions that finished a call.
        self.forgotten_names: set[str] = set()
        self.forgotten_functions: weakref.WeakSet[types.FunctionType] = weakref.WeakSet()
        # Up to where the budget has counted, and has looked at, what is recorded.
        self._counted = self._looked = 0

    @property
    def records(self) -> tuple[Record, ...]:
        """All records so far."""
        return self.records_from(0)[0]

    def records_from(self, place: int) -> tuple[tuple[Record, ...], int]:
        """Return the records behind a place in the log, and its end."""
        _compiled.collect()
        raw = self.raw[place:]
        return tuple(record for record, _ in _read(raw)), place + len(raw)

    def take_out(self) -> tuple[Record, ...]:
        """Return all records so far, and remove them; what other threads record meanwhile stays."""
        _compiled.collect()
        with lock:
            self.settle()
            raw = self.raw[: self._counted]
            del self.raw[: self._counted]
            self._counted = self._looked = 0
        return tuple(record for record, _ in _read(raw))

    def clear(self) -> None:
        """Forget everything but that it was there, and record again if the limit had been reached."""
        _compiled.collect()
        for record in self.records:
            self.forgotten_names.update(record.names)
            if record.kind == "returned":
                self.forgotten_functions.add(record.subscription.function)
        with lock:
            self.raw.clear()
            self._counted = self._looked = self.ahead = 0
            self.budget.clear()
            self.starts.clear()
        if self.full:
            self.full, self.full_was_told, self.active = False, False, True

    def look(self, values: Sequence[Any], length: int) -> None:
        """Look at how much is held, and say how many records more may come before the next look.

        What is too much is dropped, and recording stops. As long as much less than the limit is held, a look at one
        record stands for those since the last.

        Parameters
        ----------
        values : sequence
            The values of the last record.
        length : int
            How long that is, as it lies in the log.
        """
        with lock:
            fresh = len(self.raw) - self._looked
            if self.budget.surely_fits(values, max(1, fresh // length)):
                self._looked = len(self.raw)
            else:
                self.settle()
        if self.full:
            # Where warnings are errors, the model goes on all the same, and the end of the scope says it again.
            with contextlib.suppress(LimitWarning):
                self.tell_that_full()
        self.ahead = self.budget.headroom()

    def settle(self) -> None:
        """Count all that has been recorded and not been counted yet."""
        with lock:
            for record, length in _read(self.raw[self._counted :]):
                is_start = record.kind == "entered"
                if not (self.budget.take_start() if is_start else self.budget.take(record.values)):
                    self.active, self.full = False, True
                    del self.raw[self._counted :]
                    break
                self._counted += length
            self._looked = self._counted

    def tell_that_full(self, stacklevel: int | None = None) -> None:
        """Warn, once, that the limit is reached."""
        if not self.full or self.full_was_told:
            return
        recorded = sum(bool(record.names) for record in self.records)
        message = (
            f"The capture reached its limit ({self.budget}) after {recorded} records and stopped recording;"
            ' the model goes on. Clear it between batches, record less (modules=, keep=), or raise limit="…GiB".'
        )
        warnings.warn(LimitWarning(message), stacklevel=stacklevel or level_of_user())
        self.full_was_told = True


# How long a record is besides its values and their versions.
HEAD: Final = 4


class Head(NamedTuple):
    """What records of one kind share."""

    subscription: Subscription
    kind: str
    names: tuple[str, ...] = ()


def _read(raw: list[Any]) -> Iterator[tuple[Record, int]]:
    """Give each record, and its length as it lies in a log."""
    place = 0
    while place < len(raw):
        (subscription, kind, names), line, module, thread = raw[place : place + HEAD]
        middle = place + HEAD + len(names)
        values, end = tuple(raw[place + HEAD : middle]), middle + len(names)
        versions = tuple(raw[middle:end])
        thread, frame = thread if type(thread) is tuple else (thread, None)
        yield Record(subscription, kind, line, module, thread, names, values, versions, frame), end - place
        place = end


class _Count:
    """How often something happened, in several threads at once."""

    def __init__(self) -> None:
        # Its `next` is one step, in which no other thread can come between.
        self.counter = itertools.count()
        self._looks = 0
        self._before = 0

    def read(self) -> int:
        """Return the number since the last time it was cleared."""
        self._looks += 1
        return next(self.counter) - self._looks - self._before + 1

    def clear(self) -> None:
        """Begin again."""
        self._before += self.read()


# The files of what runs at each recorded call: this one, and those beside it.
ENGINE: Final = str(Path(__file__).with_name("_"))


def thread_and_frame() -> tuple[int, int]:
    """Return where the captured function runs that this is called for: the thread, and which of its frames.

    Of a frame that is gone, the number may come again; a call that starts says so.
    """
    frame = sys._getframe(2)  # noqa: SLF001  # the fast way to a frame
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ENGINE):
        frame = frame.f_back
    return get_ident(), id(frame)


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
    gathered : frozenset of str
        Those of them of which all values are handed over, not only the last one.
    """

    __slots__ = (
        "accepts",
        "called",
        "edited",
        "edits",
        "function",
        "gathered",
        "joined",
        "keep",
        "last_line",
        "log",
        "others_called",
        "recomputing",
        "records",
        "reported",
        "tells_start",
        "wants",
    )

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
        gathered: frozenset[str] = frozenset(),
    ) -> None:
        self.function = function
        self.wants = wants
        self.log = log
        self.keep = keep
        self.edits = edits
        self.accepts = accepts
        self.joined = joined
        self.gathered = gathered
        self.reported = ("returned",) if joined or not wants.assigned | wants.given else ("assigned",)
        self.edited: set[str] = set()
        self.called = False
        # Of a call that was recorded; None until there is one.
        self.last_line: int | None = None
        # How calls differed that were made, but not captured.
        self.others_called = ""
        # The threads in which a call runs that is made again for a backward pass.
        self.recomputing: set[int] = set()
        # A subscription that wants nothing at all is there to see when calls start and finish.
        wants_nothing = wants == Wants()
        self.records = wants_nothing or wants._replace(edited=frozenset()) != Wants()
        # Where it matters between which other records a call starts; elsewhere starts are only counted.
        self.tells_start = wants_nothing or bool(joined)

    def concerns(self, owner: object) -> bool:
        """Say whether a call is one of those that are captured."""
        log = self.log
        if not log.open:
            return False
        if self.accepts is not None and not self.accepts(owner):
            self.others_called = OTHER_OBJECTS
            return False
        if log.thread is not None and log.thread != get_ident():
            self.others_called = OTHER_THREADS
            return False
        return True

    def start(self, owner: object) -> None:
        """Take note that a call starts, and whether it is one that was made before."""
        log, thread = self.log, get_ident()
        if _torch.is_recomputing():
            self.recomputing.add(thread)
        elif self.concerns(owner):
            self.recomputing.discard(thread)
            self.called = True
            if self.tells_start and log.active:
                self._put("entered", self.function.__code__.co_firstlineno, owner, thread)
            elif self.records and log.active:
                next(log.starts.counter)

    def add(self, kind: str, line: int, owner: object, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        """Record what names held; those that held nothing are left out."""
        log, thread = self.log, get_ident()
        if not self.records or not log.active or thread in self.recomputing:
            return
        bound = [i for i, value in enumerate(values) if value is not UNBOUND]
        if len(bound) != len(values):
            names, values = tuple(names[i] for i in bound), tuple(values[i] for i in bound)
        _compiled.refuse_export()
        kept = [self._keep(name, line, value) for name, value in zip(names, values, strict=True)]
        versions = [_torch.version(value) for value in kept]
        self._put(kind, line, owner, thread, names=names, values=kept, versions=versions)

    def receive(
        self, kind: str, line: int, owner: object, names: tuple[str, ...] = (), values: tuple[Any, ...] = ()
    ) -> None:
        """Take what compiled code has left; in which thread it ran is not known."""
        log = self.log
        if not self.concerns(owner) or _torch.is_recomputing():
            return
        self.called = True
        if self.keep is _torch.as_is:
            for value in values:
                _torch.refuse_to_retain_gradient(value, self._no_gradient)
        if kind == "edited":
            self.edited.update(names)
        elif self.records and log.active:
            if kind == "returned" and not self.tells_start:
                next(log.starts.counter)
            self._put(kind, line, owner, None, names=names, values=values, versions=[None] * len(values))

    def _put(
        self,
        kind: str,
        line: int,
        owner: object,
        thread: int | None,
        *,
        names: tuple[str, ...] = (),
        values: Sequence[Any] = (),
        versions: Sequence[int | None] = (),
    ) -> None:
        if kind == "returned":
            self.last_line = line
        # Not by isinstance, which would run the `__class__` of an object that is somebody else's.
        module = owner if issubclass(type(owner), _torch.module_base() or ()) else None
        # In one step, for other threads record as well.
        log = self.log
        if thread is not None and _compiled.is_pending():
            _compiled.collect()
        where = thread_and_frame() if self.joined and thread is not None else thread
        log.raw += (Head(self, kind, names), line, module, where, *values, *versions)
        log.ahead -= 1
        if log.ahead < 0:
            log.look(values, HEAD + 2 * len(values))

    def edit(self, line: int, name: str, value: Any) -> Any:
        """Return what the user makes of a value."""
        try:
            return self.edits[name](value)
        except Exception as error:
            error.add_note(f"Raised by edit= for {self._place(name, line)}")
            raise

    def _keep(self, name: str, line: int, value: Any) -> Any:
        try:
            return self.keep(value)
        except Exception as error:
            error.add_note(f"Raised by keep= for {self._place(name, line)}")
            raise

    def _no_gradient(self) -> UnsupportedError:
        return UnsupportedError(
            f"{self.function.__qualname__} was compiled by AOTAutograd, which differentiates a graph as a whole: there"
            " is no gradient with respect to a value inside of it. Run the model eagerly, or compile it with"
            ' backend="eager".'
            " What is computed from the value has gradients with respect to the parameters all the same."
        )

    def _place(self, name: str, line: int) -> str:
        return f"{name!r} in {self.function.__qualname__}, line {line} of {self.function.__code__.co_filename}"
