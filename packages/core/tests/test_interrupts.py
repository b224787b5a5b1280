"""Ctrl-C, or any other exception, as a capture opens or closes: every function has its own code back."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

import anylocal
from anylocal import Capture, capture, get_local
from anylocal._engine import dynamo, patch
from anylocal._engine.get_local import unmark
from anylocal._engine.lock import lock

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

OURS = str(Path(anylocal.__file__).parent)


class Shop:
    def buy(self, count: int) -> int:
        price = count * 2
        return price

    def sell(self, count: int) -> int:
        price = count * 3
        return price


OWN = [Shop.buy.__code__, Shop.sell.__code__]
Place = tuple[str, int]


@pytest.fixture(autouse=True)
def quick_collector() -> Iterator[None]:
    """Collect what these tests make, and nothing else, many times."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def codes() -> list[types.CodeType]:
    return [Shop.buy.__code__, Shop.sell.__code__]


class Lines:
    """Counts the lines of anylocal that run, and raises KeyboardInterrupt at one of them."""

    def __init__(self, stop: int = -1) -> None:
        self.stop = stop
        self.places: list[Place] = []

    def trace(self, frame: types.FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            self.places.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.places) == self.stop:
                raise KeyboardInterrupt
        return self.trace

    def run(self, function: Callable[[], object]) -> bool:
        """Return whether the function ran to its end."""
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            function()
        except KeyboardInterrupt:
            return False
        finally:
            sys.settrace(before)
            # A trace function can raise where no signal is handled: as a `with` statement ends, before its lock is free
            while lock._is_owned():  # type: ignore[attr-defined]  # of its C implementation
                lock.release()
        return True


def interrupted(function: Callable[[], object]) -> Iterator[tuple[bool, Place]]:
    """Run a function again and again, interrupted at the first and the last time that each line runs."""
    for _ in range(2):  # what is derived from code is kept, so that the second run is shorter
        counted = Lines()
        counted.run(function)
    numbers = {place: number for number, place in enumerate(counted.places, 1)}
    numbers |= {(place, "first"): number for number, place in reversed([*enumerate(counted.places, 1)])}  # type: ignore[misc]
    for number in sorted(set(numbers.values())):
        lines = Lines(number)
        # A run may be shorter than the one that was counted, and end before its turn.
        finished = lines.run(function) and len(lines.places) >= number
        # A capture that the traceback held closes when that is collected.
        gc.collect()
        yield finished, counted.places[number - 1]


def scope() -> None:
    with capture(Shop, "price", "count"):
        Shop().buy(1)
        Shop().sell(2)


def every() -> None:
    with capture(Shop, "price", every=True):
        Shop().buy(1)
        Shop().sell(2)


def edits() -> None:
    with capture(Shop, edit={"price": abs}):
        Shop().buy(1)
        Shop().sell(2)


def nested() -> None:
    with capture(Shop, "price"), capture(Shop.buy, "count"):
        Shop().buy(1)
        Shop().sell(2)


@pytest.mark.parametrize("use", [scope, every, edits, nested])
def test_an_interrupt_at_any_line_leaves_no_function_rewritten(use: Callable[[], None]) -> None:
    """The capture undoes what it has done, or takes it along as it goes; the next one works."""
    count = 0
    for finished, place in interrupted(use):
        assert (finished, codes(), patch._patched) == (False, OWN, {}), place
        count += 1
    with capture(Shop, "price") as cap:
        Shop().buy(1)
    assert (cap["price"], codes(), count > 100) == ([2], OWN, True)


def test_a_close_that_was_interrupted_can_be_repeated() -> None:
    """A capture that is still held, as in a notebook."""
    held: list[Capture] = []

    def open_and_close() -> None:
        held[:] = [capture(Shop, "price").open()]
        held[0].close()

    for _, place in interrupted(open_and_close):
        if held:
            held.pop().close()
        assert (codes(), patch._patched) == (OWN, {}), place


def test_marks_that_were_interrupted_are_deactivated() -> None:
    """By the next call of `deactivate` at the latest."""

    def use() -> None:
        with get_local.active():
            Shop().buy(1)

    get_local("price")(Shop.buy)
    try:
        for _, place in interrupted(use):
            get_local.deactivate()
            assert (codes(), patch._patched) == (OWN, {}), place
            get_local.clear()
    finally:
        unmark(cast("types.FunctionType", Shop.buy))


def test_an_exception_of_dynamo_as_a_capture_opens_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It resets what it has compiled, which takes long enough for a Ctrl-C."""

    def failing(*, captured: bool, variants: int = 0) -> None:
        if captured:
            raise KeyboardInterrupt

    monkeypatch.setattr(dynamo, "code_changed", failing)
    cap = capture(Shop, "price")
    with pytest.raises(KeyboardInterrupt):
        cap.open()
    assert (cap.is_open, codes()) == (False, OWN)


def test_an_exception_of_dynamo_as_a_capture_closes_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reset is repeated, and the exception goes on its way."""
    raised: list[bool] = []
    cap = capture(Shop, "price").open()

    def failing(**_: object) -> None:
        if not raised:
            raised.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(dynamo, "code_changed", failing)
    with pytest.raises(KeyboardInterrupt):
        cap.close()
    assert (cap.is_open, codes()) == (False, OWN)
