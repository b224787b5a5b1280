"""One row of weights over an image: patches where they lie, prefix tokens as cells below the image.

The axes' units are the pixels that the model saw. The image keeps its colours where there is no weight, and fades to
grey below weights, whose opacity grows with them. Prefix tokens, which lie nowhere, have cells inside the same axes, so
that axes in a grid of subplots never meet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.patches import Polygon, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from PIL import Image
from PIL.Image import Resampling

from anylocal._drawing.image import LUMA
from anylocal._drawing.scale import colormap_of, short
from anylocal._maps.patches import Patches
from anylocal._maps.placed import PlacedPatches

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.image import AxesImage

    from anylocal._drawing.image import Pixels
    from anylocal._drawing.norms import Weights
    from anylocal._drawing.scale import Cmap
    from anylocal._maps.positions import Axis

OVER_IMAGE: Final = "plasma"
"""The default colormap over images. Its lightness rises evenly, from a violet to a yellow that few photographs have; of
thirteen tried on dark, bright and colourful photographs its colours differ most from what is below, also for
colour-blind readers (the table is in the docs, under "Colours")."""

OPACITY: Final = 0.9
"""Opacity of the greatest weights: the image below can still be made out."""

GAMMA: Final = 1.0
"""How opacity grows with the weight: in proportion to it. Less than 1 veils the whole image where attention is nearly
even, as in early layers; more hides middle weights."""

FADE: Final = 2.0
"""How soon the image loses its colours below weights: those of half the scale and more are on grey."""

LEAST_OF_SET: Final = 0.35
"""Opacity of the least weights where only a set of patches is drawn: they are to be seen as well."""

BACKGROUND: Final = "0.55"
"""Grey below prefix cells and the colorbar, that of an average photograph: colours there are the same as on it."""

CELL: Final = 0.125
"""Height of a prefix cell as a share of the image's longer side."""

CELLS_IN_A_ROW: Final = 3
"""Prefix cells beside each other: more would have no room for a name and a number."""

LEGIBLE: Final = 4.5
"""Points: smaller numbers in cells are left out."""

SLIT: Final = 0.012
"""Gap between the image and the prefix cells, as a share of the image's longer side."""


def overlay_colormap(cmap: Cmap, opacity: float = OPACITY, *, threshold: float | None = None) -> Colormap:
    """Return a colormap whose opacity grows with the weight: ``least + (opacity - least) * weight ** GAMMA``.

    `least` is 0, and more where a `threshold` leaves out most patches. The opacity is in the colormap, not the image:
    the colorbar has it as well, and interpolation between patches interpolates weights, never colours.
    """
    least = 0.0 if threshold is None else min(LEAST_OF_SET, opacity)
    steps = np.linspace(0.0, 1.0, 256)
    colours = np.asarray(colormap_of(cmap)(steps))
    colours[:, 3] *= least + (opacity - least) * steps**GAMMA
    made = ListedColormap([tuple(colour) for colour in colours], name=f"{getattr(cmap, 'name', cmap)}_overlay")
    return made.with_extremes(bad=(0, 0, 0, 0), under=tuple(colours[0]), over=tuple(colours[-1]))


def smallest_set(weights: Weights, threshold: float) -> npt.NDArray[np.bool_]:
    """Return which patches are in the smallest set that holds a share of the weight of all patches.

    Parameters
    ----------
    weights : numpy.ndarray
        Of any shape; NaN counts as absent.
    threshold : float
        The share, between 0 and 1. Visualisations of DINO (Caron et al., ICCV 2021) use 0.6.
    """
    flat = np.nan_to_num(weights, nan=0.0).ravel().astype(np.float64)
    order = np.argsort(-flat, kind="stable")
    sums = np.cumsum(flat[order])
    # The patches before the share is reached, and the one that reaches it; rounding must not ask for one more.
    count = int(np.searchsorted(sums, threshold * sums[-1] * (1 - 1e-12))) + 1
    chosen = np.zeros(flat.shape, dtype=np.bool_)
    chosen[order[:count]] = True
    return chosen.reshape(weights.shape) & np.isfinite(weights)


class FittedText(Text):
    """Text that is drawn as large as its box allows, and no larger than its own size; not at all if that is too small.

    Parameters
    ----------
    box : matplotlib.patches.Rectangle
        What the text must fit into.
    shares : (float, float)
        How much of the box's width and height the text may take.
    *args, **kwargs
        See `matplotlib.text.Text`.
    """

    def __init__(self, box: Rectangle, shares: tuple[float, float], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._box = box
        self._shares = shares
        self._most = float(self.get_fontsize())

    def draw(self, renderer: RendererBase) -> None:
        """Draw the text."""
        self._fit(renderer)
        if float(self.get_fontsize()) >= LEGIBLE:
            super().draw(renderer)

    def get_window_extent(self, renderer: RendererBase | None = None, dpi: float | None = None) -> Any:
        """Return the extent in pixels."""
        if renderer is not None:
            self._fit(renderer)
        return super().get_window_extent(renderer, dpi)

    def _fit(self, renderer: RendererBase) -> None:
        self.set_fontsize(self._most)
        needed, room = super().get_window_extent(renderer), self._box.get_window_extent()
        factors = (
            share * available / max(taken, 1e-9)
            for share, available, taken in zip(
                self._shares, (room.width, room.height), (needed.width, needed.height), strict=True
            )
        )
        self.set_fontsize(max(1.0, self._most * min(1.0, *factors)))


@dataclass(frozen=True)
class Overlay:
    """A drawn row: the patches over the image, and the prefix cells."""

    heat: AxesImage
    cells: tuple[Rectangle, ...]
    keys: Patches

    def outline(self, axis: Axis, position: int, sample: int = 0) -> None:
        """Mark where a position lies, if it lies in the picture: visible on dark and on light, and in grey."""
        if not isinstance(axis, Patches | PlacedPatches):
            return
        cell = axis.cell(position, sample) if isinstance(axis, PlacedPatches) else axis.cell(position)
        name = None if position >= len(axis.prefix) else axis.prefix[position]
        if cell is not None:
            left, top, right, bottom = Patches(grid=axis.grid, image_size=self.keys.image_size).box(cell)
            _frame(self.heat.axes, left, top, right - left, bottom - top)
        elif self.cells and name in self.keys.prefix:
            box = self.cells[self.keys.prefix.index(name)]
            _frame(self.heat.axes, *box.get_xy(), box.get_width(), box.get_height())

    def borders(self, regions: npt.NDArray[np.int64], *, clip: bool) -> None:
        """Draw a line wherever neighbours differ: white on black, and a query's frame the other way round.

        Parameters
        ----------
        regions : numpy.ndarray, shape (rows + 2, columns + 2)
            To which region each patch belongs; and, around them, what lies outside the image.
        clip : bool
            Whether lines end with the image; of one at its edge, half lies outside.
        """
        assert self.keys.image_size is not None
        ys, xs = (
            np.linspace(0, size, count - 1) for size, count in zip(self.keys.image_size, regions.shape, strict=True)
        )
        upright = np.argwhere(regions[1:-1, 1:] != regions[1:-1, :-1])
        level = np.argwhere(regions[1:, 1:-1] != regions[:-1, 1:-1])
        lines = [[(xs[col], ys[row]), (xs[col], ys[row + 1])] for row, col in upright]
        lines += [[(xs[col], ys[row]), (xs[col + 1], ys[row])] for row, col in level]
        # The black ones below all white ones: as the effect of each line, they would cut their neighbours' ends.
        for color, width in (("black", 2.0), ("white", 0.8)):
            drawn = LineCollection(lines, colors=color, linewidths=width, capstyle="projecting", zorder=2.5)
            self.heat.axes.add_collection(drawn, autolim=False)
            drawn.set_clip_on(clip)
            if clip:
                # The axes reach further than the image: below it lie the prefix cells.
                drawn.set_clip_path(_outline_of(self.heat), self.heat.axes.transData)


def draw_overlay(
    ax: Axes,
    row: Weights,
    keys: Patches,
    pixels: Pixels,
    *,
    scale: Normalize,
    colours: Colormap,
    smooth: bool = False,
    threshold: float | None = None,
    cells: bool = True,
) -> Overlay:
    """Draw one row of weights over an image.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Its limits and ticks are set: the image, and room for the prefix cells below it.
    row : numpy.ndarray, shape (key,)
        The image is bare where it is NaN.
    keys : Patches
        What the keys are, with the size of the image.
    pixels : numpy.ndarray, shape (height, width) or (height, width, 3)
        Between 0 and 1.
    scale, colours
        See `overlay_colormap` for the latter.
    smooth : bool
        Whether to interpolate between the centres of patches, clipped to the patches drawn: bicubic by Catmull and
        Rom's splines, which pass through the weights themselves (matplotlib's "bicubic" lowers peaks).
    threshold : float, optional
        Draw only the smallest set of patches that holds this share of the patches' weight.
    cells : bool
        Whether to draw the prefix cells.
    """
    prefix, picture = keys.split(row)
    height, width = pixels.shape[:2]
    # The edges of the image, not the centres of its outer pixels: the units of `Patches.box`.
    extent = (0, width, height, 0)
    shown = picture if threshold is None else np.where(smallest_set(picture, threshold), picture, np.nan)
    # Between a patch and none there is nothing to interpolate.
    smooth = smooth and bool(np.isfinite(shown).all())
    opacities = colours(scale(np.ma.masked_invalid(shown)))[..., 3]
    draw_bare(ax, _muted(pixels, opacities, smooth=smooth), height)
    heat = ax.imshow(
        shown,
        norm=scale,
        cmap=colours,
        extent=extent,
        origin="upper",
        aspect="equal",
        interpolation="catrom" if smooth else "nearest",
        interpolation_stage="data",
    )
    # A clip path of its own keeps vector formats from merging the two images, for which matplotlib applies alpha twice
    # (matplotlib/matplotlib#18871).
    heat.set_clip_path(_outline_of(heat), ax.transData)
    drawn = _draw_cells(ax, prefix, keys, scale, colours) if cells else ()
    ax.set_ylim(bottom_of(keys, cells=cells), 0)
    return Overlay(heat, drawn, keys)


def draw_bare(ax: Axes, pixels: Pixels, bottom: float) -> AxesImage:
    """Draw an image without weights, in axes that reach down to `bottom`."""
    height, width = pixels.shape[:2]
    extent = (0, width, height, 0)
    image = ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent, origin="upper", aspect="equal")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(bottom, 0))
    return image


def bottom_of(keys: Patches, *, cells: bool = True) -> float:
    """Return how far down an overlay reaches, in pixels: the image and the prefix cells."""
    assert keys.image_size is not None
    lines = math.ceil(len(keys.prefix) / CELLS_IN_A_ROW) if cells else 0
    return keys.image_size[0] + lines * (CELL + SLIT) * max(keys.image_size)


def _muted(pixels: Pixels, opacities: npt.NDArray[np.float64], *, smooth: bool) -> Pixels:
    """Return an image whose colours fade to grey below weights: an orange weight on an orange coat stands out."""
    if pixels.ndim == 2:  # noqa: PLR2004  # grey already
        return pixels
    strength = Image.fromarray(np.minimum(1.0, FADE * opacities / OPACITY).astype(np.float32)).resize(
        pixels.shape[1::-1], Resampling.BILINEAR if smooth else Resampling.NEAREST
    )
    grey = (pixels @ np.array(LUMA))[..., np.newaxis]
    return np.asarray(pixels + np.asarray(strength)[..., np.newaxis] * (grey - pixels))


def _outline_of(heat: AxesImage) -> Path:
    left, right, bottom, top = heat.get_extent()
    return Path([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], closed=True)


def _draw_cells(ax: Axes, prefix: Weights, keys: Patches, scale: Normalize, colours: Colormap) -> tuple[Rectangle, ...]:
    """Draw a cell for each prefix token below the image, with its name and its weight."""
    assert keys.image_size is not None
    height, width = keys.image_size
    side = max(height, width)
    per_row = max(1, min(len(prefix), CELLS_IN_A_ROW))
    cells = []
    for number, weight in enumerate(prefix):
        line, place = divmod(number, per_row)
        top = height + SLIT * side + line * (CELL + SLIT) * side
        box = Rectangle((place * width / per_row, top), width / per_row, CELL * side, clip_on=False)
        red, green, blue, opacity = colours(scale(weight))
        grey = np.array(to_rgb(BACKGROUND))
        colour = grey * (1 - opacity) + np.array([red, green, blue]) * opacity
        box.set(facecolor=colour, edgecolor="white", linewidth=0.8)
        ax.add_patch(box)
        light = bool(colour @ np.array(LUMA) > 0.5)  # noqa: PLR2004  # the middle
        name = FittedText(
            box,
            (0.8, 0.85),
            box.get_x() + box.get_width() / 2,
            top + box.get_height() / 2,
            f"{keys.prefix[number]} {short(float(weight))}",
            ha="center",
            va="center",
            color="black" if light else "white",
            fontsize="small",
            transform=ax.transData,
            clip_on=False,
            # Above the frame of a query that is this token.
            zorder=4,
        )
        ax.add_artist(name)
        cells.append(box)
        if scale.vmax is not None and weight > scale.vmax:
            _point(ax, box)
    return tuple(cells)


def _point(ax: Axes, cell: Rectangle) -> None:
    """Draw the colorbar's triangle in a cell whose weight is beyond the scale."""
    height, (left, top) = cell.get_height(), cell.get_xy()
    right = left + cell.get_width()
    corners = [(right - x * height, top + y * height) for x, y in ((1.0, 0.8), (0.3, 0.8), (0.65, 0.2))]
    triangle = Polygon(corners, facecolor=cell.get_facecolor(), edgecolor="black", linewidth=0.7, zorder=4)
    triangle.set_clip_on(False)
    ax.add_patch(triangle)


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
