"""
heads: every head of one map
============================

All heads of a layer and their mean, each on a scale of its own; with ``share="all"`` on
one, so that panels can be compared.

The maps are those of a pretrained 6-layer BERT.
"""

from scenes import TEXT, minilm

from anylocal import plot
from anylocal_bert import capture_text

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)

# %%

import matplotlib.pyplot as plt

plt.rcParams["figure.figsize"] = (10, 8)
figure = plot.heads(maps[3])

# %%
# Fewer per row, for one column of a paper:

plt.rcParams["figure.figsize"] = (3.5, 8)
figure = plot.heads(maps[3], columns=3)

# %%
# Reference: :func:`anylocal.plot.heads`.
