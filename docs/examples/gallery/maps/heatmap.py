"""
heatmap: one map as a matrix
============================

A row for each query, a column for each key. The mean over heads, or one head; all
queries, or some.

A real BERT of 6 layers reads a sentence (``scenes`` loads it; the notebook has it in
its second cell).
"""

from scenes import TEXT, minilm

from anylocal import plot
from anylocal_bert import capture_text

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)

# %%

ax = plot.heatmap(maps[2], head=1)

# %%
# Some queries, in the order asked for, and a scale of your own:

ax = plot.heatmap(
    maps[2], head=1, queries=["it", "tired", "[SEP]"], norm="log", cmap="viridis"
)

# %%
# The weights are the array of the picture's only image.

ax.images[0].get_array().shape

# %%
# Reference: :func:`anylocal.plot.heatmap`.
