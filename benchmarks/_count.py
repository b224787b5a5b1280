"""Runs between marks, whose instructions callgrind counts; alone, those of a function before and after a capture.

It needs neither torch nor any environment but ours, so that it runs on every Python.
"""

from __future__ import annotations

import gc
import os
import sys
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
    main()
