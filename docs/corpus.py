"""Makes the page of all functions that were rewritten; ``nox -s corpus`` notes the counts and runs it."""
# ruff: noqa: INP001  # `docs` is no package

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

Every Python function of these libraries was rewritten, to have all its names recorded and edited, and compared with
what it was: CPython takes it for a function of the same signature, all its instructions are there in order and stand
where they stood in the source, jumps and exceptions lead to the same places, and the stack is as deep as it was, along
every path. The functions were not run. `nox -s corpus` does this and makes the table.

The standard library is counted with its own tests. Of those, some files are written in another version of Python, or in
none, to test just that: such a file has no functions here. From 3.14 on annotations are functions too, and before 3.12
comprehensions are.

"""


def page() -> str:
    """Return the page of all Pythons that were noted."""
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
