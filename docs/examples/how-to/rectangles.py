"""
Rectangular images
==================

Maps know the patch grid of the image that the model saw, square or not. You do not have
to specify anything.

The model is a small ViT for images of any size, with **random weights**: the maps are
correct, but say nothing about the image.
"""

import numpy as np
import timm
import torch
from scenes import cat

from anylocal_vit import capture_attention, plot

torch.manual_seed(0)
model = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, depth=3).eval()
pixels = np.asarray(cat().resize((448, 288)))
image = torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1
with capture_attention(model) as maps, torch.no_grad():
    model(image)
maps[0].keys

# %%
# ``grid`` is rows × columns, ``image_size`` is height × width. A query is a row and a
# column:

ax = plot.query(maps[-1], pixels, query=(7, 20))

# %%
# All images of a batch have the same size. If a model packs images of several sizes
# into one batch, as timm's NaFlexViT does, its axes are
# :class:`~anylocal.attention.PlacedPatches`, which say for each image where its patches
# are.
#
# To draw a map that you have as a plain tensor, provide the axis:

from anylocal.attention import AttentionMap, Patches

weights = maps[-1].tensor()  # from anywhere
axis = Patches(grid=(18, 28), prefix=("cls",), image_size=(288, 448))
attention = AttentionMap.from_weights(weights, queries=axis, keys=axis)
ax = plot.query(attention, pixels, query=(7, 20))
