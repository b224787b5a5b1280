"""The records of one capture."""

from __future__ import annotations

import contextlib
import itertools
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from anylocal._engine import dynamo, tensors
from anylocal._engine.budget import MOST_AHEAD, Budget
from anylocal._engine.lock import lock
from anylocal.errors import LimitWarning, level_of_user

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from anylocal._engine.spec import Request


class Record(NamedTuple):
    """One event in a function; `names` is empty for its start."""

    request: Request
    kind: str
    line: int
    module: Any
    thread: int | None
    names: tuple[str, ...]
    values: tuple[Any, ...]
    versions: tuple[int | tuple[int | None, ...] | None, ...]
    # Identifies a call among others of the same function in the same thread, where that matters.
    frame: int | None = None


class Deferred(NamedTuple):
    """Stands in the log for a value that is made when its record is read."""

    read: Callable[[], Any]


class Place(NamedTuple):
    """Where a value of a record and its version are in the log."""

    raw: list[Any]
    of_value: int
    of_version: int

    def get(self) -> Any:
        """Return the value."""
        return _read_value(self.raw[self.of_value])

    def put(self, value: Any, version: int | None) -> None:
        """Replace the value."""
        self.raw[self.of_value], self.raw[self.of_version] = value, version

    @property
    def is_unchanged(self) -> bool:
        """Whether the value is not known to have been changed since it was recorded."""
        return self.raw[self.of_version] in {None, tensors.version(self.get())}


class Sharing(Protocol):
    """Lets records of the arguments of functions share memory; it is told of each once, before anything reads it."""

    def add(self, layer: object, places: Mapping[str, Place]) -> None:
        """Take the record of a call on behalf of a layer: its places in the log, by name."""

    def trim(self) -> None:
        """Give back the memory that was held for further records."""

    def clear(self) -> None:
        """Forget all records."""


class Log:
    """All records of one capture, in the order in which they came, and the switch that stops them."""

    def __init__(self, limit: int | str | None, sharing: Sharing | None = None) -> None:
        # For each record: its header, line, module, thread (where that matters, with the frame), and the values and
        # versions of the names.
        self.raw: list[Any] = []
        self.open = False
        self.full = False
        self.warned_full = False
        self.thread: int | None = None
        self.budget = Budget(limit)
        self.starts = _Count()
        # Of calls of which no record tells that they returned.
        self.ends = _Count()
        # How long it may be before a record is looked at; not exact with several threads, and need not be.
        self.room = 0
        self._active = False
        # Of cleared records: the names that had values, and whether any was not None; functions that finished a call.
        self.forgotten_names: dict[str, bool] = {}
        self.forgotten_functions: weakref.WeakSet[types.FunctionType] = weakref.WeakSet()
        # The positions up to which the budget has counted and estimated the records.
        self._counted = self._estimated = 0
        self._sharing = sharing
        self._shared = 0

    @property
    def active(self) -> bool:
        """Whether calls are recorded."""
        return self._active

    @active.setter
    def active(self, active: bool) -> None:
        self._active, self.room = active, 0

    @property
    def records(self) -> tuple[Record, ...]:
        """All records so far."""
        return self.records_from(0)[0]

    def records_from(self, position: int) -> tuple[tuple[Record, ...], int]:
        """Return the records from a position in the log on, and the position of its end."""
        dynamo.collect()
        self._share()
        raw = self.raw[position:]
        return tuple(record for record, _ in _read(raw)), position + len(raw)

    def take_out(self) -> tuple[Record, ...]:
        """Return all records so far, and remove them; those that other threads add meanwhile stay."""
        dynamo.collect()
        with lock:
            self.settle()
            raw = self.raw[: self._counted]
            del self.raw[: self._counted]
            self._counted = self._estimated = self.room = 0
        return tuple(record for record, _ in _read(raw))

    def drain(self) -> tuple[Record, ...]:
        """Return all records so far, and remove them with what the budget has counted; note what finished a call."""
        records = self.take_out()
        self.budget.clear()
        self._note_functions(records)
        return records

    def _note_functions(self, records: Iterable[Record]) -> None:
        self.forgotten_functions.update(r.request.match.function for r in records if r.kind == r.request.call_kind)

    def clear(self) -> None:
        """Remove all records, note which names they had, and record again if the limit had been reached."""
        dynamo.collect()
        self.forgotten_names = self.seen_names()
        self._note_functions(self.records)
        with lock:
            self.raw.clear()
            self._counted = self._estimated = self._shared = self.room = 0
            if self._sharing is not None:
                self._sharing.clear()
            self.budget.clear()
            self.starts.clear()
            self.ends.clear()
        if self.full:
            self.full, self.warned_full, self.active = False, False, True

    def counts(self) -> tuple[int, int]:
        """Return how many calls have started, and how many of them have returned."""
        dynamo.collect()
        raw = self.raw.copy()
        headers = [raw[place] for place in _places(raw)]
        started = sum(header.kind == "entered" or not header.is_start_counted for header in headers)
        finished = sum(header.kind == "returned" for header in headers)
        return started + self.starts.read(), finished + self.ends.read()

    def seen_names(self) -> dict[str, bool]:
        """Return the names that had values so far, each with whether any of them was not None."""
        seen = self.forgotten_names.copy()
        for record in self.records:
            for name, value in zip(record.names, record.values, strict=True):
                seen[name] = seen.get(name, False) or value is not None
        return seen

    def has_room(self, values: Sequence[Any], length: int) -> bool:
        """Return whether a record may be added before the next check, after this one; of `values`, and of a length."""
        if self.active:
            self.look(values, length)
        return len(self.raw) < self.room

    def look(self, values: Sequence[Any], length: int) -> None:
        """Compare the records with the limit, and set how many more may come before the next check.

        Records over the limit are dropped, and recording stops. While much less than the limit is held, one record
        stands for all since the last check: the last one, by its values and its length in the log.
        """
        self._share()
        with lock:
            fresh = len(self.raw) - self._estimated
            fits = self.budget.surely_fits(values, max(1, fresh // length))
            if fits:
                self._estimated = len(self.raw)
            else:
                self.settle()
        if self.full:
            # Where warnings are errors, the model goes on all the same, and the end of the with block warns again.
            with contextlib.suppress(LimitWarning):
                self.warn_if_full()
        self.room = len(self.raw) + length * MOST_AHEAD * fits
        # Another thread may have stopped it meanwhile.
        if not self.active:
            self.room = 0

    def settle(self) -> None:
        """Count the records that are not counted yet."""
        with lock:
            fits = self._fits()
            if not fits and self._sharing is not None:
                # Some of what was counted is shared by now.
                self.budget.clear()
                self._counted = 0
                fits = self._fits()
            if not fits:
                self.active, self.full = False, True
                del self.raw[self._counted :]
                if self._sharing is not None:
                    self._shared = min(self._shared, self._counted)
                    self._sharing.clear()
            self._estimated = self._counted

    def _fits(self) -> bool:
        """Count the records that are not counted yet, up to the first that is over the limit."""
        for record, length in _read(self.raw[self._counted :]):
            is_start = record.kind == "entered"
            if not (self.budget.take_start() if is_start else self.budget.take(record.values)):
                return False
            self._counted += length
        return True

    def _share(self) -> None:
        """Let the records that are new share memory with those before."""
        sharing = self._sharing
        if sharing is None:
            return
        with lock:
            while self._shared < len(self.raw):
                header, _, module, _ = self.raw[self._shared : self._shared + HEADER_LENGTH]
                start, count = self._shared + HEADER_LENGTH, len(header.names)
                if header.kind == "called":
                    places = [Place(self.raw, place, place + count) for place in range(start, start + count)]
                    layer = id(header.request), id(module)
                    sharing.add(layer, dict(zip(header.names, places, strict=True)))
                self._shared = start + 2 * count
            if not self.open:
                sharing.trim()

    def warn_if_full(self, stacklevel: int | None = None) -> None:
        """Warn, once, that the limit is reached."""
        if not self.full or self.warned_full:
            return
        recorded = sum(bool(record.names) for record in self.records)
        message = (
            f"The capture reached its limit ({self.budget}) after {recorded} records and stopped recording;"
            ' the model goes on. Clear it between batches, record less (modules=, keep=), or raise limit="…GiB".'
        )
        warnings.warn(LimitWarning(message), stacklevel=stacklevel or level_of_user())
        self.warned_full = True


# The length of a record without its values and their versions.
HEADER_LENGTH: Final = 4


class RecordHeader(NamedTuple):
    """The part that records of one kind share."""

    request: Request
    kind: str
    names: tuple[str, ...] = ()
    # Whether the start of its call was counted as it started; else the record itself tells of it.
    is_start_counted: bool = True


def _read(raw: list[Any]) -> Iterator[tuple[Record, int]]:
    """Yield each record, and its length in the log."""
    for place in _places(raw):
        (request, kind, names, _), line, module, thread = raw[place : place + HEADER_LENGTH]
        middle = place + HEADER_LENGTH + len(names)
        values, end = tuple(map(_read_value, raw[place + HEADER_LENGTH : middle])), middle + len(names)
        versions = tuple(raw[middle:end])
        thread, frame = thread if type(thread) is tuple else (thread, None)
        if request.written:
            names = tuple(request.written.get(name, name) for name in names)
        yield Record(request, kind, line, module, thread, names, values, versions, frame), end - place


def _places(raw: list[Any]) -> Iterator[int]:
    """Yield the place of each record's header."""
    place = 0
    while place < len(raw):
        yield place
        place += HEADER_LENGTH + 2 * len(raw[place].names)


def _read_value(value: Any) -> Any:
    return value.read() if type(value) is Deferred else value


class _Count:
    """A counter for several threads."""

    def __init__(self) -> None:
        # Its `next` is atomic.
        self.counter = itertools.count()
        self._reads = 0
        self._before = 0

    def read(self) -> int:
        """Return the count since it was last cleared."""
        self._reads += 1
        return next(self.counter) - self._reads - self._before + 1

    def clear(self) -> None:
        """Begin at 0 again."""
        self._before += self.read()
