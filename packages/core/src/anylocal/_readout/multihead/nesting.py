"""Which module a call of torch's attention functions belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from anylocal._engine.spec import Role
from anylocal._readout.multihead.functions import FAST, FORWARD, LAYER, SLOW
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

    from anylocal._engine.records import Record
    from anylocal._readout.multihead.readings import MultiHead


class Nesting:
    """Finds the module on whose behalf attention is computed, by the forwards that start and end around it."""

    def __init__(self, heads: MultiHead) -> None:
        self._heads = heads
        self._open: list[_Frame] = []

    def of(self, record: Record) -> Iterator[Record]:
        """Yield the records that make calls: those of attention when their module has finished, others as they come."""
        function, role = record.request.match.function, record.request.role
        if role is Role.BOUNDARIES:
            if record.kind == "entered":
                self._open.append(_Frame(function, record.module, record.thread, []))
            else:
                yield from self._leave(function, record)
        elif function in {SLOW, FAST} or role is Role.COMPILED_VALUES:
            around = next((frame for frame in reversed(self._open) if frame.may_be_around(record)), None)
            # Outside all of them it belongs to another model.
            if around is not None:
                around.held.append(record)
        else:
            yield record

    def _leave(self, function: types.FunctionType, record: Record) -> Iterator[Record]:
        for place in reversed(range(len(self._open))):
            frame = self._open[place]
            if frame.function is function and frame.module is record.module and frame.may_be_around(record):
                # Forwards above it in the same thread raised, and never end.
                above = [other for other in self._open[place + 1 :] if not other.may_be_around(record)]
                self._open[place:] = above
                yield from self._own(frame)
                return

    def _own(self, frame: _Frame) -> Iterator[Record]:
        """Yield the records that belong to the module whose forward ends."""
        heads, module = self._heads, frame.module
        slow = [record for record in frame.held if record.request.match.function is SLOW]
        fast = [record for record in frame.held if record.request.match.function is FAST]
        compiled = [record for record in frame.held if record.request.role is Role.COMPILED_VALUES]
        if frame.function in heads.layers:
            # Only its own records are here: a module that runs by itself has a forward of its own in between.
            yield from (_with_layer(record, module) for record in fast if id(record.module) in heads.chosen)
        elif frame.function not in heads.callers or id(module) not in heads.chosen:
            return
        elif any(record.kind in {"assigned", "called"} for record in slow):
            # For some kinds of tensors torch's function leaves the work to a second call of itself.
            yield from (record._replace(module=module) for record in slow)
        elif fast or compiled:
            yield from fast or compiled
        elif frame.function is FORWARD or frame.thread is None:
            raise UnsupportedError(
                f"A {type(module).__qualname__} ran torch's multi-head attention where a capture cannot see it, so its"
                " map is not known. Run it eagerly, and with plain tensors."
            )


class _Frame(NamedTuple):
    """A forward that has started, and the records in it."""

    function: Any
    module: Any
    thread: int | None
    held: list[Record]

    def may_be_around(self, record: Record) -> bool:
        # The thread in which compiled code ran is unknown.
        return record.thread == self.thread or None in {record.thread, self.thread}


def _with_layer(record: Record, layer: Any) -> Record:
    return record._replace(
        names=(*record.names, LAYER), values=(*record.values, layer), versions=(*record.versions, None)
    )
