"""
Normalisation and colour
========================

Whether two maps look alike depends on their colour scales as much as on their weights.
Every recipe draws on scales that start at 0, and says what they are.
"""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from scenes import TEXT, minilm

from anylocal import plot
from anylocal_bert import capture_text

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)

# %%
# One scale each, or one for all
# ------------------------------
#
# The two heads of a layer whose largest weights differ most. Top row: each on its own
# scale, both seem sharply focused. Bottom row: on one scale, one of them hardly is. The
# weights are the same.

layer = maps[0]
greatest = layer[0].amax((1, 2))
heads = (greatest.argmin().item(), greatest.argmax().item())
shared = Normalize(0, greatest.max().item())
figure, axes = plt.subplots(2, 2, figsize=(8, 7), layout="constrained")
for ax, head in zip(axes.flat, heads * 2, strict=True):
    below = ax in axes[1]
    scale = shared if below else Normalize(0, layer[0, head].max().item())
    plot.heatmap(layer, head=head, norm=scale, ax=ax)
    ax.set_title(f"head {head}, " + ("one scale" if below else "its own scale"))

# %%
# So choose by the question. Where the structure of each head is asked for, each needs a
# scale of its own, as in :func:`~anylocal.plot.heads`, :func:`~anylocal.plot.model` and
# :func:`~anylocal_vit.plot.over_heads`, which write its top into the panel. To compare
# heads, use ``share="all"``, or one ``norm`` in panels of your own.
#
# The scale ends at a robust maximum: a single sink may take fifty times as much as
# anything else, and would leave the rest black. What lies above is clipped, and the
# colorbar ends in a triangle.
#
# Why from 0
# ----------
#
# A scale from the smallest to the largest weight turns noise into contrast: a uniform
# map becomes as colourful as a sharp one. Weights are fractions of a whole, and 0 means
# no attention. Where a few weights dominate, a power or logarithmic scale distinguishes
# the small ones, and the colorbar shows the scale:

figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
for ax, (name, norm) in zip(
    axes,
    {"linear": None, "square root": PowerNorm(0.5), "log": "log"}.items(),
    strict=True,
):
    plot.heatmap(maps[3], head=0, norm=norm, ax=ax)
    ax.set_title(name)

# %%
# Matrices: magma
# ---------------
#
# In *magma*, lightness increases evenly with the weight, from black to nearly white:
# what is twice as far apart on the scale looks twice as far apart, in greyscale print
# and with any colour vision. In *jet*, which older tools use, lightness rises and
# falls, and yellow stands out in the middle of the scale.

MAPS = ("plasma", "magma", "inferno", "viridis", "cividis", "turbo")


def lab(rgb):
    """Return CIELAB coordinates of colours between 0 and 1."""
    from skimage.color import rgb2lab

    return rgb2lab(rgb)


figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained", sharey=True)
for ax, cmap in zip(axes, ("magma", "plasma", "jet"), strict=True):
    weights = np.linspace(0, 1, 256)
    lightness = lab(mpl.colormaps[cmap](weights)[:, :3])[:, 0]
    ax.scatter(weights, lightness, c=weights, cmap=cmap, s=12)
    ax.set(title=cmap, xlabel="weight", ylabel="lightness L*" if ax is axes[0] else "")

# %%
# Photographs: plasma
# -------------------
#
# Over a photograph, opacity grows with the weight: no weight, no colour. So the dark
# end of a colormap is hardly seen, and what matters is that the bright end differs from
# whatever lies below: dark, bright and colourful photographs. The attention of the last
# layer's class token over a rocket at night, coffee on wood, and a cat:

import skimage.data
import torch
from scenes import dinov2_vit

from anylocal_vit import capture_attention, photograph
from anylocal_vit import plot as over

NAMES = ("rocket", "coffee", "chelsea")
model = dinov2_vit()
photos = {
    name: photograph(model, getattr(skimage.data, name)(), size=224) for name in NAMES
}
figure, axes = plt.subplots(
    3, 7, figsize=(12, 5.4), layout="constrained", gridspec_kw={"wspace": 0.02}
)
for row, (name, photo) in zip(axes, photos.items(), strict=True):
    with capture_attention(model, modules="blocks.11.attn") as last, torch.no_grad():
        model(photo.tensor)
    row[0].imshow(photo.pixels)
    row[0].set_title(name)
    row[0].axis("off")
    for ax, cmap in zip(row[1:], MAPS, strict=True):
        over.query(last[0], photo, query="cls", cmap=cmap, ax=ax, colorbar=False)
        ax.set_title(cmap)

# %%
# How far apart are the photograph and the colour of the greatest weight? Below are
# distances in CIELAB, where about 2 is just visible: the mean over the pixels of the
# three photographs, and in brackets the lowest twentieth; for normal vision, and
# simulated for eyes without one of the three kinds of cones (Machado, Oliveira and
# Fernandes 2009). Steps are from half of the greatest weight to three quarters, and
# from there to the whole.

from anylocal.drawing import overlay_colormap

VISION = {
    "normal": np.eye(3),
    "no long": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "no medium": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "no short": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def seen(rgb, kind):
    """Simulate a colour vision, in linear light."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = (linear @ VISION[kind].T).clip(0, 1)
    return np.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055
    )


def distances(cmap, low, high, kind="normal"):
    """Return the distance between the colours of two weights, over each pixel."""
    colours = []
    for weight in (low, high):
        *rgb, opacity = overlay_colormap(cmap)(weight)
        mixed = under * (1 - opacity) + opacity * np.array(rgb)
        colours.append(lab(seen(mixed, kind)))
    return np.linalg.norm(colours[0] - colours[1], axis=-1)


under = np.concatenate(
    [photo.pixels[::8, ::8].reshape(-1, 3) for photo in photos.values()]
)
under = under / 255
print(f"{'':10s}" + "".join(f"{kind:>15s}" for kind in VISION) + f"{'steps':>13s}")
for name in MAPS:
    cells = [distances(name, 0.0, 1.0, kind) for kind in VISION]
    steps = [distances(name, *pair).mean() for pair in ((0.5, 0.75), (0.75, 1.0))]
    shown = [f"{cell.mean():.0f} ({np.quantile(cell, 0.05):.0f})" for cell in cells]
    print(f"{name:10s}" + "".join(f"{cell:>15s}" for cell in shown), end="")
    print(f"{steps[0]:>8.0f}{steps[1]:>5.0f}")

# %%
# *plasma* ends in a saturated yellow that few photographs have; *magma* and *inferno*
# end in pale colours, which bright photographs do have, and *turbo* in a dark red, the
# nearest of all. Below a matrix there is no photograph: there *magma* is the default,
# for its lightness covers the whole range from black.
#
# Differences have a neutral middle. They are drawn in *coolwarm* by default, on a scale
# centred at 0, grey where maps agree. Lines and bars on a white background are drawn in
# reversed *magma*: small weights are pale.
#
# Any recipe takes ``cmap=`` and ``norm=``, with matplotlib's own names.
