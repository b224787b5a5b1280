"""
model: every head of every layer
================================

A row for each layer, a column for each head, all on one scale: the picture to begin
with.

A real BERT of 6 layers reads a sentence.
"""

from scenes import TEXT, minilm

from anylocal import plot
from anylocal_bert import capture_text

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)

# %%

figure = plot.model(maps)

# %%
# A few weights of 1 make all others dark. A scale that is not linear tells these apart,
# and says so at the colorbar.

from matplotlib.colors import PowerNorm

figure = plot.model(maps, norm=PowerNorm(0.5))

# %%
# Reference: :func:`anylocal.plot.model`.
