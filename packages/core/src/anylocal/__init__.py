"""Capture any local variable of any Python function by name, without editing the function.

>>> from anylocal import capture
>>> def mean(values):
...     total = sum(values)
...     return total / len(values)
>>> with capture(mean, "total") as cap:
...     mean([1, 2, 3])
2.0
>>> cap["total"]
[6]
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from anylocal._engine import explainers

if TYPE_CHECKING:
    from anylocal import errors
    from anylocal._engine.calls import Call
    from anylocal._engine.capture import Capture, capture, find
    from anylocal._engine.get_local import get_local
    from anylocal._engine.sites import Site
    from anylocal._engine.spec import Assignment

explainers.register("anylocal._readout.fused:why_unbound")

__all__ = ["Assignment", "Call", "Capture", "Site", "capture", "errors", "find", "get_local"]

# Each is imported when it is first asked for: a program that imports the library may never capture anything.
_HOMES = {
    "Assignment": "spec",
    "Call": "calls",
    "Capture": "capture",
    "Site": "sites",
    "capture": "capture",
    "find": "capture",
    "get_local": "get_local",
}

# Type checkers know all names.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "errors":
            return import_module("anylocal.errors")
        if name not in _HOMES:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        found = getattr(import_module(f"anylocal._engine.{_HOMES[name]}"), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    # With the public modules that were imported, as of any package.
    modules = [name for name in globals() if f"{__name__}.{name}" in sys.modules and not name.startswith("_")]
    return sorted({*__all__, *modules})
