"""
model: every head of every layer
================================

A row for each layer, a column for each head, each on a scale of its own: the picture to
start with. Layers become columns where the maps are larger so.

The maps are those of a pretrained 6-layer BERT.
"""

from scenes import TEXT, minilm

from anylocal import plot
from anylocal_bert import capture_text

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)

# %%

figure = plot.model(maps)

# %%
# On one scale, so that equal colours are equal weights:

figure = plot.model(maps, share="all")

# %%
# Large maps are made smaller, by the maximum of the cells that a pixel covers; the
# title says so. A vision transformer:

from scenes import photo_scene

from anylocal_vit import capture_attention

vit, photo = photo_scene()
with capture_attention(vit) as maps:
    vit(photo.tensor)
figure = plot.model(maps)

# %%
# Reference: :func:`anylocal.plot.model`.
