"""
Swin and other windows
======================

A windowed layer attends within windows. Its batch axis is images × windows, and its
axes say where each patch of each window is in the image, also in shifted windows.

The model is a toy: a 4-layer Swin, trained on digits for seconds.
"""

from scenes import digits_swin, large_digit

from anylocal.errors import UnsupportedError
from anylocal_vit import capture_attention, plot

model = digits_swin()
image, pixels = large_digit()
with capture_attention(model) as maps:
    model(image)
layer = maps[1]
layer.shape, layer.images, layer.windows

# %%
# Which window?
# -------------
#
# :meth:`~anylocal.attention.PlacedPatches.find` returns the window of a patch and its
# position in the window; :meth:`~anylocal.attention.PlacedPatches.cell` is the inverse.

window, position = layer.queries.find(5, 6)
window, position, layer.queries.cell(position, sample=window)

# %%
# The row of that patch: 16 weights, for the 16 patches of its window.

layer[window, :, position].shape

# %%
# Recipes do this for you. A query is a row and a column in the whole image:

ax = plot.query(layer, pixels, query=(5, 6))

# %%
# All windows at once, in their places:

ax = plot.windows(layer, pixels)

# %%
# What does not work
# ------------------
#
# Rollout multiplies layers, which requires the same positions in all of them. For
# windows it is refused, not approximated:

try:
    maps.rollout()
except UnsupportedError as error:
    print(error)

# %%
# Other models have other kinds of windows: strided, in blocks, unrolled, with pooled
# keys. :doc:`/zoo` lists them.
