"""Counts the instructions of the five most-used paths, and fails where one takes 5 % more than the baseline has.

Instructions, unlike times, are the same on a busy machine. The baseline is of one Python: with another, and without
valgrind, nothing is compared, and the reason is printed. ``--update`` writes the baseline. Nothing here imports torch,
which alone takes callgrind minutes: calls in models are in the table of ``engine.py``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Final

import _count

BASELINE: Final = Path(__file__).with_name("gate.json")
MOST: Final = 1.05
# One takes as many instructions as many calls.
CALLS_OF_A_SCOPE: Final = 16
IMPORT: Final = "from anylocal import capture"
SCOPE: Final = "opening and closing a capture"
SOURCES: Final = Path(__file__).parent.parent / "packages" / "core" / "src"


class Holder:
    """Has the method that is captured."""

    def method(self, x: Any) -> Any:
        """Bind the local that is captured."""
        attn = x
        return attn  # noqa: RET504  # the local that is captured


def run_counted() -> None:
    """Run, under callgrind, what is to be counted, and print the names in the order of the runs."""
    from anylocal import capture

    def open_and_close(calls: int) -> None:
        for _ in range(calls // CALLS_OF_A_SCOPE):
            capture(_count.function, "attn").open().close()

    method = Holder().method
    for captured, called in (
        (capture(_count.function, "attn"), _count.function),
        (capture(Holder.method, "attn"), method),
        (capture(_count.function, "attn", every=True), _count.function),
    ):
        with captured:
            _count.measure(functools.partial(_count.run, called, 1), captured.clear)
    _count.measure(open_and_close, lambda: None)
    print(json.dumps(["a call of a function", "a call of a class's method", "a call with every=True", SCOPE]))


def count(valgrind: str) -> dict[str, float]:
    """Return the instructions of each path."""
    from engine import instructions

    printed, found = instructions(valgrind, sys.executable, __file__, "--count")
    counted = dict(zip(json.loads(printed.splitlines()[-1]), found, strict=True))
    counted[SCOPE] *= CALLS_OF_A_SCOPE
    return {**counted, IMPORT: of_import(valgrind)}


def of_import(valgrind: str) -> float:
    """Return the instructions that importing the library adds to Python's own."""
    from engine import attempt, total

    with tempfile.TemporaryDirectory() as folder:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env |= {"PYTHONHASHSEED": "0", "PYTHONPYCACHEPREFIX": folder, "PYTHONPATH": str(SOURCES)}
        # Compiled before it is counted.
        attempt(sys.executable, "-c", IMPORT, env=env)
        profiles = {code: Path(folder, f"profile{number}") for number, code in enumerate(("pass", IMPORT))}
        for code, profile in profiles.items():
            options = ("--tool=callgrind", f"--callgrind-out-file={profile}")
            attempt(valgrind, *options, sys.executable, "-c", code, env=env)
        alone, importing = map(total, profiles.values())
    return importing - alone


def versions() -> dict[str, str]:
    """Return the versions that the counts depend on."""
    return {"python": sys.version.split()[0], "machine": sysconfig.get_platform()}


def main() -> None:
    """Compare the counts with the baseline, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", action="store_true", help="make the runs that are counted under callgrind")
    parser.add_argument("--update", action="store_true", help="write the baseline")
    options = parser.parse_args()
    if options.count:
        run_counted()
        return
    valgrind, made = shutil.which("valgrind"), versions()
    if valgrind is None:
        print("Nothing was compared: valgrind is not installed (on Debian: `apt install valgrind`).")
        return
    baseline: Any = json.loads(BASELINE.read_text("utf-8")) if BASELINE.exists() else {"made": None}
    if baseline["made"] != made and not options.update:
        print(f"Nothing was compared: the baseline is of {baseline['made']}, and this is {made}. --update writes one.")
        return
    counted = count(valgrind)
    if options.update:
        BASELINE.write_text(json.dumps({"made": made, "instructions": counted}, indent=2) + "\n", "utf-8")
        return
    slower = []
    for path, before in baseline["instructions"].items():
        print(f"{path}: {counted[path]:,.0f} instructions, {counted[path] / before - 1:+.1%}")
        slower += [path] if counted[path] > MOST * before else []
    if slower:
        sys.exit(f"More than 5 % slower than {BASELINE.name} has it: {', '.join(slower)}. Or run it with --update.")


if __name__ == "__main__":
    main()
