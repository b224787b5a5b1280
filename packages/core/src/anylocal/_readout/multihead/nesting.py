"""On whose behalf torch's multi-head attention is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from anylocal._engine.spec import CaptureSpec
from anylocal._readout.multihead.functions import FAST, FORWARD, LAYER, SLOW, TRACED_WANTS
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

    from anylocal._engine.records import Record
    from anylocal._readout.multihead.readings import MultiHead


class Nesting:
    """Finds out on whose behalf attention is computed, from what starts and ends around it."""

    def __init__(self, heads: MultiHead) -> None:
        self._heads = heads
        self._open: list[_Frame] = []

    def of(self, record: Record) -> Iterator[Record]:
        """Give the records that make calls: each as it comes, those of attention when its module has finished."""
        function = record.subscription.function
        if record.subscription.spec == CaptureSpec():
            if record.kind == "entered":
                self._open.append(_Frame(function, record.module, record.thread, []))
            else:
                yield from self._leave(function, record)
        elif function in {SLOW, FAST} or record.subscription.spec == TRACED_WANTS:
            around = next((frame for frame in reversed(self._open) if frame.may_be_around(record)), None)
            # Outside of all of them it is another model's.
            if around is not None:
                around.held.append(record)
        else:
            yield record

    def _leave(self, function: types.FunctionType, record: Record) -> Iterator[Record]:
        for place in reversed(range(len(self._open))):
            frame = self._open[place]
            if frame.function is function and frame.module is record.module and frame.may_be_around(record):
                # What is above in the same thread raised, and never comes to its end.
                above = [other for other in self._open[place + 1 :] if not other.may_be_around(record)]
                self._open[place:] = above
                yield from self._own(frame)
                return

    def _own(self, frame: _Frame) -> Iterator[Record]:
        """Give what was recorded on behalf of the module whose forward ends."""
        heads, module = self._heads, frame.module
        slow = [record for record in frame.held if record.subscription.function is SLOW]
        fast = [record for record in frame.held if record.subscription.function is FAST]
        traced = [record for record in frame.held if record.subscription.spec == TRACED_WANTS]
        if frame.function in heads.layers:
            # Its own is all that comes here: a module that runs by itself has a forward in between.
            yield from (_with_layer(record, module) for record in fast if id(record.module) in heads.chosen)
        elif frame.function not in heads.callers or id(module) not in heads.chosen:
            return
        elif any(record.kind == "assigned" for record in slow):
            # For some kinds of tensors torch's function leaves all to a second call of itself.
            yield from (record._replace(module=module) for record in slow)
        elif fast or traced:
            yield from fast or traced
        elif frame.function is FORWARD or frame.thread is None:
            msg = (
                f"A {type(module).__qualname__} ran torch's multi-head attention where a capture cannot see it, so its"
                " map is not known. Run it eagerly, and with plain tensors."
            )
            raise UnsupportedError(msg)


class _Frame(NamedTuple):
    """A forward that has started, and what was recorded in it."""

    function: Any
    module: Any
    thread: int | None
    held: list[Record]

    def may_be_around(self, record: Record) -> bool:
        # In which thread compiled code ran is not known.
        return record.thread == self.thread or None in {record.thread, self.thread}


def _with_layer(record: Record, layer: Any) -> Record:
    return record._replace(
        names=(*record.names, LAYER), values=(*record.values, layer), versions=(*record.versions, None)
    )
