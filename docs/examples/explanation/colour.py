"""
Normalisation and colour
========================

Whether two maps look alike depends on their colour scales as much as on their weights.
Every recipe draws a picture on a single scale that starts at 0, and shows that scale.
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
    plot.heatmap(layer, head=head, norm=shared if below else None, ax=ax)
    ax.set_title(f"head {head}, " + ("one scale" if below else "its own scale"))

# %%
# So use one ``norm`` for all panels that are to be compared, and a colorbar.
# :func:`~anylocal.plot.heads` and :func:`~anylocal.plot.model` do that by default.
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
# Which colours
# -------------
#
# In *magma*, lightness increases evenly with the weight: what is twice as far apart on
# the scale looks twice as far apart, in greyscale print and with any colour vision. In
# *jet*, which older tools use, lightness rises and falls, and yellow stands out in the
# middle of the scale.


def lightness(cmap):
    """Return CIE L* along a colormap."""
    rgb = mpl.colormaps[cmap](np.linspace(0, 1, 256))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(
        luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance
    )


figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained", sharey=True)
for ax, cmap in zip(axes, ("magma", "viridis", "jet"), strict=True):
    ax.scatter(
        np.linspace(0, 1, 256),
        lightness(cmap),
        c=np.linspace(0, 1, 256),
        cmap=cmap,
        s=12,
    )
    ax.set(title=cmap, xlabel="weight", ylabel="lightness L*" if ax is axes[0] else "")

# %%
# Differences have a neutral middle. They are drawn in *coolwarm* by default, on a scale
# centred at 0, grey where maps agree. Lines and bars on a white background are drawn in
# reversed *magma*: small weights are pale.
#
# Any recipe takes ``cmap=`` and ``norm=``, with matplotlib's own names.
