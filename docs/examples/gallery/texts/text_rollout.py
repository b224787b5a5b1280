"""
rollout: attention to a text through all layers
===============================================

A bar for each token: how much of the query's position in the last layer is traced back
to it, through all layers and their residual connections (Abnar and Zuidema 2020).

The maps are those of a pretrained 6-layer BERT.
"""

from scenes import TEXT, minilm

from anylocal_bert import capture_text, plot

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)

# %%

ax = plot.rollout(maps, query="it")

# %%
# Without the residual connections:

ax = plot.rollout(maps, query="it", residual=0.0)

# %%
# Reference: :func:`anylocal_bert.plot.rollout`.
