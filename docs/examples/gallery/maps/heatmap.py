"""
heatmap: one map as a matrix
============================

A row for each query, a column for each key; the mean over heads, or one head; all
queries, or some.

The maps are those of a pretrained 6-layer BERT (``scenes`` loads it; the notebook has
that module in its second cell).
"""

from scenes import TEXT, minilm

from anylocal import plot
from anylocal_bert import capture_text

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)

# %%

ax = plot.heatmap(maps[2], head=1)

# %%
# Some queries, in the given order, and your own scale:

ax = plot.heatmap(
    maps[2], head=1, queries=["it", "tired", "[SEP]"], norm="log", cmap="viridis"
)

# %%
# The weights are the array of the axes' only image.

ax.images[0].get_array().shape

# %%
# Reference: :func:`anylocal.plot.heatmap`.
