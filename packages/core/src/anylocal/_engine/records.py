"""The records of one capture."""

from __future__ import annotations

import contextlib
import itertools
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from anylocal._engine import dynamo
from anylocal._engine.budget import Budget
from anylocal._engine.lock import lock
from anylocal.errors import LimitWarning, level_of_user

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator, Sequence

    from anylocal._engine.spec import Request


class Record(NamedTuple):
    """One thing that happened in a function; `names` is empty for its start."""

    request: Request
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
        dynamo.collect()
        raw = self.raw[place:]
        return tuple(record for record, _ in _read(raw)), place + len(raw)

    def take_out(self) -> tuple[Record, ...]:
        """Return all records so far, and remove them; what other threads record meanwhile stays."""
        dynamo.collect()
        with lock:
            self.settle()
            raw = self.raw[: self._counted]
            del self.raw[: self._counted]
            self._counted = self._looked = 0
        return tuple(record for record, _ in _read(raw))

    def clear(self) -> None:
        """Forget everything but that it was there, and record again if the limit had been reached."""
        dynamo.collect()
        for record in self.records:
            self.forgotten_names.update(record.names)
            if record.kind == "returned":
                self.forgotten_functions.add(record.request.function)
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
HEADER_LENGTH: Final = 4


class RecordHeader(NamedTuple):
    """What records of one kind share."""

    request: Request
    kind: str
    names: tuple[str, ...] = ()


def _read(raw: list[Any]) -> Iterator[tuple[Record, int]]:
    """Yield each record, and its length as it lies in a log."""
    place = 0
    while place < len(raw):
        (request, kind, names), line, module, thread = raw[place : place + HEADER_LENGTH]
        middle = place + HEADER_LENGTH + len(names)
        values, end = tuple(raw[place + HEADER_LENGTH : middle]), middle + len(names)
        versions = tuple(raw[middle:end])
        thread, frame = thread if type(thread) is tuple else (thread, None)
        yield Record(request, kind, line, module, thread, names, values, versions, frame), end - place
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
