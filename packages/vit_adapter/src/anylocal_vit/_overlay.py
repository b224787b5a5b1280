"""One row of weights over the image: what every recipe of this package draws.

The axes' units are the pixels that the model saw. Patches are drawn where they lie, prefix tokens, which lie nowhere,
as cells of a strip to the left. Both are on one scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from matplotlib.patches import Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke

from anylocal._draw import beside
from anylocal._ticks import name_positions
from anylocal.attention import AttentionMap, Axis, Patches
from anylocal.errors import ShapeError, UnsupportedError
from anylocal_vit._image import grey, pixels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

    from anylocal._draw import Cmap, Weights
    from anylocal_vit._image import ImageLike, Pixels, Statistics

BACKGROUND = "0.5"
"""Grey of what lies under the cells and the colorbar: that of an average image, so that colours there are the same."""


@dataclass(frozen=True)
class Overlay:
    """A drawn row: the patches over the image, and the strip of prefix cells, None where there is no prefix."""

    heat: AxesImage
    strip: Axes | None
    keys: Patches

    def outline(self, axis: Axis, position: int) -> None:
        """Mark where a position lies, if it lies in the picture: visible on dark and on light, and in grey."""
        if not isinstance(axis, Patches):
            return
        if axis.cell(position) is not None:
            left, top, right, bottom = replace(axis, image_size=self.keys.image_size).box(position)
            _frame(self.heat.axes, left, top, right - left, bottom - top)
        elif self.strip is not None and axis.prefix[position] in self.keys.prefix:
            _frame(self.strip, -0.5, self.keys.prefix.index(axis.prefix[position]) - 0.5, 1, 1)


def seen(
    attention: AttentionMap, image: ImageLike, sample: int, mean: Statistics, std: Statistics
) -> tuple[Patches, Pixels]:
    """Return the key patches, with the size of the image, and the image in grey.

    Raises
    ------
    ShapeError, UnsupportedError
        Where the keys are no patches of the image, or the image is not as large as the one that the model saw.
    """
    if attention.windows > 1:
        msg = f"{attention!r} attends within windows, and its keys are not the whole image; draw it by heatmap."
        raise UnsupportedError(msg)
    keys = attention.keys
    if not isinstance(keys, Patches):
        msg = (
            f"The keys of {attention!r} are {keys!r}, no patches that could be drawn over an image; draw it by "
            "heatmap, or make the map with keys=Patches(grid=(rows, columns), ...)."
        )
        raise ShapeError(msg)
    pixels = grey(pixels_of(image, sample=sample, batch=attention.shape[0], mean=mean, std=std))
    height, width = pixels.shape
    if keys.image_size not in {None, (height, width)}:
        msg = (
            "The image is {} × {} pixels, and the model saw {} × {}; give what the model was given, such as "
            "anylocal_vit.photograph(model, file).pixels."
        ).format(height, width, *keys.image_size)
        raise ShapeError(msg)
    return replace(keys, image_size=(height, width)), pixels


def overlay(
    ax: Axes, row: Weights, keys: Patches, pixels: Pixels, *, norm: Normalize, cmap: Cmap, alpha: float
) -> Overlay:
    """Draw one row of weights, shape (key,), over the image that `seen` returned."""
    prefix, picture = keys.split(row)
    height, width = pixels.shape
    # The edges of the image, not the middles of its outer pixels: the units of `Patches.box`.
    extent = (0, width, height, 0)
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent, origin="upper", aspect="equal")
    heat = ax.imshow(
        picture,
        norm=norm,
        cmap=cmap,
        alpha=alpha,
        extent=extent,
        origin="upper",
        aspect="equal",
        interpolation="nearest",
    )
    # The axes' own clip, as a path: it keeps vector formats from merging the two images, for which matplotlib applies
    # alpha twice (its issue #18871).
    heat.set_clip_path(Path.unit_rectangle(), ax.transAxes)
    ax.grid(visible=False)
    ax.set(xticks=[], yticks=[])
    return Overlay(heat, _strip(heat, prefix, keys, norm) if len(prefix) else None, keys)


def _strip(heat: AxesImage, prefix: Weights, keys: Patches, norm: Normalize) -> Axes:
    assert keys.image_size is not None
    height, width = keys.image_size
    # High enough for a name at the side, never higher than the image.
    cell = min(1 / len(prefix), max(height, width) / height / 8)
    strip = beside(heat.axes, -0.24, 0.18, 1 - len(prefix) * cell, len(prefix) * cell)
    strip.set_facecolor(BACKGROUND)
    strip.imshow(
        prefix[:, None],
        norm=norm,
        cmap=heat.cmap,
        alpha=heat.get_alpha(),
        origin="upper",
        aspect="auto",
        interpolation="nearest",
    )
    strip.grid(visible=False)
    for edge in range(1, len(prefix)):
        strip.axhline(edge - 0.5, color=BACKGROUND, linewidth=0.8)
    name_positions(strip.yaxis, "", keys, range(len(prefix)), text=0, longest=10)
    strip.set(xticks=[], ylabel="")
    return strip


def _frame(ax: Axes, left: float, top: float, width: float, height: float) -> None:
    ax.add_patch(
        Rectangle(
            (left, top),
            width,
            height,
            fill=False,
            edgecolor="black",
            linewidth=1,
            path_effects=[withStroke(linewidth=3, foreground="white")],
            # At the edge of the image, half of it lies outside.
            clip_on=False,
            zorder=3,
        )
    )
