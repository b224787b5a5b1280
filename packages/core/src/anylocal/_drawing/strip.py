"""The size of a matrix on paper: few rows of many columns stay low, and labels of tokens that all have room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib import rcParams
from matplotlib.transforms import ScaledTranslation

from anylocal._drawing.figure import LETTER, add_colorbar, bar_options, new_figure
from anylocal._drawing.ticks import LINE, kinds_of, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.image import AxesImage

    from anylocal._drawing.matrix import Drawn
    from anylocal._drawing.norms import Weights
    from anylocal._drawing.scale import Extend
    from anylocal._maps.positions import Axis

LONG = 4
"""A matrix that is wider by this than it is high is a strip: its cells are not square, as they would be too low."""

ROW, BAR = 2.4, 8.0
"""Heights of a row of a strip, and at least of its colorbar, in font sizes."""

AROUND = 15.0
"""What title, labels and ticks take of the height of a figure, in font sizes."""

LEAST, DENSE = 0.45, 0.65
"""The smallest type, as a share of the usual: of labels that all have room then, and of those that are thinned out."""

SLOT = 1.2
"""What a layout engine gives to axes and their labels, as a share of the axes before."""


def is_strip(weights: Weights) -> bool:
    """Return whether a matrix has few rows for its columns."""
    return bool(weights.shape[0] * LONG < weights.shape[1])


def axes_for(ax: Axes | None, weights: Weights) -> Axes:
    """Return the axes, or those of a new figure, which a strip makes low."""
    if ax is not None:
        return ax
    figure = new_figure()
    if is_strip(weights):
        high = (len(weights) * ROW + AROUND) * _font()
        figure.set_figheight(min(figure.get_figheight(), high))
    return figure.add_subplot()


def lower(ax: Axes, image: AxesImage, weights: Weights) -> None:
    """Keep the rows of a strip as low as a line of text, or as its columns are wide."""
    width, height = ax.bbox.width, ax.bbox.height
    rows, columns = weights.shape
    high = rows * max(ROW * _font() * ax.figure.dpi, width / columns)
    if is_strip(weights) and high < height:
        ax.set_box_aspect(high / width)
        if width > columns and image.get_interpolation() != "none":
            # Averaging columns that are few dots wide would blur the rows as well.
            image.set_interpolation("nearest")


def add_bar(mappable: ScalarMappable, ax: Axes, label: str, extend: Extend) -> Colorbar:
    """Put the legend of the scale to the right of a matrix, higher than one of very few rows."""
    aspect = ax.get_box_aspect()
    high = BAR * _font()
    if ax.figure.get_layout_engine() is None or aspect is None or aspect * ax.bbox.width >= high * ax.figure.dpi:
        return add_colorbar(mappable, ax, label, extend)
    # From the middle of the right edge, in inches. `transAxes` is affine, which its stub does not say.
    middle = ScaledTranslation(1, 0.5, ax.transAxes)  # type: ignore[arg-type]  # a transform is right
    inset = ax.inset_axes((0.06, -high / 2, 0.12, high), transform=ax.figure.dpi_scale_trans + middle)
    return ax.figure.colorbar(mappable, cax=inset, **bar_options(mappable.norm, label, extend))  # type: ignore[arg-type]  # its setter takes more than its getter gives


def size_of(ax: Axes, drawn: Drawn) -> tuple[float, float]:
    """Return about how wide and high a matrix becomes beside its labels, in inches."""
    rows, columns = drawn.weights.shape
    # In font sizes; the labels are of the same type as those that are to fit.
    beside = LETTER * _longest(drawn.queries, drawn.rows, drawn.text)
    below = LETTER * _longest(drawn.keys, range(columns), drawn.text)
    width = room(ax.bbox.width, ax, 7.5) / (1 + beside / (columns * LINE))
    height = room(ax.bbox.height, ax, 6.5) / (1 + below / (rows * LINE))
    if ax.get_aspect() != "auto":
        cell = min(width / columns, height / rows)
        width, height = columns * cell, rows * cell
    return width / 72, height / 72


def fit_tokens(ax: Axes, drawn: Drawn, width: float, height: float) -> None:
    """Make the labels of tokens so small that all have room beside a matrix of that size, in inches."""
    rows, columns = drawn.weights.shape
    for ruler, axis, each in ((ax.xaxis, drawn.keys, width / columns), (ax.yaxis, drawn.queries, height / rows)):
        if kinds_of(axis)[1]:
            fit_labels(ruler, 72 * each / LINE)


def room(pixels: float, ax: Axes, around: float) -> float:
    """Return about what a layout leaves to axes and their tick labels, in points, besides so many font sizes."""
    points = pixels / ax.figure.dpi * 72
    return points if ax.figure.get_layout_engine() is None else SLOT * points - around * _font() * 72


def fit_labels(ruler: XAxis | YAxis, size: float) -> None:
    """Make tick labels so small, if they can be read then; else small, and they are thinned out when they are drawn."""
    usual, font = float(ruler.get_major_ticks(1)[0].label1.get_fontsize()), rcParams["font.size"]
    ruler.set_tick_params(labelsize=min(usual, size if size >= LEAST * font else DENSE * font))


def _font() -> float:
    """Return the usual size of type, in inches."""
    return float(rcParams["font.size"]) / 72


def _longest(axis: Axis | None, shown: Sequence[int], text: int) -> int:
    """Return the number of letters of the longest label."""
    if axis is None:
        return len(str(max(shown, default=0)))
    return max((len(printable(axis.display(position, text), 10)) for position in shown), default=0)
