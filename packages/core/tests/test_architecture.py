"""The plan of the packages, read from their imports; nothing is imported for it."""

from __future__ import annotations

import ast
import importlib
import itertools
import tomllib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import pytest

import anylocal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CORE = Path(anylocal.__file__).parent
# Beside core in a checkout; none where core is tested from its wheel, and pytest skips the test of no adapter.
ADAPTERS = sorted(Path(__file__).parents[2].glob("*_adapter/src/*"))
WINGS = ("_engine", "_maps", "_readout", "_drawing", "_page")
DOORS = ("attention", "plot", "view", "store", "metrics", "adapter", "drawing")


def imported(module: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Yield the dotted names that a statement imports; ``from a import b`` imports ``a.b``, be it a module or not."""
    if isinstance(module, ast.Import):
        yield from (alias.name for alias in module.names)
    else:
        assert not module.level, "relative imports are not used in sources"
        yield from (f"{module.module}.{alias.name}" for alias in module.names)


def imports(file: Path, *, types: bool = True) -> Iterator[tuple[str, str]]:
    """Yield where a file imports what, in functions too; without those under ``if TYPE_CHECKING:`` if not `types`."""
    nodes: list[ast.AST] = [ast.parse(file.read_text("utf-8"))]
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((f"{file}:{node.lineno}", name) for name in imported(node))
        if not types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)


def within(name: str, *packages: str) -> bool:
    """Return whether a dotted name is one of some packages, or in one of them."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def beyond(allowed: Iterable[str], found: Iterable[tuple[str, str]]) -> list[str]:
    """Return the imports of core that are of none of its modules `allowed`."""
    modules = [f"anylocal.{name}" for name in allowed]
    return [f"{place}: {name}" for place, name in found if within(name, "anylocal") and not within(name, *modules)]


@pytest.mark.parametrize("door", [*(f"anylocal.{door}" for door in DOORS), "anylocal.errors"])
def test_a_door_lists_its_public_names_alone(door: str) -> None:
    """Completion in a notebook shows no helpers and no imports."""
    if door != "anylocal.errors":
        pytest.importorskip("torch")
        pytest.importorskip("matplotlib")
    module = importlib.import_module(door)
    assert dir(module) == sorted(module.__all__)


def test_the_package_lists_its_public_names_and_modules() -> None:
    """Its helpers and imports are not among them."""
    assert {"capture", "errors", "find"} <= {*dir(anylocal)} <= {*anylocal.__all__, *DOORS, "errors", "cli", "testing"}


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_imports_only_from_wings_above_it_and_errors(wing: str) -> None:
    """Between wings imports run one way, those for types and those inside functions included."""
    found = itertools.chain.from_iterable(imports(file) for file in sorted((CORE / wing).rglob("*.py")))
    assert beyond(("errors", *WINGS[: WINGS.index(wing) + 1]), found) == []


@pytest.mark.parametrize("door", DOORS)
def test_a_door_imports_no_other_door(door: str) -> None:
    """At run time a public module needs wings and errors only; for types it may name what it hands on."""
    assert beyond(("errors", *WINGS), imports(CORE / f"{door}.py", types=False)) == []


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.name)
def test_an_adapter_imports_nothing_private(adapter: Path) -> None:
    """Of core an adapter imports public doors only, and what commands share from inside its own ``cli`` only."""
    wrong = []
    for file in sorted(adapter.rglob("*.py")):
        for place, name in imports(file):
            private = any(part.startswith("_") for part in name.split("."))
            command = within(name, "anylocal.cli") and file.parent != adapter / "cli"
            if within(name, "anylocal") and (private or command):
                wrong.append(f"{place}: {name}")
    assert wrong == []


@pytest.mark.parametrize("package", [CORE, *ADAPTERS], ids=lambda path: path.name)
def test_no_import_brings_a_command(package: Path) -> None:
    """Command lines and demos are imported by ``python -m`` and by each other only."""
    files = [path for path in sorted(package.rglob("*.py")) if path.parent != package / "cli"]
    found = itertools.chain.from_iterable(imports(path) for path in files if path != package / "__main__.py")
    assert [f"{place}: {name}" for place, name in found if "cli" in name.split(".")] == []


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.name)
def test_an_adapter_has_the_version_of_core_and_requires_its_minor(adapter: Path) -> None:
    """All packages are released together, and an adapter works with any patch of its own minor version."""
    own, core = (
        tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
        for folder in (adapter.parents[1], Path(__file__).parents[1])
    )
    major, minor, _ = map(int, core["version"].split("."))
    assert own["version"] == core["version"]
    assert f"anylocal[plot,torch]>={major}.{minor}.0,<{major}.{minor + 1}" in own["dependencies"]


def test_core_is_small_and_has_one_dependency() -> None:
    """Its wheel, which has each file compressed, and that of `bytecode` together are a download of less than 1 MB."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    files = [path for path in CORE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert [line.partition(">")[0] for line in project["dependencies"]] == ["bytecode"]
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < 900_000


def test_core_is_public_faces_and_five_wings() -> None:
    """The folder of the package holds its public modules, the wings, the commands and the marker for type checkers."""
    faces = {f"{name}.py" for name in ("__init__", "errors", *DOORS)}
    found = {path.name for path in CORE.iterdir() if path.name != "__pycache__"}
    assert found == {*faces, "__main__.py", "testing", *WINGS, "cli", "py.typed"}


@pytest.mark.parametrize("module", ["__init__", "attention", "plot", "view", "store", "metrics"])
def test_the_typed_program_uses_every_public_name(module: str) -> None:
    """What a second type checker does not read is typed for one of them only."""
    tree = ast.parse((CORE / f"{module}.py").read_text("utf-8"))
    (public,) = (ast.literal_eval(node.value) for node in tree.body if is_all(node))
    used = set()
    for node in ast.walk(ast.parse(Path(__file__).with_name("consumer.py").read_text("utf-8"))):
        used |= {node.id} if isinstance(node, ast.Name) else {node.attr} if isinstance(node, ast.Attribute) else set()
    assert set(public) - used == set()


def is_all(node: ast.stmt) -> TypeGuard[ast.Assign]:
    """Return whether a statement assigns ``__all__``."""
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
