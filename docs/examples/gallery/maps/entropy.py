"""
entropy: how evenly heads spread their attention
================================================

A dot for each head, and a line through their mean. An entropy of 0 means all weight on
one key; ln *n*, the grey line, means equal weights on all *n* keys.

The picture compares DINOv2 ViT-S/14 with the same model of random weights.
"""

import timm
from scenes import photo_scene

from anylocal import plot
from anylocal_vit import capture_attention

model, photo = photo_scene()
untrained_vit = timm.create_model("vit_small_patch14_dinov2", img_size=224).eval()
runs = {}
for name, each in {"trained": model, "random weights": untrained_vit}.items():
    with capture_attention(each) as maps:
        each(photo.tensor)
    runs[name] = maps

# %%

import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
for ax, (name, maps) in zip(axes, runs.items(), strict=True):
    plot.entropy(maps, ax=ax)
    ax.set_title(name)

# %%
# `anylocal.attention.entropy` returns the numbers, shape (batch, head):

from anylocal.attention import entropy

entropy(runs["trained"][0])

# %%
# Reference: :func:`anylocal.plot.entropy`.
