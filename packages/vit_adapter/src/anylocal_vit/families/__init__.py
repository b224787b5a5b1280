"""What must be said of single families of timm: one file for each, named after timm's, that holds its `FAMILY`.

Families whose source tells all that is needed have no file.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from anylocal_vit._family import Family

FAMILIES: Final[tuple[Family, ...]] = tuple(
    import_module(f"{__name__}.{found.name}").FAMILY for found in pkgutil.iter_modules(__path__)
)


@cache
def said(table: str, name: str) -> tuple[Any, ...]:
    """Return what families say of a class or function, in their tables of one kind."""
    return tuple(getattr(family, table)[name] for family in FAMILIES if name in getattr(family, table))
