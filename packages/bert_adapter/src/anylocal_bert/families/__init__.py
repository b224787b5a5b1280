"""The families of transformers that the adapter must know something about: a file each, which holds its `FAMILY`.

A family whose attention functions show all that is needed has no file.
"""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import types

    from anylocal_bert._family import Family

FAMILIES: Final[tuple[Family, ...]] = tuple(
    import_module(f"{__name__}.{found.name}").FAMILY for found in pkgutil.iter_modules(__path__)
)


def part_of(function: types.FunctionType) -> str | None:
    """Return the part of a layer by which the map of a function is named, None for the layer's own."""
    parts = (pair for family in FAMILIES for pair in family.parts.items())
    return next((part for pattern, part in parts if re.fullmatch(pattern, function.__qualname__)), None)


def family_of(function: types.FunctionType) -> Family | None:
    """Return the family whose reading applies to an attention function."""
    return next((family for family in FAMILIES if family.fits(function)), None)
