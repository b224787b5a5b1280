"""Self-contained notebooks.

The module `scenes` is included as a cell, and Sphinx references, which a notebook cannot resolve, become plain names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx_gallery import gen_rst, notebook

DOCS = Path(__file__).parent.parent
SCENES = Path(__file__).with_name("scenes.py")

_NAME = re.compile(r":(?:class|func|meth|mod|obj):`(~?)([^`]+)`")
_PAGE = re.compile(r":doc:`(?:([^`<]+?)\s+<[^`>]+>|([^`<]+))`")


def carry_scenes() -> None:
    """Have sphinx-gallery write such notebooks.

    Its own first cell is the same for all notebooks, and it leaves Sphinx's references as they are.
    """
    made = notebook.jupyter_notebook

    def carrying(blocks: Any, conf: Any, target: Any) -> Any:
        written = made(blocks, conf, target)
        for cell in written["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = [_readable(text, Path(target)) for text in cell["source"]]
        if any(block.type == "code" and "from scenes import" in block.content for block in blocks):
            own: dict[str, Any] = {"cells": []}
            notebook.add_code_cell(own, f"%%writefile scenes.py\n{SCENES.read_text('utf-8')}")
            written["cells"][1:1] = own["cells"]
        return written

    gen_rst.jupyter_notebook = carrying


def _readable(text: str, folder: Path) -> str:
    """Return the text of a cell with references replaced by names and titles."""
    text = _NAME.sub(lambda found: f"`{found[2].rpartition('.')[2] if found[1] else found[2]}`", text)
    return _PAGE.sub(lambda found: found[1] or f"*{_title(found[2], folder)}*", text)


def _title(page: str, folder: Path) -> str:
    """Return the title of a page of the site."""
    path = page.removeprefix("/") if page.startswith("/") else f"{folder.relative_to(DOCS)}/{page}"
    script = DOCS / "examples" / f"{path}.py"
    if script.exists():
        return script.read_text("utf-8").splitlines()[1]
    lines = (DOCS / f"{path}.md").read_text("utf-8").splitlines()
    return next(line.removeprefix("# ") for line in lines if line.startswith("# "))
