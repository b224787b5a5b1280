"""Events that tools set for one code object (`sys.monitoring.set_local_events`)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import types

_TOOLS: Final = range(6)


def share_events(own: types.CodeType, rewritten: types.CodeType) -> None:
    """Set the events of a function's own code for its rewriting too, so that its calls do not escape a tool."""
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:  # before Python 3.12
        return
    for tool in _TOOLS:
        if monitoring.get_tool(tool) is not None:
            events = monitoring.get_local_events(tool, own)
            # A rewriting that is used again may have those of earlier captures.
            if events != monitoring.get_local_events(tool, rewritten):
                monitoring.set_local_events(tool, rewritten, events)
