"""Write the tables of models into media.md, from what the tests check; ``nox -s docs`` runs this."""
# ruff: noqa: INP001  # `docs` is not a package

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parent / "media.md"


def table() -> str:
    """Return the table of all types that are tested, and of those whose tokens are no patches."""
    return "".join(["| model | a token of an image | two images in the test's text |\n", "|---|---|---|\n", *_rows()])


def vision() -> str:
    """Return the table of vision models whose grids are those of videos and feature maps."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "packages"))
    types: Any = import_module("bert_adapter.tests.vision_types")
    rows = [f"| {kind.name} | {kind.queries} | {kind.keys} |\n" for kind in types.VISION_TYPES]
    rows += [f"| {name} | {why} | |\n" for name, why in types.NOT_KNOWN.items()]
    return "".join(["| model | queries in the test | keys in the test |\n", "|---|---|---|\n", *rows])


def _with(page: str, name: str, made: str) -> str:
    """Return the page with a table between its marks."""
    before, _, rest = page.partition(f"<!-- {name} -->\n")
    _, _, after = rest.partition(f"<!-- end of {name} -->\n")
    return f"{before}<!-- {name} -->\n\n{made}\n<!-- end of {name} -->\n{after}"


def _rows() -> Iterator[str]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "packages"))
    types: Any = import_module("bert_adapter.tests.media_types")
    more: Any = import_module("bert_adapter.tests.more_media_types")
    for kind in (*types.TYPES, *more.MORE_TYPES):
        yield f"| {kind.name} | {kind.tower} | {', '.join(kind.grids)} |\n"
    for name, why in types.UNKNOWN.items():
        yield f"| {name} | {why} | not known, with the reason |\n"


if __name__ == "__main__":
    written = _with(PAGE.read_text("utf-8"), "types", table())
    PAGE.write_text(_with(written, "vision", vision()), encoding="utf-8")
