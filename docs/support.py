"""Record the result of one row of the version matrix, and create the page of all rows.

``nox -s matrix`` runs it with a row and a report of pytest, ``nox -s docs`` without, which marks the rows that were run
on other code.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET  # the report is our own pytest's

HERE = Path(__file__).parent
SOURCES = HERE.parent / "packages"
NOTES = HERE / "support"
PAGE = HERE / "support.md"
LIBRARIES = ("torch", "timm", "transformers", "matplotlib", "bytecode")
HEAD = """# Supported versions

The versions with which the whole test suite was last run, newest first, on a machine without a GPU. `nox -s matrix`
runs it and creates this table.

"""
OLDER = "older code"
TAIL = f"""
*{OLDER}*: the sources of the packages, and not only their tests, have changed since that commit.
"""


def note(row: str, report: Path) -> None:
    """Write the result of a row's tests, with the versions of the environment that runs this."""
    suites = [dict(suite.attrib) for suite in ET.parse(report).getroot().iter("testsuite")]  # noqa: S314  # our own
    counts = {key: sum(int(suite[key]) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
    broken = counts["failures"] + counts["errors"]
    result = {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "passed": counts["tests"] - broken - counts["skipped"],
        "failed": broken,
        "skipped": counts["skipped"],
        "green": broken == 0 and counts["tests"] > 0,
        "commit": _commit(),
        "sources": digest(),
    }
    NOTES.mkdir(exist_ok=True)
    (NOTES / f"{row}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _commit() -> str:
    command = ("git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*")
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True)  # noqa: S603  # as it stands
    return done.stdout.strip()


def digest() -> str:
    """Return a digest of the packages' sources."""
    found = hashlib.sha256()
    for path in sorted(SOURCES.glob("*/src/**/*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def page() -> str:
    """Return the page of all rows that were recorded."""
    notes = [json.loads(path.read_text("utf-8")) for path in NOTES.glob("*.json")]
    columns = ["python", *LIBRARIES, "passed", "failed", "skipped", "commit"]
    sources = digest()
    for each in notes:
        if each["sources"] != sources:
            each["commit"] += f" (*{OLDER}*)"
    notes.sort(
        key=lambda n: [
            [int(part) if part.isdigit() else 0 for part in n[c].split("+")[0].split(".")]
            for c in ("transformers", "python")
        ]
    )
    lines = [columns, ["---"] * len(columns), *([str(note[column]) for column in columns] for note in reversed(notes))]
    return HEAD + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n" + TAIL


if __name__ == "__main__":
    if sys.argv[1:]:
        note(sys.argv[1], Path(sys.argv[2]))
    PAGE.write_text(page(), encoding="utf-8")
