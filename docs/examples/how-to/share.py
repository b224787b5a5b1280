"""
Share the interactive page
==========================

:func:`~anylocal.view.explore` makes a page that shows every head of every layer: choose
a head, point at a word or a patch, see what it attends to. It is one file, opens in any
browser, and loads nothing from anywhere: send it, or put it beside a paper.

A real BERT of 6 layers reads a sentence.
"""

from scenes import TEXT, minilm

from anylocal.view import explore
from anylocal_bert import capture_text

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)
page = explore(maps, title="MiniLM reads a sentence")

# %%

import tempfile
from pathlib import Path

file = page.save(Path(tempfile.mkdtemp()) / "attention.html")
f"{file.stat().st_size / 1000:.0f} kB"

# %%
# In a notebook, the page shows as the value of a cell:

page

# %%
# Weights on the page are kept as one byte each. The most that any of them is off:

f"{page.error:.4f}"

# %%
# Over images, give the pixels as well: ``explore(maps, images=photo.pixels)``. A page
# of all heads of a large model grows large: choose with ``layers=`` and ``samples=``.
