"""``python -m anylocal info``: the versions, the platform and the model class that a bug report needs."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from anylocal._engine.resolve import imported
from anylocal.errors import AnylocalError, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DISTRIBUTIONS: Final = (
    *("anylocal", "anylocal-vit", "anylocal-bert", "bytecode"),
    *("torch", "timm", "transformers", "numpy", "matplotlib", "safetensors"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        facts = [*machine(), *(model(options.model) if options.model else ())]
    except AnylocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    width = max(len(name) for name, _ in facts)
    for name, fact in facts:
        print(f"{name:{width}}  {fact}")
    return 0


def machine() -> Iterator[tuple[str, str]]:
    """Yield the name and value of what is known of Python, the platform, the packages and the devices."""
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    # Neither the name of the machine nor a path: reports are public.
    yield "platform", f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield from ((name, version(name)) for name in DISTRIBUTIONS)
    yield "CUDA", cuda()


def version(distribution: str) -> str:
    """Return the installed version of a distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def cuda() -> str:
    """Return the CUDA version of torch and its devices, or why there are none."""
    if find_spec("torch") is None:
        return "unknown without torch"
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"unknown: torch cannot be imported ({error})"
    if not torch.cuda.is_available():
        return "not available"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{torch.version.cuda or torch.version.hip}: {', '.join(devices)}"


def model(dotted: str) -> Iterator[tuple[str, str]]:
    """Yield where the class of a model is from, and its bases: these decide how its attention is read.

    Raises
    ------
    TargetError
        If the name leads nowhere, or to no class.
    """
    cls = imported(dotted)
    if not isinstance(cls, type):
        raise TargetError(f"{dotted} is a {type(cls).__qualname__}. Give the class of the model.")
    distributions = importlib.metadata.packages_distributions().get(cls.__module__.partition(".")[0], ())
    yield "model", dotted
    yield "from", ", ".join(f"{each} {version(each)}" for each in distributions) or "no installed distribution"
    yield "bases", ", ".join(f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__[1:-1]) or "none"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m anylocal", description="Facts for a report of a bug.")
    commands = parser.add_subparsers(required=True, metavar="info")
    info = commands.add_parser(
        "info", help="print versions, platform and devices", description="Print versions, platform and devices."
    )
    info.add_argument(
        "model", nargs="?", metavar="MODULE:CLASS", help="also where this class of a model is from, and its bases"
    )
    return parser
