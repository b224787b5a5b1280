"""The picture of the front page, drawn by the snippet beside it, and the thumbnail of pages without a picture."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SNIPPET = Path(__file__).with_name("snippet.py")


def draw(app: Sphinx) -> None:
    """Run the snippet, and save its picture where the front page expects it."""
    import matplotlib.pyplot as plt

    picture = Path(app.srcdir) / "_generated" / "front.png"
    if picture.exists() and picture.stat().st_mtime > SNIPPET.stat().st_mtime:
        return
    picture.parent.mkdir(exist_ok=True)
    # As wide as its column, so that its text is as large as the text beside it.
    with plt.rc_context({"figure.figsize": (4, 3)}):
        runpy.run_path(str(SNIPPET))
        plt.savefig(picture, dpi=200)
        plt.close("all")
    with plt.rc_context({"figure.figsize": (4, 2.8)}):
        plt.figtext(0.1, 0.5, "with capture(…) as cap:\n    …\ncap[…]", family="monospace", size=15, va="center")
        plt.savefig(picture.with_name("thumbnail.png"), dpi=100)
        plt.close("all")
