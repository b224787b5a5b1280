"""Which modules of the wings import which, read from their sources; imports for type checkers count."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import anylocal

ROOT = Path(anylocal.__file__).parent


def imports(file: Path) -> set[str]:
    """Return the modules of anylocal that a file imports."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "anylocal":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in names if (ROOT.parent / name.replace(".", "/")).with_suffix(".py").exists()}
            named |= modules or {str(node.module)}
    return named


def modules(wing: str) -> dict[str, set[str]]:
    """Return the imports of each module of a wing."""
    files = sorted((ROOT / wing).rglob("*.py"))
    return {".".join(file.relative_to(ROOT.parent).with_suffix("").parts): imports(file) for file in files}


@pytest.mark.parametrize("wing", ["_engine", "_readout"])
def test_no_module_imports_itself_through_others(wing: str) -> None:
    """A reader can begin with a module that needs no other one, and go on from there."""
    graph = {name.removesuffix(".__init__"): imported for name, imported in modules(wing).items()}
    tuple(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("word", ["scaled_dot_product", "anylocal_vit", "anylocal_bert", "_readout"])
def test_the_engine_knows_no_attention(word: str) -> None:
    """What explains an empty capture of a fused layer is registered from outside."""
    assert not [file.name for file in (ROOT / "_engine").rglob("*.py") if word in file.read_text("utf-8")]
