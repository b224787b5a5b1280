"""The interactive pages of the site: that of the front page, and that of the gallery on a full screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PAGES: tuple[tuple[str, int, dict[str, Any], int], ...] = (
    ("live.html", 224, {"title": "DINOv2 ViT-S/14 looks at an astronaut"}, 5_000_000),
    ("dinov2-518.html", 518, {"title": "DINOv2 at 518 pixels", "layers": [3, 7, 11]}, 8_000_000),
)
"""The name of each, the size of its photograph, what `explore` is given, and its largest size in bytes: they must load
on phones too."""


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the pages into the built site, where other pages expect them."""
    if exception is not None or app.builder.format != "html":
        return
    import scenes
    import torch

    from anylocal.view import explore
    from anylocal_vit import capture_attention

    for name, size, options, largest in PAGES:
        model, photo = scenes.photo_scene(size=size)
        with capture_attention(model) as maps, torch.no_grad():
            model(photo.tensor)
        file = explore(maps, images=photo, **options).save(Path(app.outdir) / "_static" / name)
        if file.stat().st_size > largest:
            message = f"{file} has {file.stat().st_size} bytes; it may have at most {largest}."
            raise RuntimeError(message)
