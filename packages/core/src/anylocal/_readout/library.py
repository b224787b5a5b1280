"""The library that a model is of, and the adapter registered for it."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

from torch import nn

from anylocal.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_GROUP: Final = "anylocal.adapters"
"""The entry points: each name is a library, each value the module that holds an `Adapter` called ``adapter``."""

DISTRIBUTIONS: Final = {"timm": "anylocal-vit", "transformers": "anylocal-bert"}
"""The adapters that a message can name, also when they are not installed."""


def entry_points(*, as_before: bool = False) -> Mapping[str, importlib.metadata.EntryPoint]:
    """Return where the adapters are, by the library that each reads; nothing is imported.

    `as_before` does not ask whether others were installed since.
    """
    global _found  # noqa: PLW0603  # scopes are opened by the thousand, and each look-up reads a file of each package
    if as_before and _found is not None:
        return _found[1]
    places = tuple(sys.path)
    # What is installed or removed changes its folder.
    stamp = places, tuple(map(_changed, places))
    if _found is None or _found[0] != stamp:
        _found = stamp, {entry.name: entry for entry in importlib.metadata.entry_points(group=_GROUP)}
    return _found[1]


_found: tuple[object, Mapping[str, importlib.metadata.EntryPoint]] | None = None


def _changed(path: str) -> int | None:
    """Return when a folder was changed last; None where there is none."""
    try:
        return os.stat(path or ".").st_mtime_ns  # noqa: PTH116  # pathlib takes longer than the rest
    except OSError:
        return None


@functools.cache
def _known_libraries() -> frozenset[str]:
    """Return the libraries that have an adapter, as they were at first: the look-up reads a file of each package."""
    return frozenset({*entry_points(), *DISTRIBUTIONS})


def library_of(model: nn.Module, libraries: set[str]) -> str | None:
    """Return the library that a model is of: that of its class or its bases, else that of most submodules."""
    for module in _unwrapped(model):
        found = _of_class(type(module), libraries)
        if found is not None:
            return found
    counts = Counter(found for module in model.modules() if (found := _of_class(type(module), libraries)) is not None)
    return counts.most_common(1)[0][0] if counts else None


def _unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model, and what ``torch.compile`` and data parallelism wrap."""
    yield model
    for name in ("_orig_mod", "module"):
        # Most models have neither, and at each opening of a scope an exception of getattr would take long.
        places = vars(model), vars(model).get("_modules", ())
        inner = getattr(model, name, None) if any(name in p for p in places) or hasattr(type(model), name) else None
        if isinstance(inner, nn.Module):
            yield from _unwrapped(inner)


def _of_class(cls: type, libraries: Collection[str]) -> str | None:
    packages = (base.__module__.partition(".")[0] for base in cls.__mro__)
    return next((package for package in packages if package in libraries), None)


def other(cls: type, zoo: str) -> str:
    """Return the end of a sentence: which adapter reads a class that is of another library, empty where none does."""
    library = _of_class(cls, DISTRIBUTIONS)
    if library is None or library == zoo:
        return ""
    return f"; it is of {library}, which {DISTRIBUTIONS[library]} reads"


def check_library(model: object, zoo: str, distribution: str) -> None:
    """Refuse a model of another adapter's library, of which this one would read nothing, or not all.

    Raises
    ------
    TargetError
        If the model's class is of another library that has an adapter. A model of one's own may have parts of any.
    """
    if not isinstance(model, nn.Module):
        return
    for module in _unwrapped(model):
        cls = type(module)
        if _of_class(cls, {zoo}) is None and (library := _of_class(cls, _known_libraries() - {zoo})) is not None:
            own = DISTRIBUTIONS.get(library, "")
            adapter = f" with {own.replace('-', '_')}.capture_attention, or" if own else ""
            msg = (
                f"{type(module).__qualname__} is a model of {library}, and {distribution} reads those of {zoo}. Capture"
                f" it{adapter} with capture_attention of anylocal.attention, which picks the adapter by itself."
            )
            raise TargetError(msg)
