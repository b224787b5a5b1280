"""The order of the pages of the site."""

from __future__ import annotations

from pathlib import Path

PAGES = [
    # Tutorials
    *["first_capture", "vit", "bert", "plain_function", "edit", "sixty_lines"],
    # How-to
    *[
        "registers",
        "rectangles",
        "swin",
        "padding",
        "generate",
        "image_text",
        "fused",
        "maintainers",
        "compile",
        "paper",
        "share",
    ],
    *["store", "dataset", "adapter", "fork"],
    # Gallery
    *["heatmap", "heads", "model", "entropy", "difference"],
    *["page", "over_heads", "over_layers", "grid", "query", "rollout", "windows", "prefix", "distance"],
    *["tokens", "lines", "text_rollout", "cross"],
    # Explanation
    *["capturing", "meaning", "colour"],
]


class Order:
    """Sort the scripts of a folder as in `PAGES`; sphinx-gallery creates one instance per folder."""

    def __init__(self, src_dir: str) -> None:
        self.src_dir = src_dir

    def __call__(self, filename: str) -> tuple[int, str]:
        """Return where a script comes; those that are not listed come last, by name."""
        page = Path(filename).stem
        return (PAGES.index(page) if page in PAGES else len(PAGES), page)

    def __repr__(self) -> str:
        """Return the same in every process: sphinx compares settings by it."""
        return "<Order>"
