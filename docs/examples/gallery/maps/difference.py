"""
difference: one map minus another
=================================

Two maps over the same positions, such as one layer before and after training. Grey
means no difference.

The model is a small ViT, with random weights and trained on digits.
"""

from scenes import digit, digits_vit, untrained_vit

from anylocal import plot
from anylocal_vit import capture_attention

image, _ = digit()
runs = []
for model in (digits_vit(), untrained_vit()):
    with capture_attention(model) as maps:
        model(image)
    runs.append(maps)
trained, untrained = runs

# %%

ax = plot.difference(trained[3], untrained[3])
ax.set_title("last layer: trained − random weights")

# %%
# For one head, and only some queries:

ax = plot.difference(trained[3], untrained[3], head=0, queries=["cls", (3, 3), (4, 4)])

# %%
# Reference: :func:`anylocal.plot.difference`.
