"""The interactive page that the front page embeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

TITLE = "DINOv2 ViT-S/14 looks at an astronaut"
LARGEST = 5_000_000
"""In bytes: the front page must load on phones too."""


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the page into the built site, where the front page expects it."""
    if exception is not None or app.builder.format != "html":
        return
    import scenes
    import torch

    from anylocal.view import explore
    from anylocal_vit import capture_attention

    model, photo = scenes.photo_scene()
    with capture_attention(model) as maps, torch.no_grad():
        model(photo.tensor)
    page = explore(maps, images=photo, title=TITLE)
    file = page.save(Path(app.outdir) / "_static" / "live.html")
    if file.stat().st_size > LARGEST:
        message = f"{file} has {file.stat().st_size} bytes; the front page may load at most {LARGEST}."
        raise RuntimeError(message)
