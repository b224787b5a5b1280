"""
entropy: how evenly heads spread their attention
================================================

A dot for each head, and a line through their mean. An entropy of 0 means all weight on
one key; ln *n* means equal weights on *n* keys.

The picture compares a small ViT before and after training on digits.
"""

from scenes import digit, digits_vit, untrained_vit

from anylocal import plot
from anylocal_vit import capture_attention

image, _ = digit()
runs = {}
for name, model in {"trained": digits_vit(), "random weights": untrained_vit()}.items():
    with capture_attention(model) as maps:
        model(image)
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
