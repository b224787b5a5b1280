"""Frames of the code that records, and the frame of the captured function above them."""

from __future__ import annotations

import os.path
import sys
import types
from threading import get_ident
from typing import Final

# The modules whose functions run at a recorded call.
_RECORDING_MODULES: Final = (
    "bases",
    "budget",
    "containers",
    "dynamo",
    "frames",
    "keep",
    "listeners",
    "lock",
    "plan",
    "records",
    "subscription",
    "tensors",
)
_RECORDING_FILES: Final = frozenset(
    os.path.join(os.path.dirname(__file__), f"{name}.py")  # noqa: PTH118, PTH120  # pathlib takes long to import
    for name in _RECORDING_MODULES
)


def is_recording_code(code: types.CodeType) -> bool:
    """Return whether code runs at each recorded call, so that a capture of it would record itself without end."""
    return code.co_filename in _RECORDING_FILES


def thread_and_frame() -> tuple[int, int]:
    """Return the thread in which the captured function runs, and the id of its frame.

    The id may be used again after the frame is gone; a record of a start separates the two calls.
    """
    frame = sys._getframe(2)  # noqa: SLF001  # the fast way to a frame
    while frame.f_back is not None and frame.f_code.co_filename in _RECORDING_FILES:
        frame = frame.f_back
    return get_ident(), id(frame)
