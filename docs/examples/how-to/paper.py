"""
Save a picture for a paper
==========================

Recipes obey matplotlib's settings. Set the width of a column and the size of the
paper's font, draw, save as PDF or SVG.

A real BERT of 6 layers reads a sentence.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from scenes import TEXT, minilm

from anylocal_bert import capture_text, plot

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)
folder = Path(tempfile.mkdtemp())  # yours: the folder of the paper

# %%
# One column
# ----------
#
# 3.3 inches, 8 points, as two-column papers have it. Widths in inches are widths on the
# page, if the picture is included without scaling.

style = {
    "figure.figsize": (3.3, 2.9),
    "font.size": 8,
    "font.family": "serif",
    "axes.titlesize": 8,
    "pdf.fonttype": 42,  # fonts that an editor can open, as publishers ask
    "svg.fonttype": "none",  # text stays text
}
with plt.rc_context(style):
    ax = plot.heatmap(maps[5], head=11)
    for ending in ("pdf", "svg"):
        ax.figure.savefig(folder / f"head.{ending}", dpi=300)
sorted(path.name for path in folder.iterdir())

# %%
# ``dpi`` counts for the matrix inside a PDF or SVG too: text and axes are vectors,
# weights an image. A matrix of few cells needs no more; for tokens,
# :func:`~anylocal_bert.plot.lines` is vectors throughout.
#
# Several panels, one scale
# -------------------------
#
# Give every panel the same ``norm`` and one of them the colorbar: else equal colours
# mean different weights.

from matplotlib.colors import Normalize

with plt.rc_context(style | {"figure.figsize": (6.9, 2.8)}):
    figure, axes = plt.subplots(1, 3, layout="constrained")
    for layer, ax in zip((0, 2, 5), axes, strict=True):
        plot.heatmap(maps[layer], ax=ax, norm=Normalize(0, 0.5), colorbar=layer == 5)
        ax.set(title=f"layer {layer}", ylabel="query token" if layer == 0 else "")
    figure.savefig(folder / "layers.pdf", dpi=300)

# %%
# Print in grey? The default colormap, magma, rises evenly in lightness:
# :doc:`/explanation/colour`.
