"""The facts that every table states about how it was made, and writing the tables.

Run with the names of scripts, it prints which of the goals on their pages are met.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HERE: Final = Path(__file__).parent


def made(script: str, libraries: Iterable[str]) -> dict[str, str]:
    """Return where, when and with what a table is made.

    Parameters
    ----------
    script : str
        The name by which ``nox -s bench`` knows the script.
    libraries : iterable of str
        Distributions whose versions matter, besides ours.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "command": f"nox -s bench -- {script}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {usable} cores",
        **_load(),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: importlib.metadata.version(name) for name in libraries},
        "anylocal": f"commit {_commit()}",
    }


def _load() -> dict[str, str]:
    """Return the load of the machine, where known; a table made on a busy machine is less certain."""
    if not hasattr(os, "getloadavg"):
        return {}
    return {"load": f"{os.getloadavg()[2]:.1f} processes at work on average in the last 15 minutes, this one included"}


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown, because git is not installed"

    def tell(*arguments: str) -> str:
        return subprocess.run([git, *arguments], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()

    # Only sources count: the tables themselves change while this runs.
    changed = tell("status", "--porcelain", "--", "../packages")
    return (tell("rev-parse", "--short", "HEAD") or "unknown") + (" and uncommitted changes" if changed else "")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, its first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts(values: Mapping[str, str]) -> str:
    """Return a list of what a table was made with."""
    return "\n".join(f"- {name}: {f'`{value}`' if name == 'command' else value}" for name, value in values.items())


def write(script: str, page: str, numbers: Mapping[str, Any]) -> None:
    """Write a script's page, and the numbers behind it."""
    (HERE / f"{script}.md").write_text(page.rstrip() + "\n", encoding="utf-8")
    text = json.dumps(numbers, indent=2, ensure_ascii=False)
    (HERE / f"{script}.json").write_text(text + "\n", encoding="utf-8")
    print(f"Written: benchmarks/{script}.md and benchmarks/{script}.json")


def goals(page: str) -> list[str]:
    """Return the goals that a page names, each with whether it is met: rows below "Goals", and parts of sentences."""
    _, _, below = page.partition("\n## Goals\n")
    lines = [line.strip("| ") for line in below.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    # A rule ends the head of each table.
    rules = {number for number, line in enumerate(lines) if line.startswith("---")}
    rows = [line for number, line in enumerate(lines) if not {number, number + 1} & rules]
    rest = page.replace(below, "")
    sentences = [
        part for line in rest.splitlines() for part in line.split(";") if re.search(r"\*\*(met|missed)\*\*", part)
    ]
    return [*rows, *(part.strip() for part in sentences)]


if __name__ == "__main__":
    # A script without the hardware that it needs writes no page.
    for path in filter(Path.exists, [HERE / f"{script}.md" for script in sys.argv[1:]]):
        for goal in goals(path.read_text("utf-8")):
            print(f"{path.stem}: {goal}")
