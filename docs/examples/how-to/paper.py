"""
Save a picture for a paper
==========================

Recipes respect matplotlib's settings. Set the column width and the font size of the
paper, draw, and save as PDF or SVG.

The maps are those of a pretrained 6-layer BERT.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from scenes import TEXT, minilm

from anylocal_bert import capture_text, plot

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)
folder = Path(tempfile.mkdtemp())  # use the folder of your paper

# %%
# One column
# ----------
#
# 3.3 inches and 8 points, as in two-column papers. Widths in inches are widths on the
# page if the picture is included without scaling.

style = {
    "figure.figsize": (3.3, 2.9),
    "font.size": 8,
    "font.family": "serif",
    "axes.titlesize": 8,
    "pdf.fonttype": 42,  # embed editable fonts, as publishers require
    "svg.fonttype": "none",  # text stays text
}
with plt.rc_context(style):
    ax = plot.heatmap(maps[5], head=11)
    for ending in ("pdf", "svg"):
        ax.figure.savefig(folder / f"head.{ending}", dpi=300)
sorted(path.name for path in folder.iterdir())

# %%
# ``dpi`` also applies to the matrix inside a PDF or SVG: text and axes are vector
# graphics, the weights an image. That is enough for a matrix of few cells; for tokens,
# :func:`~anylocal_bert.plot.lines` draws vector graphics only.
#
# Several panels, one scale
# -------------------------
#
# Give every panel the same ``norm`` and one of them the colorbar; otherwise equal
# colours mean different weights.

from matplotlib.colors import Normalize

with plt.rc_context(style | {"figure.figsize": (6.9, 2.8)}):
    figure, axes = plt.subplots(1, 3, layout="constrained")
    for layer, ax in zip((0, 2, 5), axes, strict=True):
        plot.heatmap(maps[layer], ax=ax, norm=Normalize(0, 0.5), colorbar=layer == 5)
        ax.set(title=f"layer {layer}", ylabel="query token" if layer == 0 else "")
    figure.savefig(folder / "layers.pdf", dpi=300)

# %%
# Over a photograph
# -----------------
#
# The patches stay sharp at any size; ``dpi`` is that of the photograph below them.

from scenes import photo_scene

from anylocal_vit import capture_attention
from anylocal_vit import plot as over

vit, photo = photo_scene()
with capture_attention(vit, modules="blocks.11.attn") as last:
    vit(photo.tensor)
with plt.rc_context(style | {"figure.figsize": (6.9, 4)}):
    figure = over.over_heads(last[0], photo, query="cls")
    figure.savefig(folder / "heads.pdf", dpi=300)

# %%
# For greyscale print: the lightness of the default colormap, magma, increases evenly
# (see :doc:`/explanation/colour`).
