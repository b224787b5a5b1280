"""Write the tables of core's modules into CONTRIBUTING.md, from their docstrings; ``nox -s docs`` runs this."""
# ruff: noqa: INP001  # `docs` is not a package

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
CORE = ROOT / "packages" / "core" / "src" / "anylocal"
PAGE = ROOT / "CONTRIBUTING.md"
WINGS = ("_engine", "_maps", "_readout", "_drawing", "_page")
START, END = "<!-- modules -->\n", "<!-- end of modules -->\n"


def tables() -> str:
    """Return a table for each wing, its modules in the order of their imports."""
    return "\n".join(
        f"**`{wing}`**: {_summary(CORE / wing / '__init__.py')}\n\n{_table(CORE / wing)}" for wing in WINGS
    )


def _table(wing: Path) -> str:
    names = {_dotted(file): file for file in wing.rglob("*.py") if file != wing / "__init__.py"}
    lines = [f"| `{'.'.join(name.split('.')[2:])}` | {_summary(names[name])} |\n" for name in _ordered(names)]
    return "".join(["| module | contains |\n", "|---|---|\n", *lines])


def _ordered(files: dict[str, Path]) -> list[str]:
    """Return modules after those that they import, otherwise by name; imports inside functions do not count."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order and name in waiting:
            waiting.remove(name)
            for other in sorted(set(_imports(files[name])) & set(files)):
                visit(other)
            order.append(name)

    waiting = sorted(files)
    while waiting:
        visit(waiting[0])
    return order


def _imports(file: Path) -> Iterator[str]:
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _dotted(file: Path) -> str:
    path = file.parent if file.name == "__init__.py" else file.with_suffix("")
    return ".".join(("anylocal", *path.relative_to(CORE).parts))


def _summary(file: Path) -> str:
    """Return the first paragraph of a module's docstring, as one line of a table."""
    paragraph = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").partition("\n\n")[0]
    return re.sub(r"\s+", " ", paragraph).replace("|", r"\|").replace("``", "`")


if __name__ == "__main__":
    before, _, rest = PAGE.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n{tables()}\n{END}{after}", encoding="utf-8")
