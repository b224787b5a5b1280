"""
Save a picture for a paper
==========================

Recipes respect matplotlib's settings. Set those of the paper, draw, and save as PDF or
SVG.

The maps are those of a pretrained 6-layer BERT, and of a vision transformer.
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
# :func:`anylocal.plot.style` sets matplotlib for a two-column paper: figures are 3.25
# inches wide, type has 8 points, text stays text, and cells of matrices are crisp at
# any zoom. Widths in inches are widths on the page if the picture is included without
# scaling. Draw and save inside the block.

from anylocal.plot import style

with style("paper"):
    ax = plot.heatmap(maps[5], head=11)
    for ending in ("pdf", "svg"):
        ax.figure.savefig(folder / f"head.{ending}")
sorted(path.name for path in folder.iterdir())

# %%
# Text and axes are vector graphics, the weights an image of one dot per cell. For
# tokens, :func:`~anylocal_bert.plot.lines` draws vector graphics only.
#
# Several panels, one scale
# -------------------------
#
# Give every panel the same ``norm`` and one of them the colorbar; otherwise equal
# colours mean different weights. ``columns=2`` makes figures as wide as the page.

from matplotlib.colors import Normalize

with style("paper", columns=2):
    figure, axes = plt.subplots(1, 3, figsize=(6.75, 2.8), layout="constrained")
    for layer, ax in zip((0, 2, 5), axes, strict=True):
        plot.heatmap(maps[layer], ax=ax, norm=Normalize(0, 0.5), colorbar=layer == 5)
        ax.set(title=f"layer {layer}", ylabel="query token" if layer == 0 else "")
    figure.savefig(folder / "layers.pdf")

# %%
# Over a photograph
# -----------------

from scenes import photo_scene

from anylocal_vit import capture_attention
from anylocal_vit import plot as over

vit, photo = photo_scene()
with capture_attention(vit, modules="blocks.11.attn") as last:
    vit(photo.tensor)
with style("paper", columns=2):
    figure = over.over_heads(last[0], photo, query="cls")
    figure.savefig(folder / "heads.pdf")

# %%
# For greyscale print: the lightness of the default colormaps, magma and over
# photographs plasma, increases evenly (see :doc:`/explanation/colour`).
