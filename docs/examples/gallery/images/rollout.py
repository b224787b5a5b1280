"""
rollout: attention followed through all layers
==============================================

One query of the last layer, traced back to the image: the layers' maps are multiplied,
each mixed with the identity for its residual connection (Abnar and Zuidema 2020).

The model is a small ViT that was trained on digits.
"""

from scenes import digit, digits_vit

from anylocal_vit import capture_attention, plot

model = digits_vit()
image, pixels = digit()
with capture_attention(model) as maps:
    model(image)

# %%

import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.6), layout="constrained")
plot.rollout(maps, pixels, ax=axes[0])
plot.query(maps[-1], pixels, query="cls", ax=axes[1])

# %%
# Left: the rollout. Right: the last layer alone. The rows themselves:

maps.rollout(queries=0).shape

# %%
# Reference: :func:`anylocal_vit.plot.rollout`, :func:`anylocal.attention.rollout`.
