"""
distance: how far heads look
============================

The mean distance between a patch and what it attends to, in pixels: a dot for each
head, and a line through their mean (Dosovitskiy et al. 2021, figure 7).

The model is a small ViT, trained on digits and with random weights.
"""

from scenes import digit, digits_vit, untrained_vit

from anylocal_vit import capture_attention, plot

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
    plot.distance(maps, ax=ax)
    ax.set_title(name)

# %%
# `anylocal.attention.distance` returns the numbers, shape (batch, head):

from anylocal.attention import distance

distance(runs["trained"][0])

# %%
# Reference: :func:`anylocal_vit.plot.distance`.
