"""
Registers and class tokens
==========================

Before the patches of a ViT there may be a class token, and registers: tokens without a
place in the image. They are called *prefix tokens* here, and have names.

A small model of the DINOv2 kind, with **random weights**: the maps are right, and say
nothing about the image.
"""

import timm
import torch
from scenes import cat

from anylocal_vit import capture_attention, photograph, plot

torch.manual_seed(0)
model = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=224, depth=3).eval()
photo = photograph(model, cat())
with capture_attention(model) as maps, torch.no_grad():
    model(photo.tensor)
maps[-1].keys

# %%
# By name
# -------
#
# Names are queries wherever patches are: in pictures, and in
# :meth:`~anylocal.attention.Patches.position`.

axis = maps[-1].keys
[axis.position(name) for name in ("cls", "reg1", (0, 0))]

# %%

ax = plot.query(maps[-1], photo.pixels, query="reg2")

# %%
# Patches alone
# -------------
#
# :meth:`~anylocal.attention.Patches.split` takes the prefix off, and gives the patches
# back their rows and columns. Weights of patches alone do not sum to 1: what is missing
# went to the prefix.

row = maps[-1][0, :, axis.position("cls")].mean(0)
prefix, patches = axis.split(row)
prefix.shape, patches.shape, f"{patches.sum():.2f}"

# %%
# How much do they take?
# ----------------------

ax = plot.prefix(maps)

# %%
# In trained models without registers, some patches of the background take that part:
# see :doc:`/explanation/meaning`.
