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

import sys

from anylocal import errors
from anylocal._engine import empty_reasons
from anylocal._engine.calls import Call
from anylocal._engine.capture import Capture, capture, find
from anylocal._engine.get_local import get_local
from anylocal._engine.sites import Site
from anylocal._engine.spec import Assignment

empty_reasons.register("anylocal._readout.fused:why_unbound")

__all__ = ["Assignment", "Call", "Capture", "Site", "capture", "errors", "find", "get_local"]


def __dir__() -> list[str]:
    # With the public modules that were imported, as of any package.
    modules = [name for name in globals() if f"{__name__}.{name}" in sys.modules and not name.startswith("_")]
    return sorted({*__all__, *modules})
