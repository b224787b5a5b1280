"""The interactive page that the front page embeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

TEXT = "The animal didn't cross the street because it was too tired."
LARGEST = 1_000_000
"""In bytes: the front page must load on phones too."""


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the page into the built site, where the front page expects it."""
    if exception is not None or app.builder.format != "html":
        return
    import scenes

    from anylocal.view import explore
    from anylocal_bert import capture_text

    model, tokenizer = scenes.minilm()
    maps = capture_text(model, tokenizer, TEXT)
    page = explore(maps, title="A BERT of 6 layers reads a sentence")
    file = page.save(Path(app.outdir) / "_static" / "live.html")
    if file.stat().st_size > LARGEST:
        message = f"{file} has {file.stat().st_size} bytes; the front page may load at most {LARGEST}."
        raise RuntimeError(message)
