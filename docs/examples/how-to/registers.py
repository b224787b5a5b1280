"""
Registers and class tokens
==========================

A ViT may have a class token and registers before its patches: tokens without a place in
the image. They are called *prefix tokens* here, and have names.

The model with registers is a small DINOv2 with **random weights**: its maps are
correct, but say nothing about the image.
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
# A name can be used as a query wherever a patch can: in pictures, and in
# :meth:`~anylocal.attention.Patches.position`.

axis = maps[-1].keys
[axis.position(name) for name in ("cls", "reg1", (0, 0))]

# %%

ax = plot.query(maps[-1], photo.pixels, query="reg2")

# %%
# Patches alone
# -------------
#
# :meth:`~anylocal.attention.Patches.split` separates the prefix, and reshapes the
# patches into rows and columns. The weights of the patches alone do not sum to 1: the
# rest went to the prefix.

row = maps[-1][0, :, axis.position("cls")].mean(0)
prefix, patches = axis.split(row)
prefix.shape, patches.shape, f"{patches.sum():.2f}"

# %%
# How much attention do they get?
# -------------------------------
#
# In a trained model without registers, DINOv2 ViT-S/14, there is the class token only:

from scenes import photo_scene

trained, photo = photo_scene("chelsea")
with capture_attention(trained) as real, torch.no_grad():
    trained(photo.tensor)
ax = plot.prefix(real)

# %%
# What it attends to itself, in each head of the last layer, with its own weight below
# the image:

figure = plot.over_heads(real[-1], photo, query="cls")

# %%
# In trained models without registers, some background patches play that role: see
# :doc:`/explanation/meaning`.
