"""
windows: a windowed layer over the image
========================================

A Swin attends within windows, which every second layer shifts. The recipe puts the
windows back in their places in the image; white lines on black mark their edges.

The model is a toy: a 4-layer Swin, trained on digits for seconds.
"""

from scenes import digits_swin, large_digit

from anylocal_vit import capture_attention, plot

model = digits_swin()
image, pixels = large_digit()
with capture_attention(model) as maps:
    model(image)
maps

# %%
# The batch of a windowed layer is images × windows. The mean over the queries of each
# window, in a layer with regular windows and in one with shifted windows:

import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for layer, ax in enumerate(axes):
    plot.windows(maps[layer], pixels, ax=ax)

# %%
# What one query of every window attends to: row 1, column 2 of each.

ax = plot.windows(maps[0], pixels, query=(1, 2), head=0)

# %%
# Reference: :func:`anylocal_vit.plot.windows`; as a task: :doc:`/how-to/swin`.
