"""Runs between marks, whose instructions callgrind counts; alone, those of a function before and after a capture.

With ``--time`` it prints instead how many nanoseconds more a call takes after a capture.

It needs neither torch nor any environment but ours, so that it runs on every Python.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import sys
import time
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SHORT: Final = 320
LONG: Final = 1600
REPEATS: Final = 3
MARK: Final = "getsid"


def run(call: Callable[[Any], object], argument: Any, calls: int) -> None:
    """Call a function that many times."""
    for _ in repeat(None, calls):
        call(argument)


def function(x: Any) -> Any:
    """Bind the local that is captured."""
    attn = x
    return attn  # noqa: RET504  # as above


def run_function(calls: int) -> None:
    """Call the function from a call site that calls nothing else, which Python specializes."""
    for _ in repeat(None, calls):
        function(calls)


def measure(called: Callable[[int], object], clear: Callable[[], object]) -> None:
    """Make short and long runs between marks, in turns."""
    called(LONG)
    clear()
    for calls in (SHORT, LONG) * REPEATS:
        gc.collect()
        mark()
        called(calls)
        mark()
        clear()


SOURCE: Final = """
def function(x):
    attn = x
    return attn

def run_function(calls):
    for _ in repeat(None, calls):
        function(calls)
"""
COPIES: Final = 6
TIMED_CALLS: Final = 50_000
ROUNDS: Final = 25


def copy() -> dict[str, Any]:
    """Return the function and its call site, compiled anew: Python specializes each copy for itself."""
    names: dict[str, Any] = {"repeat": repeat}
    exec(compile(SOURCE, __file__, "exec"), names)  # noqa: S102  # a copy of the code objects, not only of the functions
    names["run_function"](LONG)
    return names


def time_after() -> list[float]:
    """Return the quartiles of how many nanoseconds more a call takes after a capture than one never captured.

    Several copies of both take turns: what their places in memory do to one copy is as large as the difference.
    """
    from anylocal import capture

    never, after = ([copy() for _ in range(COPIES)] for _ in range(2))
    for each in after:
        with capture(each["function"], "attn"):
            each["run_function"](1)
    order = [(each, is_after) for is_after, copies in enumerate((never, after)) for each in copies]
    shuffle = random.Random(0).shuffle  # noqa: S311  # a fair order, not a secret
    more = []
    for _ in range(ROUNDS):
        shuffle(order)
        took = [0.0, 0.0]
        for each, is_after in order:
            start = time.process_time()
            each["run_function"](TIMED_CALLS)
            took[is_after] += time.process_time() - start
        more.append((took[1] - took[0]) / COPIES / TIMED_CALLS * 1e9)
    return [round(value, 1) for value in statistics.quantiles(more, n=4)]


def mark() -> None:
    """Call a C function that nothing else calls, at which callgrind dumps its counts."""
    os.getsid(0)


def main() -> None:
    """Run the function before and after a capture, and check that it has its own code back."""
    from anylocal import capture

    code = function.__code__
    measure(run_function, gc.collect)
    with capture(function, "attn") as captured:
        run_function(SHORT)
    if function.__code__ is not code or len(captured) != SHORT:
        sys.exit("the function does not have its own code object back, or was not captured")
    measure(run_function, gc.collect)
    print("{}.{}.{}".format(*sys.version_info))


if __name__ == "__main__":
    if "--time" in sys.argv:
        print(json.dumps(time_after()))
    else:
        main()
