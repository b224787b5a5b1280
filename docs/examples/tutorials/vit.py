"""
A ViT end to end
================

Train a small vision transformer, capture the attention of one forward pass, and see
where it looks. The training code is ordinary: nothing in it has to prepare for the
capture.

You need ``anylocal-vit`` and scikit-learn.
"""

# sphinx_gallery_thumbnail_number = 2

import timm
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
images = functional.interpolate(images, size=(32, 32), mode="bilinear")
labels = torch.tensor(digits.target)

model = timm.create_model(
    "vit_tiny_patch16_224",
    img_size=32,
    patch_size=4,
    in_chans=1,
    num_classes=10,
    embed_dim=64,
    depth=3,
    num_heads=4,
)
with torch.no_grad():
    # timm initializes position embeddings with a standard deviation of 0.02,
    # too small to learn anything from a thousand images.
    model.pos_embed.normal_(std=0.5)

# %%
# Train
# -----
#
# The first 360 digits are the test set.

steps = 200
optimizer = torch.optim.AdamW(model.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
for _ in range(steps):
    chosen = 360 + torch.randint(len(images) - 360, (64,))
    loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

model.eval()
with torch.no_grad():
    right = model(images[:360]).argmax(1) == labels[:360]
print(f"Test accuracy: {right.float().mean():.0%}")

# %%
# Capture
# -------

from anylocal_vit import capture_attention, plot

batch = images[:8]
with capture_attention(model) as maps, torch.no_grad():
    logits = model(batch)
maps

# %%
# The shape of a map is (batch, head, query, key); its axes know that there is a class
# token before 8 × 8 patches.

maps[-1].keys

# %%
# Plot
# ----
#
# What the class token attends to in the last layer, head by head, over one digit. All
# panels share one scale.

import matplotlib.pyplot as plt
from matplotlib.colors import Normalize

which = 5
heads = maps[-1][which, :, 0]
norm = Normalize(0, heads[:, 1:].max().item())
figure, axes = plt.subplots(1, 4, figsize=(9, 2.6), layout="constrained")
for head, ax in enumerate(axes):
    plot.query(
        maps[-1],
        batch,
        query="cls",
        sample=which,
        head=head,
        mean=0,
        std=1,
        norm=norm,
        ax=ax,
        colorbar=head == 3,
    )
    ax.set_title(f"head {head}")

# %%
# What one patch attends to, from layer to layer.

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for layer, ax in enumerate(axes):
    plot.query(maps[layer], batch, query=(4, 4), sample=which, mean=0, std=1, ax=ax)

# %%
# Every head of every layer, in one picture:

figure = plot.model(maps, sample=which)

# %%
# The same code works for the other models of timm: :doc:`the table of models </zoo>`
# lists them. For a model with its own preprocessing, `anylocal_vit.photograph` prepares
# the input and the pixels from a file:
#
# .. code-block:: python
#
#    model = timm.create_model("vit_small_patch16_224", pretrained=True).eval()
#    photo = photograph(model, "cat.jpg")
#    with capture_attention(model) as maps, torch.no_grad():
#        model(photo.tensor)
#    plot.query(maps[-1], photo.pixels, query=(6, 7))
#
# Before you read much into such a picture: :doc:`/explanation/meaning`.
