"""
Swin and other windows
======================

A windowed layer attends within windows. Its batch axis is images × windows, and its
axes say where each patch of each window lies, shifted or not.

A toy: a Swin of 4 layers, trained on digits for seconds.
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
# :meth:`~anylocal.attention.PlacedPatches.find` tells the window and the position in it
# of a patch of the image; :meth:`~anylocal.attention.PlacedPatches.cell` goes back.

window, position = layer.queries.find(5, 6)
window, position, layer.queries.cell(position, sample=window)

# %%
# Its row of the map: 16 weights, for the 16 patches of its window.

layer[window, :, position].shape

# %%
# Pictures do that by themselves. A query is a row and a column in the whole image:

ax = plot.query(layer, pixels, query=(5, 6))

# %%
# All windows at once, in their places:

ax = plot.windows(layer, pixels)

# %%
# What does not go
# ----------------
#
# Rollout multiplies layers, which needs the same positions in all of them. It is
# refused for windows, not approximated:

try:
    maps.rollout()
except UnsupportedError as error:
    print(error)

# %%
# Other models have windows of other kinds: strided, in blocks, unrolled, of pooled
# keys. :doc:`/zoo` lists them.
