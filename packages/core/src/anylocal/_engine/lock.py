"""The one lock of the engine: there is no order in which several could be taken wrongly.

It is held while functions are patched and while records are counted, read or removed, never while user code runs.
A process that forks in another thread gets it free, not held for ever by a thread that it does not have.
"""

from __future__ import annotations

import os
import threading
from typing import Final

lock: Final = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
