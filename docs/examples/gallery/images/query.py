"""
query: what one patch attends to
================================

The weights of one query over the image, exactly where the model saw the patches. The
query is outlined; prefix tokens, such as the class token, cover no pixels and are drawn
as cells beside the image, on the same scale.

The model is a small ViT that was trained on digits.
"""

# sphinx_gallery_thumbnail_number = 2

from scenes import digit, digits_vit

from anylocal_vit import capture_attention, plot

model = digits_vit()
image, pixels = digit()
with capture_attention(model) as maps:
    model(image)

# %%

ax = plot.query(maps, pixels, layer=-1, query="cls")

# %%
# Every head, on one scale:

import matplotlib.pyplot as plt
from matplotlib.colors import Normalize

rows = maps[-1][0, :, maps[-1].queries.position((3, 6))]
figure, axes = plt.subplots(1, 4, figsize=(9, 2.7), layout="constrained")
for head, ax in enumerate(axes):
    plot.query(
        maps[-1],
        pixels,
        query=(3, 6),
        head=head,
        norm=Normalize(0, rows.max().item()),
        ax=ax,
        colorbar=head == 3,
    )
    ax.set_title(f"head {head}")

# %%
# The mean over several queries, along the upper stroke:

ax = plot.query(maps[-1], pixels, query=[(1, 4), (1, 5), (1, 6)])

# %%
# Reference: :func:`anylocal_vit.plot.query`.
