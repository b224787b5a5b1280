"""
prefix: what prefix tokens take
===============================

How much of their attention the patches give to the class token and to registers, layer
by layer: a dot for each head, a line through their mean. Tokens that take most of it,
whatever they mean, are called sinks (Xiao et al. 2024); registers are there to be such
(Darcet et al. 2024).

A small ViT that was trained on digits.
"""

from scenes import digit, digits_vit

from anylocal_vit import capture_attention, plot

model = digits_vit()
image, _ = digit()
with capture_attention(model) as maps:
    model(image)

# %%

ax = plot.prefix(maps)

# %%
# The numbers are those of `anylocal.attention.prefix_mass`, shape (batch, head,
# prefix):

from anylocal.attention import prefix_mass

prefix_mass(maps[-1])

# %%
# Reference: :func:`anylocal_vit.plot.prefix`; with registers: :doc:`/how-to/registers`.
