"""
difference: one map minus another
=================================

Two maps over the same positions, such as one layer before and after training. Grey
means no difference.

The models are DINOv2 ViT-S/14 and the same with random weights.
"""

import timm
from scenes import photo_scene

from anylocal import plot
from anylocal_vit import capture_attention

model, photo = photo_scene()
untrained_vit = timm.create_model("vit_small_patch14_dinov2", img_size=224).eval()
runs = []
for each in (model, untrained_vit):
    with capture_attention(each) as maps:
        each(photo.tensor)
    runs.append(maps)
trained, untrained = runs

# %%

ax = plot.difference(trained[11], untrained[11])
ax.set_title("last layer: trained − random weights")

# %%
# For one head, and only some queries:

ax = plot.difference(
    trained[11], untrained[11], head=0, queries=["cls", (4, 7), (8, 8)]
)

# %%
# Reference: :func:`anylocal.plot.difference`.
