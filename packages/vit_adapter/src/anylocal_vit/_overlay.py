"""One row of weights over the image, as the recipes of this package draw it.

The units of the axes are pixels of the model's input. Patches are drawn in their places, prefix tokens as cells of a
strip to the left, on the same scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke

from anylocal.attention import AttentionMap, Axis, Patches, PlacedPatches
from anylocal.drawing import as_seen, beside, grey, name_positions, pixels_of
from anylocal.errors import ShapeError, UnsupportedError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

    from anylocal.drawing import Cmap, ImageLike, Pixels, Statistics, Weights

BACKGROUND = "0.5"
"""Grey under the prefix cells and the colorbar: that of an average image, so that colours look the same there."""


@dataclass(frozen=True)
class Overlay:
    """A drawn row: the patches over the image, and the strip of prefix cells, None without prefix tokens."""

    heat: AxesImage
    strip: Axes | None
    keys: Patches

    def outline(self, axis: Axis, position: int, sample: int = 0) -> None:
        """Outline the place of a position, if it has one, visibly on dark and on light, and in grey."""
        if not isinstance(axis, Patches | PlacedPatches):
            return
        cell = axis.cell(position, sample) if isinstance(axis, PlacedPatches) else axis.cell(position)
        name = None if position >= len(axis.prefix) else axis.prefix[position]
        if cell is not None:
            left, top, right, bottom = Patches(grid=axis.grid, image_size=self.keys.image_size).box(cell)
            _frame(self.heat.axes, left, top, right - left, bottom - top)
        elif self.strip is not None and name in self.keys.prefix:
            _frame(self.strip, -0.5, self.keys.prefix.index(name) - 0.5, 1, 1)

    def borders(self, regions: npt.NDArray[np.int64], *, clip: bool) -> None:
        """Draw a line wherever neighbours differ: white on black, the inverse of a query's frame.

        Parameters
        ----------
        regions : numpy.ndarray, shape (rows + 2, columns + 2)
            The region of each patch, with a margin for the outside of the image.
        clip : bool
            Whether lines are clipped to the image; half of a line at its edge lies outside.
        """
        assert self.keys.image_size is not None
        ys, xs = (
            np.linspace(0, size, count - 1) for size, count in zip(self.keys.image_size, regions.shape, strict=True)
        )
        upright = np.argwhere(regions[1:-1, 1:] != regions[1:-1, :-1])
        level = np.argwhere(regions[1:, 1:-1] != regions[:-1, 1:-1])
        lines = [[(xs[col], ys[row]), (xs[col], ys[row + 1])] for row, col in upright]
        lines += [[(xs[col], ys[row]), (xs[col + 1], ys[row])] for row, col in level]
        # All black lines are below all white ones: as path effects of each line, they would cut the ends of others.
        for color, width in (("black", 2.0), ("white", 0.8)):
            self.heat.axes.add_collection(
                LineCollection(lines, colors=color, linewidths=width, capstyle="projecting", clip_on=clip, zorder=2.5),
                autolim=False,
            )


def seen(
    attention: AttentionMap, image: ImageLike, sample: int, mean: Statistics, std: Statistics
) -> tuple[Patches, Pixels]:
    """Return all patches of the image, with the keys' prefix tokens, and the image in grey, padded as the model did.

    Raises
    ------
    ShapeError, UnsupportedError
        If the keys are not patches of the image, or the size of the image is not that of the model's input.
    """
    keys = attention.keys
    if attention.windows > 1 and not isinstance(keys, PlacedPatches):
        msg = f"{attention!r} attends within windows, and its keys are not the whole image; draw it by heatmap."
        raise UnsupportedError(msg)
    if not isinstance(keys, Patches | PlacedPatches):
        msg = (
            f"The keys of {attention!r} are {keys!r}, not patches that could be drawn over an image; draw it by "
            "heatmap, or make the map with keys=Patches(grid=(rows, columns), ...)."
        )
        raise ShapeError(msg)
    pixels = grey(pixels_of(image, sample=sample, batch=attention.images, mean=mean, std=std))
    whole = as_seen(pixels, [keys])
    if keys.image_size not in {None, whole.shape}:
        msg = (
            "The image is {} × {} pixels, and the model saw {} × {}; give the model's input, such as "
            "anylocal_vit.photograph(model, file).pixels."
        ).format(*pixels.shape, *keys.image_size)
        raise ShapeError(msg)
    height, width = whole.shape
    return Patches(grid=keys.grid, prefix=keys.prefix, image_size=(height, width)), whole


def overlay(
    ax: Axes, row: Weights, keys: Patches, pixels: Pixels, *, norm: Normalize, cmap: Cmap, alpha: float
) -> Overlay:
    """Draw one row of weights, shape (key,), over the image that `seen` returned; NaN leaves it bare."""
    prefix, picture = keys.split(row)
    height, width = pixels.shape
    # From edge to edge, not from the centres of outer pixels: the units of `Patches.box`.
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
    # Tall enough for a name beside it, together never taller than the image.
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
