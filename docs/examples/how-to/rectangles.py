"""
Rectangular images
==================

Maps know the patch grid of the image that the model saw, square or not. You do not have
to specify anything.

The model is DINOv2 ViT-S/14, which takes images of any size.
"""

import torch
from scenes import cat, dinov2_vit

from anylocal_vit import capture_attention, photograph, plot

model = dinov2_vit()
photo = photograph(model, cat(), size=(252, 392))
with capture_attention(model) as maps, torch.no_grad():
    model(photo.tensor)
maps[0].keys

# %%
# ``grid`` is rows × columns, ``image_size`` is height × width. A query is a row and a
# column:

ax = plot.query(maps[-1], photo, query=(7, 9))

# %%
# All images of a batch have the same size. If a model packs images of several sizes
# into one batch, as timm's NaFlexViT does, its axes are
# :class:`~anylocal.attention.PlacedPatches`, which say for each image where its patches
# are.
#
# To draw a map that you have as a plain tensor, provide the axis:

from anylocal.attention import AttentionMap, Patches

weights = maps[-1].tensor()  # from anywhere
axis = Patches(grid=(18, 28), prefix=("cls",), image_size=(252, 392))
attention = AttentionMap.from_weights(weights, queries=axis, keys=axis)
ax = plot.query(attention, photo.pixels, query=(7, 9))
