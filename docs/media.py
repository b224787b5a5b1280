"""Write the table of models that read images into media.md, from what the tests check; ``nox -s docs`` runs this."""
# ruff: noqa: INP001  # `docs` is not a package

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parent / "media.md"
START, END = "<!-- types -->\n", "<!-- end of types -->\n"


def table() -> str:
    """Return the table of all types that are tested, and of those whose tokens are no patches."""
    return "".join(["| model | a token of an image | two images in the test's text |\n", "|---|---|---|\n", *_rows()])


def _rows() -> Iterator[str]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "packages"))
    types: Any = import_module("bert_adapter.tests.media_types")
    more: Any = import_module("bert_adapter.tests.more_media_types")
    for kind in (*types.TYPES, *more.MORE_TYPES):
        yield f"| {kind.name} | {kind.tower} | {', '.join(kind.grids)} |\n"
    for name, why in types.UNKNOWN.items():
        yield f"| {name} | {why} | not known, with the reason |\n"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n{table()}\n{END}{after}", encoding="utf-8")
