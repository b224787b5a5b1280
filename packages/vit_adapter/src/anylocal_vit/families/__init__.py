"""Knowledge of single families: each file is named after timm's own, or another library, and holds one `FAMILY`.

Families whose maps and axes can be read without it have no file.
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
def entries(table: str, name: str) -> tuple[Any, ...]:
    """Return the entries of all families for a class or function, in the table of this name."""
    return tuple(getattr(family, table)[name] for family in FAMILIES if name in getattr(family, table))
