"""Which forward pass of the model a call belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from anylocal._engine.functions import owner_of

if TYPE_CHECKING:
    import types

    from anylocal._engine.calls import Call

    Key: TypeAlias = tuple[types.FunctionType, str, int]


class ForwardPasses:
    """Numbers forward passes: by the start and end of the model's own forward, else by modules that run again.

    What a method such as ``generate`` runs before the model's own forward belongs to that forward.
    """

    def __init__(self) -> None:
        self._count = 0
        self._current: dict[int | None, int] = {}
        self._ahead: dict[int | None, int] = {}
        self._loose: dict[int | None, tuple[int, set[Key]]] = {}
        self._last: Key | None = None

    def enter(self, thread: int | None, *, is_root: bool) -> None:
        """Note that the model's forward starts, or a method that will run it."""
        self._loose.pop(thread, None)
        if not is_root:
            self._ahead[thread] = self._new()
            return
        # The thread in which compiled code runs is unknown.
        around = [each for each in self._ahead if thread in {each, None}]
        self._current[thread] = self._ahead.pop(around[0]) if len(around) == 1 else self._new()

    def leave(self, thread: int | None) -> None:
        """Note that the model's forward ends, or a method that ran it."""
        self._current.pop(thread, None)
        self._ahead.pop(thread, None)

    def note_other(self) -> None:
        """Note a call that makes no map."""
        self._last = None

    def of(self, call: Call) -> int:
        """Return the number of the forward pass that a call belongs to."""
        running = self._ahead | self._current
        if call.thread in running:
            return running[call.thread]
        # The thread in which compiled code ran is unknown: it is the one that runs the model, if only one does.
        among = {number for thread, number in running.items() if None in {thread, call.thread}}
        return among.pop() if len(among) == 1 else self._alone(call)

    def _alone(self, call: Call) -> int:
        """Return the number of a call in a part of the model that was called alone, such as its forward_features."""
        number, ran = self._loose.get(call.thread) or (self._new(), set())
        key = call.function, call.name, call.part
        # A module may call a shared function several times, for the parts of its input.
        goes_on = key == self._last and owner_of(call.function) != "self"
        if key in ran and not goes_on:
            number, ran = self._new(), set()
        ran.add(key)
        self._loose[call.thread], self._last = (number, ran), key
        return number

    def _new(self) -> int:
        self._count += 1
        return self._count - 1
