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
# For images, pass the pixels as well: ``explore(maps, images=photo.pixels)``. Images
# within a text are drawn beside it: :doc:`/how-to/image_text`.
#
# Long inputs
# -----------
#
# A map grows with the square of the length. From about eight times the size of a head,
# the page holds the layer's query and key instead, and the browser computes the rows
# that you ask for:

import torch

from anylocal.attention import AttentionMap

q, k = torch.randn(2, 1, 4, 1500, 32)
long = explore(AttentionMap.from_qk(q, k, name="layer"))
f"{len(long.html) / 1e6:.1f} MB for {4 * 1500**2 / 1e6:.0f} million weights"

# %%
# Its last line says how large the error is. :doc:`/gallery/images/page` is such a page,
# of a photograph: 1,370 positions. For a text of more than 48 tokens, the page has the
# choice to show the map near the query only, where there is room for labels. The page
# of a large model can still become large: select with ``layers=`` and ``samples=``.
#
# One weight
# ----------
#
# A click on a weight tells how it comes about, as does Python:

print(maps[2].explain("animal", "because", head=3))

# %%
# Two captures
# ------------
#
# Give the maps of another checkpoint, of another input of the same length, or of
# another head. The page shows the difference, red where the first has more, and both
# side by side, at one query, layer and head:

other = capture_text(model, tokenizer, TEXT.replace("tired", "wide"))
explore(maps, other, title="Tired, or wide?")

# %%
# Links and scripts
# -----------------
#
# The address of the page says what it shows, so a link shows the same picture:
# ``attention.html#layer=2&head=3``. A script in the page, or one that drives a browser,
# reads exact rows and sets the picture:
#
# .. code-block:: javascript
#
#    const row = await anylocal.row({ layer: 2, head: 3, query: 5 });   // Float32Array
#    const column = await anylocal.column({ layer: 2, head: "mean", key: 5 });
#    await anylocal.setState({ layer: 2, head: 3, query: 5 });
#    anylocal.state();
#    // Of a page that compares: "a", "b" or "difference".
#    const before = await anylocal.row({ side: "b", query: 5 });
#
# A widget in notebooks
# ---------------------
#
# In a notebook with a running kernel, the page can read its weights from Python.
# Nothing is packed, so that maps of any length open at once, and rows are exact. It
# needs the extra ``anylocal[widget]``:
#
# .. code-block:: python
#
#    from anylocal.view import widget
#
#    view = widget(maps)
#    view
#
# What it shows is ``view.selection``. A click in the page changes it, and so does
# Python; ``observe`` tells of both:
#
# .. code-block:: python
#
#    view.selection = {"layer": 2, "head": 3, "query": 5}      # moves the page
#    view.observe(lambda change: print(change["new"]), "selection")
#    maps[view.selection["layer"]][0, :, view.selection["query"]]
#
# The widget is tested in JupyterLab 4.6 and Notebook 7.6, and was tried in marimo 0.25,
# where ``marimo.ui.anywidget(view)`` shows it. It uses no more than what anywidget
# offers everywhere, VS Code and Colab included, where it has not been run.
#
# Pictures of it
# --------------
#
# ``Save SVG`` and ``Save PNG`` below the page save what it shows, in the width that you
# choose; tokens and lines of an SVG are text and paths.
