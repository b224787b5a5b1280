"""Record the result of one row of the version matrix, and create the page of all rows; ``nox -s matrix`` runs this."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from xml.etree import ElementTree as ET  # the report is our own pytest's

HERE = Path(__file__).parent
NOTES = HERE / "support"
PAGE = HERE / "support.md"
LIBRARIES = ("torch", "timm", "transformers", "matplotlib", "bytecode")
HEAD = """# Supported versions

The versions with which the whole test suite was last run, newest first, on a machine without a GPU. `nox -s matrix`
runs it and creates this table.

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
    }
    NOTES.mkdir(exist_ok=True)
    (NOTES / f"{row}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def page() -> str:
    """Return the page of all rows that were recorded."""
    notes = [json.loads(path.read_text("utf-8")) for path in NOTES.glob("*.json")]
    columns = ["python", *LIBRARIES, "passed", "failed", "skipped"]
    notes.sort(
        key=lambda n: [
            [int(part) if part.isdigit() else 0 for part in n[c].split("+")[0].split(".")]
            for c in ("transformers", "python")
        ]
    )
    lines = [columns, ["---"] * len(columns), *([str(note[column]) for column in columns] for note in reversed(notes))]
    return HEAD + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    note(sys.argv[1], Path(sys.argv[2]))
    PAGE.write_text(page(), encoding="utf-8")
