"""The cost of capturing one local variable, per call, compared with other ways to get at it.

The variants of a group run in one process, in turns, and each group measures the plain module and the hand-written
line as well, so that ratios can be compared across groups. Peers have groups of their own: one that is missing or
crashes does not affect the others.

``nox -s bench -- engine`` runs this with the peers installed; run alone, it reports which of them are missing.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import _count
import _report
import torch
from _ways import (
    CAPTURE,
    GROUPS,
    HAND,
    HOOK,
    LAYERS,
    MOST_CALLS,
    PEERS,
    PLAIN,
    argument,
    cache,
    forward_by_hand,
    hooked,
    module,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROUNDS: Final = 150
# Long compared with the clock's resolution, short compared with whatever else the machine does.
BATCH_S: Final = 0.008
PATIENCE_S: Final = 600
# The noise of the counter: a list that grows, a garbage collection that happens in one run and not in the other.
GRAIN: Final = 1.0
TWICE: Final = 2.0
OFF: Final = Path(_count.__file__)

TITLES: Final = {
    PLAIN: "nothing",
    "another": "nothing, in a second such module: the noise of the measurement",
    "released": "nothing, after a capture was closed",
    HAND: "a line in the source: `cache.append(attn.detach())`",
    "hand3": "three such lines",
    HOOK: "PyTorch's `register_forward_hook`, which sees only the output",
    CAPTURE: '**anylocal** `capture(model, "attn")`',
    "class": '**anylocal** `capture(Class.forward, "attn")`',
    "three": '**anylocal** `capture(model, "q", "k", "attn")`',
    "every": '**anylocal** `capture(model, "attn", every=True)`',
    "get_local": '**anylocal** `@get_local("attn")`, which copies the values',
    "anycapture": 'AnyCapture `@get_local("attn")`',
    "anycapture_off": "AnyCapture, not activated",
    "monitoring": "`sys.monitoring`, reading `f_locals` when the function returns",
    "setprofile": "`sys.setprofile`, reading `f_locals` when the function returns",
    "nnsight": "nnsight, a trace for each call, `.output`",
    "nnsight_source": "nnsight, a trace for each call, `.source.attn_0.output`",
    "nnsight_layers": f"nnsight, one trace of {LAYERS} layers, `.source.attn_0.output` of each",
}
DESIGNS: Final = {
    "design_append": "no Python function: a list's `append` of line, module and value; it counts no call that raises,"
    " and records calls of every module, in every thread, without a limit",
    "design_bare": "a Python function that appends the detached value",
    "design_full": "a Python function that keeps line, module, thread, value and version",
    "design_counted": "the same, and an `itertools.count` as the function starts; it counts calls of every module, also"
    " those that checkpointing runs once more",
    "design_raised": "**anylocal**: a Python function that also knows compilers, backward passes, other modules and the"
    " memory limit; an exception handler counts calls that raise",
    "design_entered": "**anylocal** beside a compiler: the same, and a Python function as the function starts",
}
GOALS: Final = (
    "at most twice the line in the source",
    "cheaper than a forward hook",
    "off: no additional instruction",
)
INTRODUCTION: Final = (
    "The cost of one value of one call: `attn`, a 4 × 4 float32 tensor that requires grad, in the `forward` of a small"
    " module that is called as `module(x)`. That call alone takes {plain:.2f} µs; the table shows what recording adds"
    " (medians, with quartiles in parentheses)."
)
WHY_MORE: Final = (
    "The first goal is missed. The line in the source creates a tensor and appends it to a list. A capture does the"
    " same in a function of its own, which also checks whether a compiler is tracing, whether this object is captured"
    " and whether a backward pass is repeating the call. With the value it records the module, the line, the thread,"
    " and the tensor's version counter, which shows later whether the value was overwritten; and from time to time it"
    " compares what has been recorded with the memory limit."
)
WHY_OFF: Final = (
    "The third goal is met where Python allows it. From 3.13 on, CPython gives a function the version that its fast"
    " calls check only when a `def` makes it, and takes it away for good when its `__code__` is set, by whatever means"
    " ([gh-117045](https://github.com/python/cpython/pull/117028)). A function that was captured is called in the"
    " general way for the rest of its life; one that was never captured costs nothing."
)
HOW_TIMED: Final = (
    f"{ROUNDS} rounds; each has a batch of every variant, in shuffled order, of at most {MOST_CALLS} calls and about"
    f" {BATCH_S * 1e3:.0f} ms of CPU time, in one thread, with garbage collection. The plain module's time is"
    " subtracted, and ratios are taken, within each round."
)
HOW_DESIGNED: Final = (
    "Ways that the rewritten code could go, written out by hand where they are not anylocal's. The first four keep less"
    " than is promised."
)
HOW_SHARED: Final = (
    "one for anylocal and PyTorch, one for these designs, one for Python's tracers, one for AnyCapture, one for"
    " nnsight. Each also measures the plain module and the line in the source, and its ratios are to those."
)


# Time


def time_group(group: str) -> dict[str, Any]:
    """Measure the variants of a group in this process, and return their rows."""
    torch.set_num_threads(1)
    x = argument()
    variants = list(GROUPS[group]())
    for variant in variants:
        variant.check(x)
        variant.calls = 50
        variant.calls = max(3, min(MOST_CALLS, int(BATCH_S / variant.batch(x))))
    gc.collect()
    # Collections are a part of what recording costs, but not those of all that was there before.
    gc.freeze()
    times: dict[str, list[float]] = {variant.name: [] for variant in variants}
    order = random.Random(0)  # noqa: S311  # a fair order, not a secret
    for _ in range(ROUNDS):
        # Each leaves the processor's caches in a state that the next one finds.
        order.shuffle(variants)
        for variant in variants:
            times[variant.name].append(variant.batch(x) * 1e6)
    more = {
        v.name: [(own - base) / v.share for own, base in zip(times[v.name], times[v.base], strict=True)]
        for v in variants
    }
    rows: dict[str, dict[str, Any]] = {}
    for v in variants:
        rows[v.name] = {"microseconds": quartiles(times[v.name]), "calls_per_batch": v.calls}
        if v.name != v.base:
            rows[v.name]["more"] = quartiles(more[v.name])
        for key, name in (("of_hand", HAND), ("of_hook", HOOK)):
            if v.name != v.base and name in more:
                rows[v.name][key] = quartiles(a / b for a, b in zip(more[v.name], more[name], strict=True))
    versions = {group: importlib.metadata.version(group)} if group in PEERS else {}
    return {"rows": rows, "versions": versions}


def quartiles(values: Iterable[float]) -> list[float]:
    """Return the three of them, the median in the middle."""
    return [round(value, 4) for value in statistics.quantiles(values, n=4)]


# Instructions


def run_counted() -> None:
    """Run, under callgrind, what is to be counted, and print the names in the order of the runs."""
    from anylocal import capture

    torch.set_num_threads(1)
    x = argument()
    names = []

    def measure(name: str, call: Callable[[torch.Tensor], Any], clear: Callable[[], object] = cache.clear) -> None:
        names.append(name)
        _count.measure(lambda calls: _count.run(call, x, calls), clear)

    plain = module()
    measure(PLAIN, plain)
    measure(HAND, module(forward_by_hand))
    measure(HOOK, hooked())
    model = module()
    measure("before", model)
    with capture(model, "attn") as scope:
        measure(CAPTURE, model, scope.clear)
        model(x)  # for a scope that ends empty warns
    measure("after", model)
    model = module()
    with capture(type(model).forward, "attn") as scope:
        measure("class", model, scope.clear)
        model(x)
    measure("again", plain)
    print(json.dumps(names))


def count(pythons: Iterable[str]) -> dict[str, Any]:
    """Return the instructions of a call of each variant, or why there are none."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return {"failure": "valgrind is not installed (on Debian: `apt install valgrind`)"}
    version = subprocess.run([valgrind, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    off: dict[str, Any] = {}
    for python in (sys.executable, *pythons):
        print(f"Counting the instructions of a function after its capture, on {python} …", flush=True)
        try:
            # Behind a name on PATH may be a script that finds the Python.
            real = attempt(python, "-c", "import sys; print(sys.executable)")
            printed, (before, after) = instructions(valgrind, real, str(OFF))
            nanoseconds = json.loads(attempt(real, str(OFF), "--time", env=lent_environment()))
        except RuntimeError as error:
            print(f"Left out: {error}")
        else:
            off[printed] = {"before": before, "after": after, "nanoseconds": nanoseconds}
    print("Counting the instructions of the modules; to import torch takes callgrind more than a minute …", flush=True)
    try:
        printed, each = instructions(valgrind, sys.executable, __file__, "--count")
    except RuntimeError as error:
        return {"failure": str(error)}
    return {"version": version, "off": off, "modules": dict(zip(json.loads(printed), each, strict=True))}


def instructions(valgrind: str, *command: str) -> tuple[str, list[float]]:
    """Return what a command prints, and the instructions of a call in each of its measurements."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder, "profile")
        options = ("--tool=callgrind", f"--callgrind-out-file={profile}", f"--dump-before={_count.MARK}*")
        printed = attempt(valgrind, *options, *command, env=lent_environment())
        # The first part is what came before the first mark; then a run and what lies between two runs, in turns.
        last = len(list(Path(folder).glob("profile.*")))
        totals = [total(Path(f"{profile}.{part}")) for part in range(2, last + 1, 2)]
    differences = [
        (long - short) / (_count.LONG - _count.SHORT) for short, long in zip(totals[::2], totals[1::2], strict=True)
    ]
    medians = [
        round(statistics.median(differences[start : start + _count.REPEATS]), 2)
        for start in range(0, len(differences), _count.REPEATS)
    ]
    return printed, medians


def lent_environment() -> dict[str, str]:
    """Return the environment in which a Python without packages of its own finds ours and what we need."""
    lent = (str(_report.HERE.parent / "packages/core/src"), sysconfig.get_path("purelib"))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(lent)}


def total(part: Path) -> int:
    """Return the instructions of one part of a profile."""
    lines = part.read_text("utf-8", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in reversed(lines) if line.startswith("totals:"))


def attempt(*command: str, env: dict[str, str] | None = None) -> str:
    """Run a command, and return what it printed.

    Raises
    ------
    RuntimeError
        If it failed, with the reason in a line.
    """
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(str(error)) from error
    if done.returncode < 0:
        raise RuntimeError(f"the process crashed ({signal.Signals(-done.returncode).name})")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("==")]
        raise RuntimeError(said[-1].strip() if said else f"exit status {done.returncode}, without a word")
    return done.stdout.strip()


# The page


def page(groups: dict[str, Any], counts: dict[str, Any], made: dict[str, str]) -> str:
    """Return the page that the numbers make."""
    own = groups["anylocal"]["rows"]
    paragraphs = [
        "# What a capture costs",
        INTRODUCTION.format(plain=own[PLAIN]["microseconds"][1]),
        time_table(groups),
        *missing(groups),
        "## Designs",
        HOW_DESIGNED,
        design_table(groups["designs"].get("rows", {})),
        "## Goals",
        goals(own, counts),
        *([WHY_MORE] if own[CAPTURE]["of_hand"][0] > TWICE else []),
        *([WHY_OFF] if any(abs(more) >= GRAIN for more in off(counts).values()) else []),
        "## Instructions",
        *instruction_tables(counts),
        "## How it was made",
        _report.facts({**made, "timing": HOW_TIMED, "processes": HOW_SHARED}),
    ]
    return "\n\n".join(paragraphs)


def time_table(groups: dict[str, Any]) -> str:
    """Return the table of times."""
    found = {name: row for group in groups.values() for name, row in group.get("rows", {}).items()}
    # The limits, which every group has measured, as our own group has.
    found |= groups["anylocal"]["rows"]
    rows = [
        (title, spread(found[name]["more"]), "1" if name == HAND else spread(found[name]["of_hand"]))
        for name, title in TITLES.items()
        if "more" in found.get(name, {})
    ]
    return _report.table(("what records `attn`", "µs more", "× the line in the source"), rows)


def design_table(found: dict[str, Any]) -> str:
    """Return the table of designs."""
    rows = [(title, spread(found[name]["more"]), spread(found[name]["of_hand"])) for name, title in DESIGNS.items()]
    return _report.table(("design", "µs more", "× the line in the source"), rows)


def spread(values: list[float]) -> str:
    """Return a median with its quartiles, to three digits."""
    digits = max(0, 2 - len(str(int(abs(values[1]))).lstrip("0")) + 1)
    low, middle, high = (f"{value:.{min(2, digits)}f}".replace("-", "−") for value in values)
    return f"{middle} ({low} … {high})"


def missing(groups: dict[str, Any]) -> Iterator[str]:
    """Yield what is not in the table, and why."""
    for name, group in groups.items():
        if "failure" in group:
            yield f"{name} is missing: {group['failure']}"
    if "monitoring" not in groups["Python"].get("rows", {"monitoring"}):
        yield "`sys.monitoring` is missing: Python has it from 3.12 on."


def goals(own: dict[str, Any], counts: dict[str, Any]) -> str:
    """Return the table of goals."""
    of_hand, of_hook = own[CAPTURE]["of_hand"], own[CAPTURE]["of_hook"]
    rows = [
        (GOALS[0], f"{spread(of_hand)} ×", verdict(of_hand, TWICE)),
        (GOALS[1], f"{spread(of_hook)} × the hook", verdict(of_hook, 1)),
        *(
            (f"{GOALS[2]}, Python {python}", signed(more), verdict([abs(more)] * 3, GRAIN))
            for python, more in off(counts).items()
        ),
    ]
    if "failure" in counts:
        rows.append((GOALS[2], "the very same code object; not counted", "–"))
    return _report.table(("goal", 'measured: `capture(model, "attn")`', "met"), rows)


def verdict(quartiles_: list[float], most: float) -> str:
    """Return whether a goal is met; on a machine that is too busy it is unclear."""
    low, _, high = quartiles_
    return "yes" if high <= most else "**no**" if low > most else "unclear"


def off(counts: dict[str, Any]) -> dict[str, float]:
    """Return how many instructions more a call takes after a capture, for each Python."""
    return {python: each["after"] - each["before"] for python, each in sorted(counts.get("off", {}).items())}


def signed(value: float) -> str:
    """Return a difference as text; noise is 0."""
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= GRAIN else "0"


def instruction_tables(counts: dict[str, Any]) -> Iterator[str]:
    """Yield the tables of instructions, or why there are none."""
    if "failure" in counts:
        yield f"Not counted: {counts['failure']}."
        return
    each = counts["modules"]
    hand = each[HAND] - each[PLAIN]
    rows = [(TITLES[PLAIN], f"{each[PLAIN]:,.0f}", "", "")]
    for name in (HAND, HOOK, CAPTURE, "class"):
        more = each[name] - each[PLAIN]
        rows.append((TITLES[name], f"{each[name]:,.0f}", f"{more:,.0f}", f"{more / hand:.2f}"))
    yield (
        f"Instructions of one call of the same modules, counted by callgrind ({counts['version']}): the difference"
        f" between runs of {_count.LONG:,} and {_count.SHORT:,} calls, median of {_count.REPEATS}."
    )
    yield _report.table(("what records `attn`", "instructions", "more", "× the line in the source"), rows)
    yield (
        "Off: the same function, before it was captured and after its capture was closed, when it has its own code"
        f" object back (`is`). Differences below {GRAIN:.0f} per call are noise. In a module, torch's allocator needs a"
        " varying number of instructions; the last row counts a module that was never captured, at the same two times."
    )
    rows_off = [
        (f"a function of two lines, Python {python}", f"{n['before']:,.1f}", f"{n['after']:,.1f}")
        for python, n in sorted(counts["off"].items())
    ]
    rows_off.append(("the module", f"{each['before']:,.1f}", f"{each['after']:,.1f}"))
    rows_off.append(("another module, never captured", f"{each[PLAIN]:,.1f}", f"{each['again']:,.1f}"))
    yield _report.table(("instructions of a call", "before", "after"), rows_off)
    yield (
        f"The same function in CPU time, after a capture and never captured: {_count.COPIES} copies of each, in turns,"
        f" {_count.ROUNDS} rounds."
    )
    rows_time = [
        (f"a function of two lines, Python {python}", "{1:+.1f} ({0:+.1f} … {2:+.1f})".format(*n["nanoseconds"]))
        for python, n in sorted(counts["off"].items())
    ]
    yield _report.table(("a call after a capture", "ns more"), [(name, v.replace("-", "−")) for name, v in rows_time])


def main() -> None:
    """Measure everything and write the table, or do one part of it as a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", metavar="PYTHON", default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--other", metavar="PYTHON", action="append", default=[], help="count on this one too")
    parser.add_argument("--group", choices=GROUPS, help="time one group, and print its rows")
    parser.add_argument("--count", action="store_true", help="make the runs that are counted under callgrind")
    options = parser.parse_args()
    if options.count:
        run_counted()
    elif options.group:
        print(json.dumps(time_group(options.group)))
    else:
        measure_all(options.peers, options.other)


def measure_all(peers: str, others: Iterable[str]) -> None:
    """Measure everything, each part in a process of its own, and write the table."""
    groups: dict[str, Any] = {}
    for group in GROUPS:
        print(f"Timing {group} …", flush=True)
        python = peers if group in PEERS else sys.executable
        try:
            # What libraries print comes before.
            groups[group] = json.loads(attempt(python, __file__, "--group", group).splitlines()[-1])
        except RuntimeError as error:
            print(f"{group} will be missing: {error}")
            groups[group] = {"failure": str(error)}
    if "failure" in groups["anylocal"]:
        sys.exit("Without our own rows there is no table. Alone: python benchmarks/engine.py --group anylocal")
    counts = count(others)
    made = _report.made("engine", ["torch"])
    for group in PEERS:
        made |= groups[group].get("versions", {group: "missing"})
    numbers = {"made": made, "rounds": ROUNDS, "timing": groups, "callgrind": counts}
    _report.write("engine", page(groups, counts, made), numbers)


if __name__ == "__main__":
    main()
