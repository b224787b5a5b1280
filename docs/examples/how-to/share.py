"""
Share the interactive page
==========================

:func:`~anylocal.view.explore` creates a page that shows every head of every layer:
choose a head, point at a word or a patch, and see what it attends to. It is one file,
opens in any browser, and needs no network: send it to someone, or publish it with a
paper.

The maps are those of a pretrained 6-layer BERT.
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
# In a notebook, the page is displayed as the value of a cell:

page

# %%
# The page stores each weight as one byte. The largest error of any weight:

f"{page.error:.4f}"

# %%
# For images, pass the pixels as well: ``explore(maps, images=photo.pixels)``. The page
# of a large model can become large: select with ``layers=`` and ``samples=``.
