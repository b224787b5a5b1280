"""What it costs to import anylocal, and to call a marked function that is not activated.

Each import runs in its own process, taking turns with the others; the time is the process's CPU time, with warm file
caches. *Own time* is spent in anylocal's modules themselves, without what they import from other packages. It is
measured separately with `python -X importtime`, which reports wall-clock time and slows imports down a little; on a
busy machine it can exceed the total.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from _report import facts, made, table, write

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS: Final = 7
OTHERS: Final = ("import torch", "import timm", "import transformers")
OURS: Final = (
    "import anylocal",
    "from anylocal import get_local",
    "from anylocal import capture",
    "import anylocal.attention",
    "import anylocal_vit",
    "import anylocal_bert",
)
# The import, the number, what it is called, and the most milliseconds.
GOALS: Final = (
    ("import anylocal", "seconds", "in all", 20),
    ("import anylocal_vit", "own", "own time", 100),
    ("import anylocal_bert", "own", "own time", 100),
)
BROUGHT: Final = ("numpy", "torch", "timm", "transformers", "matplotlib")
BATCHES: Final = 101
CALLS: Final = 20_000

PROGRAM: Final = """
import sys, time, json
start = time.process_time()
{statement}
took = time.process_time() - start
print(json.dumps([took, [name for name in {brought!r} if name in sys.modules]]))
"""
LINE: Final = re.compile(r"import time:\s*(\d+) \|\s*\d+ \|\s*(\S+)")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python on one thread, and return what it said."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=True)


def seconds(statement: str) -> tuple[float, list[str]]:
    """Return how long an import takes, and which of the heavy libraries are there after it."""
    took, brought = json.loads(run("-W", "ignore", "-c", PROGRAM.format(statement=statement, brought=BROUGHT)).stdout)
    return took, brought


def own(statement: str) -> tuple[float, int]:
    """Return the seconds spent in anylocal's own modules by an import, and their number."""
    said = run("-W", "ignore", "-X", "importtime", "-c", statement).stderr
    spent = [int(micro) for micro, name in LINE.findall(said) if name.partition(".")[0].startswith("anylocal")]
    return sum(spent) / 1e6, len(spent)


def measure() -> dict[str, dict[str, Any]]:
    """Import each in turns."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "own": []} for name in (*OTHERS, *OURS)}
    for number in range(ROUNDS + 1):
        print(f"round {number} of {ROUNDS} …", flush=True)
        for name, numbers in found.items():
            took, numbers["brings"] = seconds(name)
            spent, numbers["modules"] = own(name) if name in OURS else (0.0, 0)
            # The first reads files that were not read for long, and writes what Python compiles.
            if number:
                numbers["seconds"].append(took)
                numbers["own"].append(spent)
    return found


def marked() -> dict[str, Any]:
    """Return the time of calls of a marked function that is not activated, as multiples of those of one like it."""
    from anylocal import get_local

    def one(x: int) -> int:
        y = x
        return y  # noqa: RET504  # the local that would be captured

    def another(x: int) -> int:
        y = x
        return y  # noqa: RET504  # the same

    code = one.__code__
    result = get_local("y")(one)
    if result is not one or one.__code__ is not code:
        sys.exit("A marked function is not the function that was written.")
    ratios = []
    for number in range(BATCHES):
        turns = (one, another) if number % 2 else (another, one)
        times = {function: batch(function) for function in turns}
        ratios.append(times[one] / times[another])
    return {"quartiles": statistics.quantiles(ratios, n=4)}


def batch(function: Callable[[int], int]) -> float:
    """Return the seconds of many calls."""
    start = time.process_time()
    for _ in repeat(None, CALLS):
        function(1)
    return time.process_time() - start


def spread(values: list[float]) -> str:
    """Write a median in milliseconds, with the quartiles."""
    low, middle, high = (1000 * value for value in statistics.quantiles(values, n=4))
    return f"{middle:.0f} ({low:.0f} … {high:.0f})"


def row(name: str, numbers: dict[str, Any]) -> list[str]:
    """Return the line of an import."""
    brings = ", ".join(other for other in numbers["brings"] if not name.endswith(f" {other}")) or "–"
    if name in OTHERS:
        return [f"`{name}`", spread(numbers["seconds"]), "–", "–", brings]
    return [
        f"**`{name}`**",
        spread(numbers["seconds"]),
        spread(numbers["own"]),
        str(numbers["modules"]),
        brings,
    ]


def goals(numbers: dict[str, dict[str, Any]]) -> str:
    """Return the table of goals."""
    rows = []
    for name, key, called, most in GOALS:
        middle = 1000 * statistics.median(numbers[name][key])
        met = "yes" if middle <= most else "**no**"
        rows.append([f"`{name}`: at most {most} ms {called}", f"{spread(numbers[name][key])} ms", met])
    return table(["goal", "measured", "met"], rows)


def page(numbers: dict[str, dict[str, Any]], calls: dict[str, Any], described: dict[str, str]) -> str:
    """Return the page."""
    head = ["what", "ms", "own time, ms", "own modules", "also imported"]
    low, middle, high = calls["quartiles"]
    return f"""# What an import costs

{(__doc__ or "").split(chr(10), 1)[1].strip()}

{table(head, [row(name, each) for name, each in numbers.items()])}

Medians of {ROUNDS} imports, with quartiles in parentheses. `import anylocal` imports the engine when one of its names
is first asked for; `bytecode`, and what rewrites functions, with the first capture; matplotlib with the first picture.

## Goals

{goals(numbers)}

The modules of an adapter take about the same time each, and none stands out: reading a model's maps needs nearly all of
them. They could be imported with the first capture instead, but whoever imports an adapter is about to capture, and
would only wait later; the library that an adapter is for takes many times as long.

## Marked, and not activated

A function decorated with `@get_local("y")` is the function that was written, with its own code object; this script
verifies both (`is`). A call takes {middle:.3f} ({low:.3f} … {high:.3f}) times as long as a call of another function
with the same two lines: {BATCHES} batches of {CALLS:,} calls of each, in turns. `nox -s bench -- engine` counts the
instructions that remain after a capture was opened and closed.

{facts(described)}
"""


def main() -> None:
    """Measure, and write the page."""
    numbers, calls = measure(), marked()
    described = made("imports", ["torch", "timm", "transformers", "bytecode"])
    write("imports", page(numbers, calls, described), {"made": described, "imports": numbers, "marked": calls})


if __name__ == "__main__":
    main()
