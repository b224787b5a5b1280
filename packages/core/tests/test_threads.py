"""Many threads call while captures come and go: nothing is lost, nothing is foreign, everything is put back."""

from __future__ import annotations

import random
import sys
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import pytest

from anylocal import Capture, capture
from anylocal._engine import python
from anylocal.errors import VersionError

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

THREADS, CALLS = 16, 10_000


def work(n: int) -> int:
    double = n * 2
    if n % 3 == 0:
        return double
    rest = double - n
    return rest


class Worker:
    def work(self, n: int) -> int:
        double = n * 2
        return double


@pytest.fixture
def impatient() -> Iterator[None]:
    """Let threads take turns ten times as often as they do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 10)
    yield
    sys.setswitchinterval(before)


class Churn:
    """Opens and closes captures of a target at random, until it is told to stop."""

    def __init__(self, target: object, *wants: dict[str, Any]) -> None:
        self._target = target
        self._wants = wants
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.captures: list[Capture] = []
        self.opened = 0

    def _run(self) -> None:
        chance = random.Random(0)  # noqa: S311  # to be found again, not to be secret
        still_open: list[Capture] = []
        while not self._stop.is_set():
            if still_open and chance.random() < len(still_open) / 4:
                still_open.pop(chance.randrange(len(still_open))).close()
            else:
                want = chance.choice(self._wants)
                still_open.append(capture(self._target, *want.get("names", ()), **want.get("options", {})).open())
                self.opened += 1
        for cap in still_open:
            cap.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def in_threads(function: Callable[[int], Any]) -> None:
    """Call a function in as many threads, each with its own number; raise what any of them raises."""
    # Each thread waits for all, so that none takes two numbers.
    together = threading.Barrier(THREADS)

    def start(number: int) -> None:
        together.wait()
        function(number)

    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(start, number) for number in range(THREADS)]:
            future.result()


@pytest.mark.usefixtures("impatient")
def test_no_call_is_lost_or_foreign_while_captures_come_and_go() -> None:
    """16 threads × 10,000 calls: each is there once, in its thread, with its own value."""
    code = work.__code__
    idents: dict[int, int] = {}

    def call(number: int) -> None:
        idents[number] = threading.get_ident()
        for n in range(number * CALLS, (number + 1) * CALLS):
            assert work(n) == (2 * n if n % 3 == 0 else n)

    names = ({"names": ("double",)}, {"names": ("rest", "n")}, {"names": ("n",), "options": {"every": True}})
    with capture(work, "double", limit=None) as cap, Churn(work, *names) as churn:
        in_threads(call)
    assert churn.opened > 1
    assert Counter(cap["double"]) == Counter(2 * n for n in range(THREADS * CALLS))
    assert cap.counts == {"started": THREADS * CALLS, "finished": THREADS * CALLS, "unfinished": 0}
    threads_of = {ident: number for number, ident in idents.items()}
    for call_ in cap.calls:
        assert threads_of[call_.thread or 0] == call_.values["double"] // 2 // CALLS
    assert work.__code__ is code


@pytest.mark.usefixtures("impatient")
def test_calls_of_one_thread_stay_in_order() -> None:
    """As that thread made them."""

    def call(number: int) -> None:
        for n in range(500):
            work(n * THREADS + number)

    with capture(work, "n") as cap:
        in_threads(call)
    of_thread: dict[int | None, list[int]] = {}
    for call_ in cap.calls:
        of_thread.setdefault(call_.thread, []).append(call_.values["n"])
    assert all(values == sorted(values) for values in of_thread.values())


@pytest.mark.usefixtures("impatient")
def test_each_capture_that_comes_and_goes_holds_whole_calls_of_its_own() -> None:
    """What a capture recorded belongs together, whenever it was opened and closed."""

    def call(number: int) -> None:
        worker = workers[number]
        for n in range(2000):
            assert worker.work(n) == 2 * n

    workers = [Worker() for _ in range(THREADS)]
    seen: list[tuple[int, int]] = []

    def watch(worker: Worker) -> None:
        for _ in range(30):
            with warnings.catch_warnings():
                cap = capture(worker, "n", "double").open()
            cap.close()
            seen.extend((c.values["n"], c.values["double"]) for c in cap.calls)

    watchers = [threading.Thread(target=watch, args=(worker,)) for worker in workers[:2]]
    for watcher in watchers:
        watcher.start()
    in_threads(call)
    for watcher in watchers:
        watcher.join()
    assert all(double == 2 * n for n, double in seen)


@pytest.mark.usefixtures("impatient")
def test_an_edit_that_comes_and_goes_is_applied_whole_or_not_at_all() -> None:
    """A running call sees the code with the edits that are open, or the code without."""
    expected = {6 * 10**edits for edits in range(10)}
    odd: list[int] = []

    def call(number: int) -> None:
        odd.extend(value for value in (work(3) for _ in range(3000)) if value not in expected)

    with Churn(work, {"options": {"edit": {"double": lambda value: value * 10}}}):
        in_threads(call)
    assert odd == []


# What the recorder itself uses


@pytest.mark.parametrize(
    "name", ["bytecode", "collections", "contextlib", "functools", "threading", "warnings", "weakref"]
)
def test_what_the_recorder_uses_can_be_captured(name: str) -> None:
    """It neither runs in circles nor waits for itself."""
    module = sys.modules[name] if name in sys.modules else __import__(name)
    code = work.__code__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with capture(module, *_names_in(module)), capture(work, "double") as cap:
            assert work(3) == 6
            thread = threading.Thread(target=work, args=(6,))
            thread.start()
            thread.join()
    assert cap["double"] == [6, 12]
    assert work.__code__ is code


def _names_in(module: types.ModuleType) -> list[str]:
    from anylocal import find

    return sorted({name for site in find(module) for name in site.names})


def test_a_python_without_its_lock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the function is touched."""
    code = work.__code__
    monkeypatch.setattr(python, "has_gil", lambda: False)
    with pytest.raises(VersionError, match="PYTHON_GIL=1"), capture(work, "double"):
        pass
    assert work.__code__ is code


def test_this_python_has_its_lock() -> None:
    """As it says itself, where it can."""
    assert python.has_gil() is getattr(sys, "_is_gil_enabled", lambda: True)()
