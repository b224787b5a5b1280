"""Create the page of all functions that were rewritten; ``nox -s corpus`` records the counts and runs this."""
# ruff: noqa: INP001  # `docs` is not a package

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
NOTES = HERE / "corpus"
PAGE = HERE / "corpus.md"
COLUMNS = {
    "library": "library",
    "version": "version",
    "files": "files",
    "not_python": "in another Python",
    "functions": "functions",
    "rewritten": "rewritten",
    "failed": "failed",
}
HEAD = """# Rewritten functions

Every Python function of these libraries was rewritten so that all its names are recorded and edited, and compared with
the original: CPython accepts it with the same signature, it has all the original instructions in the same order and
with the same source positions, jumps and exception handlers lead to the same places, and the stack depth is the same
along every path. The functions were not run. `nox -s corpus` does this and creates the table.

The standard library includes its own tests. Some of those files are deliberately written for another version of Python,
or are not valid Python: such a file counts no functions. From 3.14 on annotations are functions too, and before 3.12
comprehensions are.

"""


def page() -> str:
    """Return the page of all Pythons that were recorded."""
    notes = [json.loads(path.read_text("utf-8")) for path in NOTES.glob("*.json")]
    notes.sort(key=lambda note: [int(part) for part in note["python"].split(".")], reverse=True)
    lines = [["python", *COLUMNS.values()], ["---"] * (1 + len(COLUMNS))]
    for note in notes:
        for library, counts in note["libraries"].items():
            values = {"library": library, **counts}
            lines.append([note["python"], *(str(values[column]) for column in COLUMNS)])
    return HEAD + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
