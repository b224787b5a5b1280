"""Which forward pass of the model a call belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import types

    from anylocal._engine.calls import Call
    from anylocal._engine.records import Record


class ForwardPasses:
    """Numbers forward passes: by the start and end of the model's own forward, else by modules that run again."""

    def __init__(self) -> None:
        self._count = 0
        self._current: dict[int | None, int | None] = {}
        self._loose: dict[int | None, tuple[int, set[tuple[types.FunctionType, str, int]]]] = {}

    def mark(self, record: Record) -> None:
        """Note that the model's forward starts or ends."""
        if record.kind == "entered":
            self._current[record.thread] = self._new()
            self._loose.pop(record.thread, None)
        else:
            self._current[record.thread] = None

    def of(self, call: Call) -> int:
        """Return the number of the forward pass that a call belongs to."""
        current = self._current.get(call.thread)
        if current is not None:
            return current
        # The thread in which compiled code ran is unknown: it is the one that runs the model, if only one does.
        running = {
            number for thread, number in self._current.items() if number is not None and None in {thread, call.thread}
        }
        if len(running) == 1:
            return running.pop()
        # A part of the model was called alone, such as its forward_features.
        number, ran = self._loose.get(call.thread) or (self._new(), set())
        key = call.function, call.name, call.part
        if key in ran:
            number, ran = self._new(), set()
        ran.add(key)
        self._loose[call.thread] = number, ran
        return number

    def _new(self) -> int:
        self._count += 1
        return self._count - 1
