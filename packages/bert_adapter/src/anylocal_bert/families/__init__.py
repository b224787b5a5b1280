"""The families of transformers that the adapter must know something about: a file each, which holds its `FAMILY`.

A family whose attention functions show all that is needed has no file.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import types

    from anylocal_bert._family import Family

FAMILIES: Final[tuple[Family, ...]] = tuple(
    import_module(f"{__name__}.{found.name}").FAMILY for found in pkgutil.iter_modules(__path__)
)


def family_of(function: types.FunctionType) -> Family | None:
    """Return the family whose reading applies to an attention function."""
    return next((family for family in FAMILIES if family.fits(function)), None)
