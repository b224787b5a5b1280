"""The rate at which sixteen threads record, compared with one thread that records as many calls.

The threads start together and share one capture without a limit. What is called is a plain function whose local is a
number that says which thread and which call it is, and a small module of torch with a tensor of its own in each thread.
Afterwards every record is looked at: each call of each thread must be there once, with its own value, under the thread
that made it. Time is that of the clock, from the start of the first thread to the end of the last one; the two
arrangements take turns, in one process, with one thread of torch's own. Without a capture, the same calls show what
Python's switching between threads takes by itself.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import torch
from _report import facts, made, table, write
from torch import nn

from anylocal import capture

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS: Final = 16
LEAST: Final = 0.9
HEAD: Final = ("calls", "one thread", f"{THREADS} threads", "rate in one thread = 1", "wrong records")
# For each: how many calls a thread makes, and how often all of them are made.
CASES: Final = {"function": (100_000, 3), "module": (100_000, 2)}
TITLES: Final = {"function": "a function with a number", "module": "a module with a tensor"}


def function(x: Any) -> Any:
    """Bind the local that is captured."""
    attn = x
    return attn  # noqa: RET504  # as above


class Small(nn.Module):
    """Binds the local that is captured."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return another tensor."""
        attn = x + 1
        return attn  # noqa: RET504  # as above


def target(case: str) -> tuple[Any, Callable[[int, int], Callable[[], None]]]:
    """Return what is captured, and a function that returns the work of a thread, by its number and number of calls."""
    if case == "function":

        def work_on_numbers(number: int, calls: int) -> Callable[[], None]:
            def run() -> None:
                for value in range(number * calls, (number + 1) * calls):
                    function(value)

            return run

        return function, work_on_numbers
    model = Small().eval()

    def work_on_tensors(number: int, calls: int) -> Callable[[], None]:
        x = torch.full((2,), float(number))

        def run() -> None:
            for _ in range(calls):
                model(x)

        return run

    return model, work_on_tensors


def seconds(works: list[Callable[[], None]]) -> tuple[float, list[int]]:
    """Run each work in a thread of its own, and return how long all of them take, with the threads' identifiers."""
    ready = threading.Barrier(len(works) + 1)
    idents = [0] * len(works)

    def run(number: int, work: Callable[[], None]) -> None:
        idents[number] = threading.get_ident()
        ready.wait()
        with torch.no_grad():
            work()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start, idents


def wrong(case: str, scope: Any, idents: list[int], calls: int) -> int:
    """Return how many records are missing, too many, or not of their own thread."""
    number_of = {ident: number for number, ident in enumerate(idents)}
    of_threads: list[list[float]] = [[] for _ in idents]
    for call in scope.calls:
        value = call.values["attn"]
        of_threads[number_of[call.thread]].append(float(value[0]) if case == "module" else value)
    bad = 0
    for number, found in enumerate(of_threads):
        # A thread's own calls come in their order.
        expected = range(number * calls, (number + 1) * calls) if case == "function" else [number + 1.0] * calls
        bad += abs(len(found) - calls) + sum(a != b for a, b in zip(found, expected, strict=False))
    return bad


def measure(case: str) -> dict[str, Any]:
    """Measure a case in turns, and check each record."""
    calls, rounds = CASES[case]
    captured, work = target(case)
    numbers: dict[str, Any] = {"times": {}, "wrong": 0, "calls": THREADS * calls}
    for number in range(rounds):
        for threads in (1, THREADS) if number % 2 else (THREADS, 1):
            each = THREADS * calls // threads
            works = [work(thread, each) for thread in range(threads)]
            for state in ("plain", "captured"):
                print(f"  {TITLES[case]}, round {number + 1} of {rounds}: {threads} threads, {state} …", flush=True)
                gc.collect()
                if state == "plain":
                    took, _ = seconds(works)
                else:
                    with capture(captured, "attn", limit=None) as scope:
                        took, idents = seconds(works)
                    numbers["wrong"] += wrong(case, scope, idents, each)
                    del scope
                numbers["times"].setdefault(f"{state} {threads}", []).append(took)
    return numbers


def rates(numbers: dict[str, Any], state: str) -> list[float]:
    """Return the rate of many threads in each round, as a share of that of one."""
    return [a / b for a, b in zip(numbers["times"][f"{state} 1"], numbers["times"][f"{state} {THREADS}"], strict=True)]


def spread(values: list[float]) -> str:
    """Return a median, with the extremes."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


def rows(numbers: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return the lines of the table."""
    made_rows = []
    for case, found in numbers.items():
        for state in ("captured", "plain"):
            each = [found["calls"] / statistics.median(found["times"][f"{state} {n}"]) for n in (1, THREADS)]
            title = f"{TITLES[case]}, {'captured' if state == 'captured' else 'not captured'}"
            count = f"{found['wrong']:,}" if state == "captured" else "–"
            made_rows.append([title, *(f"{rate:,.0f} / s" for rate in each), spread(rates(found, state)), count])
    return made_rows


def goals(numbers: dict[str, dict[str, Any]]) -> str:
    """Return the table of goals."""
    made_rows = []
    for case, found in numbers.items():
        rate = rates(found, "captured")
        met = "met" if statistics.median(rate) >= LEAST else "**missed**"
        made_rows.append([f"{TITLES[case]}: at least {LEAST} × the rate of one thread", spread(rate), met])
        none = "met" if not found["wrong"] else "**missed**"
        made_rows.append([f"{TITLES[case]}: no record lost, doubled or mixed", f"{found['wrong']:,}", none])
    return table(("goal", "measured", "met"), made_rows)


def page(numbers: dict[str, dict[str, Any]], described: dict[str, str]) -> str:
    """Return the page."""
    paragraphs = [
        "# Threads that record at the same time",
        (__doc__ or "").split("\n", 1)[1].strip(),
        table(HEAD, rows(numbers)),
        f"Rates are medians; that of {THREADS} threads as a share of one thread's has the extremes of the rounds.",
        "## Goals",
        goals(numbers),
        "## How it was made",
        facts(described),
    ]
    return "\n\n".join(paragraphs)


def main() -> None:
    """Measure all cases, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_known_args()
    torch.set_num_threads(1)
    numbers = {case: measure(case) for case in CASES}
    described = made("threads", ["torch"]) | {
        "rounds": ", ".join(
            f"{TITLES[case]}: {rounds} of {THREADS} × {calls:,} calls" for case, (calls, rounds) in CASES.items()
        ),
        "Python's switch interval": f"{sys.getswitchinterval() * 1e3:g} ms",
    }
    write("threads", page(numbers, described), {"made": described, "numbers": numbers})


if __name__ == "__main__":
    main()
