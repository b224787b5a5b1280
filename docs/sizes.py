"""Measure what each installation takes, and create the page of it; ``nox -s sizes`` runs this in the stack.

Requirements are followed through the metadata of what is installed, and the files of each distribution are counted; of
our own, which are installed as links to their sources, those of the sources.
"""
# ruff: noqa: INP001  # `docs` is not a package

from __future__ import annotations

import importlib.metadata
import platform
import tomllib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "sizes.md"
OWN: Final = {
    data["name"]: (path.parent, data)
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
    if (data := tomllib.loads(path.read_text("utf-8"))["project"])
}
ROWS: Final = (
    "anylocal",
    *("anylocal[torch]", "anylocal[plot]", "anylocal[torch,plot]", "anylocal[metrics]"),
    *("anylocal-vit", "anylocal-vit[demo]", "anylocal-vit[survey]"),
    *("anylocal-bert", "anylocal-bert[demo]", "anylocal-bert[survey]"),
)
GPU: Final = ("nvidia", "cuda", "triton")
"""Beginnings of the names of the libraries for GPUs that PyTorch has with it on Linux."""
HEAD: Final = """# Install sizes

`pip install anylocal` downloads {download:.1f} MB: its own wheel and that of `bytecode`, its only dependency.
`import anylocal` imports neither its command line nor NumPy, torch or matplotlib if they are there, and the adapters
import none of their commands and demos; tests check that.

Sizes are those on disk of all that a requirement brings, without what Python compiles. PyTorch is apart, with the
libraries for GPUs that it has with it on Linux; its own site has the command for a build without them.

| command | MB | and PyTorch | packages | beside the row of the package itself |
| --- | ---: | ---: | ---: | --- |
"""


def required(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """Yield what a distribution requires here, with some of its extras."""
    if name in OWN:
        project = OWN[name][1]
        optional = project.get("optional-dependencies", {})
        lines = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    else:
        lines = importlib.metadata.requires(name) or []
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield requirement


def closure(requirement: Requirement) -> set[str]:
    """Return the names of all distributions that a requirement brings."""
    waiting, done = [requirement], set()
    while waiting:
        now = waiting.pop()
        key = (canonicalize_name(now.name), frozenset(now.extras))
        if key not in done:
            done.add(key)
            waiting += required(*key)
    return {name for name, _ in done}


def files(name: str) -> list[Path]:
    """Return the files of a distribution, without what Python compiles."""
    if name in OWN:
        found = list((OWN[name][0] / "src").rglob("*"))
    else:
        found = [Path(str(file.locate())) for file in importlib.metadata.files(name) or ()]
    return [file for file in found if file.suffix != ".pyc" and file.is_file()]


def megabytes(names: set[str]) -> float:
    """Return the size of distributions on disk."""
    return sum(file.stat().st_size for name in names for file in files(name)) / 1e6


def download(names: set[str]) -> float:
    """Return the size of their wheels: each file compressed."""
    return sum(len(zlib.compress(file.read_bytes())) for name in names for file in files(name)) / 1e6


def rows() -> Iterator[str]:
    """Yield the rows of the table."""
    for row in ROWS:
        requirement = Requirement(row)
        found = closure(requirement)
        gpu = {name for name in found if name == "torch" or name.startswith(GPU)}
        base = closure(Requirement(requirement.name)) if requirement.extras else set(OWN)
        new = sorted(found - gpu - base - set(OWN), key=lambda name: -megabytes({name}))
        listed = ", ".join(f"{name} {megabytes({name}):.1f}" for name in new[:5]) + (", …" if len(new) > 5 else "")  # noqa: PLR2004  # as many as are told
        quoted = f'"{row}"' if requirement.extras else row
        with_torch = f"{megabytes(gpu):,.0f}" if gpu else ""
        yield f"| `pip install {quoted}` | {megabytes(found - gpu):.1f} | {with_torch} | {len(found)} | {listed} |\n"


def page() -> str:
    """Return the page."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "timm", "transformers"))
    made = f"\nMeasured with Python {platform.python_version()} on {platform.system()}, {versions}.\n"
    return HEAD.format(download=download(closure(Requirement("anylocal")))) + "".join(rows()) + made


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
