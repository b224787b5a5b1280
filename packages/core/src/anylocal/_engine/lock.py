"""The only lock of the engine, so that no order of locks can be wrong; and how to undo in spite of interrupts.

It is held while functions are patched and while records are counted, read or removed, never while user code runs.
A forked process gets it free, and not held for ever by a thread that it does not have.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

lock: Final = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def completely(undo: Callable[[], object]) -> None:
    """Run what may be repeated; if an exception, such as Ctrl-C, cuts it short, run it once more and raise that."""
    try:
        undo()
    except BaseException:
        undo()
        raise
