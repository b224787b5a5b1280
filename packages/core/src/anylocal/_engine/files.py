"""Files that are written completely or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def atomic_write(file: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to, which replaces the file after the `with` block; after an exception it is deleted.

    The folder is made if it is missing. Readers see the old file or the new one, even if the process is killed.
    """
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        # The permissions of other new files of this user: some writers make theirs private.
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
