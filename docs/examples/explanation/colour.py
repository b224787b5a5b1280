"""
Normalisation and colour
========================

Two maps look alike or different by the scale that colours are given, as much as by
their weights. Every recipe draws one picture on one scale, from 0, and shows it.
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
# Each its own scale, or one for all
# ----------------------------------
#
# The two heads of a layer whose greatest weights differ most. Above, each on a scale of
# its own: both seem to look sharply. Below, on one scale: one of them hardly does. The
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
# So: one ``norm`` for all panels that are to be compared, and a colorbar.
# :func:`~anylocal.plot.heads` and :func:`~anylocal.plot.model` do that by themselves.
#
# Why from 0
# ----------
#
# A scale from the least to the greatest weight turns noise into contrast: a uniform map
# becomes as colourful as a sharp one. Weights are shares, and 0 means something. Where
# a few weights outshine the rest, a power or a logarithm tells small ones apart, and
# the colorbar says that it is one:

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
# In *magma* lightness rises evenly with the weight: what is twice as far on the scale
# is twice as far to the eye, in grey print and with any colour vision. In *jet*, which
# older tools use, lightness rises and falls, and yellow stands out in the middle of the
# scale.


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
# Differences have a middle. They are drawn in *coolwarm* by default, grey where maps
# agree, and its scale is centred at 0. Lines and bars on paper are drawn in *magma*
# reversed: what is weak is pale.
#
# Any recipe takes ``cmap=`` and ``norm=``, with matplotlib's own names.
