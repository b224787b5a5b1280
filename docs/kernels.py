"""Write the table of kernels into where-it-runs.md, from what the code knows; ``nox -s docs`` runs this."""
# ruff: noqa: INP001  # `docs` is not a package

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anylocal._readout.kernels import KERNELS
from anylocal._readout.kernels.xformers import MASKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PAGE = Path(__file__).parent / "where-it-runs.md"
START, END = "<!-- kernels -->\n", "<!-- end of kernels -->\n"


def table() -> str:
    """Return the table of all kernels and their arguments."""
    return "".join(["| kernel | argument | map |\n", "|---|---|---|\n", *_rows()])


def _rows() -> Iterator[str]:
    for kernel in KERNELS.values():
        yield f"| {_listed(kernel.functions)} | {_listed(kernel.exact)} | exact |\n"
        yield f"| | {_listed(kernel.neutral)} | exact: they do not change the map, which is before dropout |\n"
        if kernel.refused:
            yield f"| | {_listed(kernel.refused)} | refused by name |\n"
    yield f"| masks of xFormers | {_listed(MASKS)} | exact |\n"
    yield "| | masks of pages, and any other class | refused by name |\n"
    yield "| all | any other argument | refused by name, when the map is read |\n"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    before, _, rest = PAGE.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n{table()}\n{END}{after}", encoding="utf-8")
