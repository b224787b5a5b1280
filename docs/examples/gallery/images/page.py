"""
explore: the interactive page
=============================

Every head of the chosen layers over a photograph of 518 pixels: click a thumbnail to
choose its head, point at a patch to see what it attends to, click a weight to see how
it comes about.

The model is DINOv2 ViT-S/14 with its real weights, at the size that its position
embedding is for. Each map has 1,370 positions; the page holds query and key of three
layers, and computes the rows that you ask for.
"""

# sphinx_gallery_thumbnail_path = 'images/page.png'

from scenes import photo_scene

from anylocal_vit import capture_attention, explore

model, photo = photo_scene(size=518)
with capture_attention(model) as maps:
    model(photo.tensor)
page = explore(maps, layers=[3, 7, 11], images=photo, title="DINOv2 at 518 pixels")

# %%
# Here in a frame, as in a notebook;
# `on a full screen <../../_static/dinov2-518.html>`__ there is more room for it:

page

# %%
# With all 12 layers, it would have 25 MB. What the page computes is off by at most:

f"{page.error:.4f}"

# %%
# Reference: :func:`anylocal.view.explore`. More about it: :doc:`/how-to/share`.
