"""Nothing outlives its capture: no value, frame, traceback, object or function; and processes come and go."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from anylocal import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Value:
    """Something that can be watched."""


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    """Let only what is in no cycle go."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def hold(value: Value) -> None:
    other = Value()
    held = (value, other)


def fail(value: Value) -> None:
    held = value
    raise ValueError(str(held))


class Holder:
    def hold(self, value: Value) -> None:
        held = value


def test_a_capture_that_is_gone_keeps_no_value_alive() -> None:
    """They go with it, at once."""
    value = Value()
    watched = weakref.ref(value)
    with capture(hold, "held") as cap:
        hold(value)
    del value
    assert watched() is not None
    del cap
    assert watched() is None


def test_clear_lets_values_go() -> None:
    """While the capture goes on."""
    value = Value()
    watched = weakref.ref(value)
    with capture(hold, "held") as cap:
        hold(value)
        del value
        cap.clear()
        assert watched() is None
        hold(Value())
    assert len(cap["held"]) == 1


def test_what_was_cleared_was_recorded() -> None:
    """A scope that ends with a clear has nothing to warn of; one in which the name was never bound has."""
    with capture(hold, "held") as cap:
        hold(Value())
        cap.clear()
    assert not cap["held"]


@pytest.mark.parametrize("every", [False, True])
def test_what_was_not_captured_is_not_kept(*, every: bool) -> None:
    """Neither the frame nor another local."""
    watched: list[weakref.ref[Value]] = []

    def compute() -> int:
        big, number = Value(), 1
        watched.append(weakref.ref(big))
        return number

    with capture(compute, "number", every=every) as cap:
        compute()
        assert watched[0]() is None
    assert cap["number"] == [1]


def test_a_value_that_keep_replaces_is_not_kept() -> None:
    """Only what `keep` returns is."""
    value = Value()
    watched = weakref.ref(value)
    with capture(hold, "value", keep=lambda value: type(value).__name__) as cap:
        hold(value)
        del value
        assert watched() is None
    assert cap["value"] == ["Value"]


def test_the_object_whose_method_ran_is_not_kept() -> None:
    """A call does not know whose it was, unless it was a module's."""
    holder = Holder()
    watched = weakref.ref(holder)
    with capture(Holder.hold, "held") as cap:
        holder.hold(Value())
        del holder
        assert watched() is None
    assert cap.calls[0].module is None


def test_a_call_that_raised_leaves_nothing() -> None:
    """No frame, no traceback, no value."""
    value = Value()
    watched = weakref.ref(value)
    cap = capture(fail, "held").open()
    with contextlib.suppress(ValueError):
        fail(value)
    del value
    assert watched() is None
    assert cap.counts == {"started": 1, "finished": 0, "unfinished": 1}
    cap.close()


def test_an_exception_of_keep_leaves_nothing_behind() -> None:
    """Once it is handled."""

    def refuse(value: object) -> object:
        raise ValueError

    value = Value()
    watched = weakref.ref(value)
    cap = capture(hold, "value", keep=refuse).open()
    with contextlib.suppress(ValueError):
        hold(value)
    cap.close()
    del value
    assert watched() is None


def made() -> Callable[[int], int]:
    def function(x: int) -> int:
        y = x + 1
        return y

    return function


@pytest.mark.parametrize("closed", [True, False])
def test_a_function_that_was_captured_can_go(*, closed: bool) -> None:
    """With its capture, whether that was closed or dropped."""
    function = made()
    watched, code = weakref.ref(function), weakref.ref(function.__code__)
    cap = capture(function, "y").open()
    function(1)
    if closed:
        cap.close()
    del function, cap
    gc.collect()
    assert watched() is None
    assert code() is not None  # a constant of `made`


def test_a_suspended_generator_is_not_kept() -> None:
    """It ends where it would have."""
    ended: list[str] = []

    def count(value: Value) -> Iterator[int]:
        try:
            yield 1
        finally:
            ended.append("ended")

    cap = capture(count, "value").open()
    generator = count(Value())
    next(generator)
    del generator
    assert ended == ["ended"]
    cap.close()


def test_calls_keep_their_values_without_the_capture() -> None:
    """What the user took out is the user's."""
    with capture(hold, "value") as cap:
        hold(Value())
    (call,) = cap.calls
    del cap
    assert isinstance(call.values["value"], Value)


# Other processes

FORK = """
import os, sys, threading, time
from anylocal import capture
from anylocal._engine.lock import lock

def f(x):
    y = x + 1
    return y

code = f.__code__
cap = capture(f, "y").open()
f(1)
held, release = threading.Event(), threading.Event()

def hold_the_lock():
    with lock:
        held.set()
        release.wait()

thread = threading.Thread(target=hold_the_lock)
thread.start()
held.wait()
threading.Timer(0.2, release.set).start()
pid = os.fork()
if pid == 0:
    f(2)
    assert cap["y"] == [2, 3], cap["y"]
    with capture(f, "x") as inner:
        f(5)
    assert inner["x"] == [5]
    cap.close()
    assert f.__code__ is code
    os._exit(7)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
f(10)
assert cap["y"] == [2, 11], cap["y"]
cap.close()
assert f.__code__ is code
"""

SPAWN = """
import multiprocessing, textwrap
from anylocal import capture

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with capture(textwrap.indent, "text") as cap, context.Pool(1) as pool:
        assert pool.apply(textwrap.indent, ("a", "> ")) == "> a"
        assert cap.calls == []
        textwrap.indent("b", "> ")
    assert len(cap.calls) == 1
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork_takes_its_own_capture_along() -> None:
    """The child records for itself and closes for itself, though another thread held the lock."""
    assert _run(FORK) == ""


def test_a_spawned_process_is_not_captured(tmp_path: Any) -> None:
    """It imports the function as it was written."""
    script = tmp_path / "script.py"
    script.write_text(SPAWN)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(script)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def _run(program: str) -> str:
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr
