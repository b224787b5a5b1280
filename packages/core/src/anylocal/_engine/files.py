"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def atomic_write(file: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to, which takes the file's place behind the scope; if that fails, nothing is left of it.

    The folder is made where there is none. Readers see the old file or the new one, also of a process that is killed.
    """
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        # As open as other files of this user: some writers make theirs readable to nobody else.
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
