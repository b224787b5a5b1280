"""One request of one capture: decides which calls count, and turns them into records.

Records are stored flat in one list, because each garbage collection would visit a tuple for each of them; memory is
counted for several records at once.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from anylocal._engine import dynamo, tensors
from anylocal._engine.buffers import Copies
from anylocal._engine.frames import thread_and_frame
from anylocal._engine.keep import as_is, detached
from anylocal._engine.records import HEADER_LENGTH, Log, RecordHeader
from anylocal._engine.spec import UNBOUND, IdentityFilter, Request, Role
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OTHER_OBJECTS: Final = "on behalf of other objects than the one captured"
OTHER_THREADS: Final = "in other threads than the one that opened the capture"


class Subscription:
    """A request of a capture, and the state of the calls that it selects.

    `keep` maps a value to the recorded one, and each edit of the request the value about to be assigned to a new one.
    """

    __slots__ = (
        "are_modules",
        "called",
        "copies",
        "edited",
        "edits",
        "filter",
        "function",
        "hears_starts",
        "joined",
        "keep",
        "kept_none",
        "last_line",
        "log",
        "matches",
        "members",
        "on_call",
        "others_called",
        "records",
        "records_start",
        "request",
        "spec",
    )

    def __init__(
        self,
        request: Request,
        log: Log,
        *,
        keep: Callable[[Any], Any],
    ) -> None:
        self.request = request
        self.function = request.match.function
        self.filter = request.match.filter
        # Those whose calls count, if a look-up in a set tells.
        self.members: frozenset[object] | None = None
        self.are_modules = False
        if type(self.filter) is IdentityFilter:
            self.members = self.filter.members()
            self.are_modules = all(issubclass(kind, tensors.module_base() or ()) for kind in self.filter.kinds)
        # The filter, faster; it may raise what an object's own hash does.
        self.matches = self.filter if self.members is None else self.members.__contains__
        self.spec = request.spec
        self.joined = request.joined
        self.on_call = request.on_call
        self.log = log
        self.keep = keep
        self.edits = request.edits
        self.copies = Copies(request.reused)
        # Names that an edit was given, by whether it was ever more than None in place of None.
        self.edited: set[str] = set()
        self.kept_none: set[str] = set()
        self.called = False
        # Of a call that was recorded; None until there is one.
        self.last_line: int | None = None
        # Why calls did not count.
        self.others_called = ""
        marks_boundaries = request.role is Role.BOUNDARIES
        self.records = marks_boundaries or (request.spec.records and request.role is not Role.PRESENCE)
        # Where it matters between which other records a call starts; elsewhere starts are only counted.
        self.records_start = marks_boundaries or bool(request.joined)
        # Elsewhere it is enough to hear of each call as it ends.
        self.hears_starts = self.records_start or request.on_call is not None or request.role is Role.PRESENCE

    def concerns(self, owner: object) -> bool:
        """Return whether a call is of those that were asked for, and note why not."""
        log = self.log
        if not log.open:
            return False
        if self.filter is not None and not self.filter(owner):
            self.others_called = OTHER_OBJECTS
            return False
        if log.thread is not None and log.thread != get_ident():
            self.others_called = OTHER_THREADS
            return False
        return True

    def counts(self, owner: object) -> bool:
        """Return whether a call is recorded; one that activation checkpointing runs once more is not."""
        if not self.concerns(owner) or tensors.is_recomputing():
            return False
        self.called = True
        return True

    def start(self, owner: object) -> bool:
        """Note that a call starts, and return whether it counts."""
        log = self.log
        if not self.counts(owner):
            return False
        if self.records_start and log.active:
            caller = self.request.caller
            owner = owner if caller is None else caller()
            self._put("entered", self.function.__code__.co_firstlineno, owner, get_ident())
        else:
            self.count_start()
        return True

    def count_start(self) -> None:
        """Count a call of which no record tells that it started."""
        if self.records and self.log.active:
            next(self.log.starts.counter)

    def add(self, kind: str, line: int, owner: object, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        """Record what names held; those that held nothing are left out."""
        log, thread = self.log, get_ident()
        if not self.records or not log.active:
            return
        bound = [i for i, value in enumerate(values) if value is not UNBOUND]
        if len(bound) != len(values):
            names, values = tuple(names[i] for i in bound), tuple(values[i] for i in bound)
        dynamo.refuse_export()
        kept = [self._keep(name, line, value) for name, value in zip(names, values, strict=True)]
        versions = [tensors.version(value) for value in kept]
        if self.request.reused and kind in {"called", "returned"} and self.keep is detached:
            kept, versions = self.copies.of_all(names, kept, versions)
        self._put(kind, line, owner, thread, names, kept, versions)

    def receive(
        self, kind: str, line: int, owner: object, names: tuple[str, ...] = (), values: tuple[Any, ...] = ()
    ) -> None:
        """Take what compiled code has left; the thread in which it ran is unknown."""
        if not self.counts(owner):
            return
        if self.on_call is not None:
            self.on_call(owner)
        if self.keep is as_is:
            for value in values:
                dynamo.refuse_to_retain_gradient(value, self._no_gradient)
        if kind in {"edited", "kept none"}:
            self.note_edit(kind, names[0])
        elif self.records and self.log.active:
            if kind == "returned" and not self.records_start:
                self.count_start()
            self._put(kind, line, owner, None, names, values, [None] * len(values))

    def _put(  # noqa: PLR0917  # at each record, where keywords cost time
        self,
        kind: str,
        line: int,
        owner: object,
        thread: int | None,
        names: tuple[str, ...] = (),
        values: Sequence[Any] = (),
        versions: Sequence[int | None] = (),
    ) -> None:
        if kind == "returned":
            self.last_line = line
        # Not by isinstance, which would run the `__class__` of an object of the user's.
        module = owner if issubclass(type(owner), tensors.module_base() or ()) else None
        # In one step, for other threads record as well.
        log = self.log
        if thread is not None and dynamo.is_pending():
            dynamo.collect()
        where = thread_and_frame() if self.joined and thread is not None else thread
        log.raw += (RecordHeader(self.request, kind, names), line, module, where, *values, *versions)
        if len(log.raw) > log.room:
            log.look(values, HEADER_LENGTH + 2 * len(values))

    def edits_at(self, line: int, name: str) -> list[Callable[[Any], Any]]:
        """Return the user's edits of an assignment."""
        return [edit for _, lines, edit in self.edits[name] if lines is None or line in lines]

    def edit(self, edit: Callable[[Any], Any], line: int, name: str, value: Any) -> Any:
        """Return the value that a user's edit makes of a value."""
        try:
            return edit(value)
        except Exception as error:
            error.add_note(f"Raised by edit= for {self._place(name, line)}")
            raise

    def note_edit(self, kind: str, name: str) -> None:
        """Note that an edit was applied to a name."""
        (self.edited if kind == "edited" else self.kept_none).add(name)

    def _keep(self, name: str, line: int, value: Any) -> Any:
        try:
            return self.keep(value)
        except Exception as error:
            error.add_note(f"Raised by keep= for {self._place(name, line)}")
            raise

    def _no_gradient(self) -> UnsupportedError:
        return UnsupportedError(
            f"{self.function.__qualname__} was compiled by AOTAutograd, which differentiates a graph as a whole: there"
            " is no gradient with respect to a value inside it. Run the model eagerly, or compile it with"
            ' backend="eager".'
            " What is computed from the value has gradients with respect to the parameters all the same."
        )

    def _place(self, name: str, line: int) -> str:
        return f"{name!r} in {self.function.__qualname__}, line {line} of {self.function.__code__.co_filename}"
