"""All heads of all layers on paper: a thumbnail for each, in one grid.

The thumbnails are images of one axes: as many axes as a model has heads would take a minute to lay out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib import rcParams

from anylocal._drawing.figure import Settled, height_of, interpolation, lay_out, new_figure, width_of
from anylocal._drawing.panel import Panel, Reduce, smaller, write_top
from anylocal._drawing.select import array_of, counted_of, mean_of, padding_of, without_padding
from anylocal._drawing.ticks import DIGIT, name_positions
from anylocal._maps.bounds import place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from anylocal._drawing.norms import Weights
    from anylocal._drawing.scale import Cmap
    from anylocal._maps.map import AttentionMap

MOST = 64
"""Most rows and columns of a thumbnail: as many as it has dots in a column of a paper. More would need much memory for
all heads of a long text, and a scale that reaches to weights that no dot shows."""

PRINTED = 48
"""The same where a file of vectors holds each of them."""

SMALLEST, LARGEST = 0.3, 0.6
"""Inches of a cell, at the usual size of font: where names of modules take room from it, and at most."""

FEW = 3
"""Fewer rows would be too low for the colorbar beside them."""

SIDE = 0.94
"""Of the distance from one thumbnail to the next, what it fills."""


def thumbnail(attention: AttentionMap, image: int, head: int, reduce: Reduce) -> Panel:
    """Return the weights of a head, no longer than `MOST` either way: of a windowed layer, the mean of its windows."""
    windows = range(image * attention.windows, (image + 1) * attention.windows)
    text = place_of(attention, windows[0])
    queries = counted_of(attention.queries, range(attention.shape[2]), text)
    keys = counted_of(attention.keys, range(attention.shape[3]), text)
    most = MOST if interpolation() == "antialiased" else PRINTED
    weights = without_padding(
        mean_of(array_of(attention[window, head]) for window in windows),
        padding_of(attention.queries, range(attention.shape[2]), text),
        padding_of(attention.keys, range(attention.shape[3]), text),
    )
    return smaller(weights, queries, keys, most, reduce)


def is_across(figure: Figure, layers: int, heads: int, *, new: bool) -> bool:
    """Return whether thumbnails become larger with a column for each layer, instead of a row."""
    wide = width_of(figure) - _around()
    if new:
        # As high as it needs: layers go across where a few heads would leave the sides bare.
        return layers > heads >= FEW and wide / heads > LARGEST * _inch()
    high = height_of(figure) - 1.1 * _inch()
    return heads >= FEW and min(wide / layers, high / heads) > 1.1 * min(wide / heads, high / layers)


def draw_grid(
    ax: Axes,
    rows: Sequence[Sequence[Weights]],
    names: Sequence[str],
    scales: Iterable[Normalize],
    cmap: Cmap,
    *,
    across: bool,
) -> None:
    """Draw a row of thumbnails for each layer, the first on top; or a column, the first to the left."""
    each = iter(scales)
    for layer, row in enumerate(rows):
        for head, weights in enumerate(row):
            x, y = (layer, head) if across else (head, layer)
            place = (x - SIDE / 2, x + SIDE / 2, y + SIDE / 2, y - SIDE / 2)
            # The rcParams may have the origin below.
            ax.imshow(weights, cmap=cmap, norm=next(each), extent=place, origin="upper", interpolation=interpolation())
    heads = max(map(len, rows))
    columns, lines = (len(rows), heads) if across else (heads, len(rows))
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(lines - 0.5, -0.5), aspect="equal")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    of_layers, of_heads = (ax.xaxis, ax.yaxis) if across else (ax.yaxis, ax.xaxis)
    _name_layers(of_layers, names)
    name_positions(of_heads, "", None, range(heads), text=0, longest=10)
    of_layers.set_label_text("layer")
    of_heads.set_label_text("head")


def write_tops(ax: Axes, figure: Figure, names: Sequence[str], scales: Sequence[Normalize]) -> None:
    """Write into each thumbnail where its scale ends, if there is room."""
    bounds = ax.get_xlim()[1], ax.get_ylim()[0]
    columns, rows = (round(bound + 0.5) for bound in bounds)
    wide = (width_of(figure) - _around() - _labels(names)) / columns
    width = min(wide, (height_of(figure) - 1.1 * _inch()) / rows)
    for image, scale in zip(ax.images, scales, strict=True):
        _, right, _, top = image.get_extent()
        write_top(ax, (right - 0.03, top + 0.03), scale, width, ax.transData)


def bar_share(figure: Figure) -> float:
    """Return how large the type beside the colorbar is, as a share of the usual."""
    return min(1.0, math.sqrt(width_of(figure) * height_of(figure)) / (4.5 * _inch()))


def laid_out(figure: Figure | None) -> Figure:
    """Return the figure to draw into, with a layout that makes room for labels."""
    if figure is None:
        return new_figure()
    lay_out(figure, Settled())
    return figure


def fit_height(figure: Figure, rows: int, columns: int, names: Sequence[str]) -> None:
    """Make a figure as high as its square cells need at its width."""
    # Few heads leave the sides of the picture bare, rather than make it as long as many layers of large squares.
    cell = min(LARGEST * _inch(), max(0.1, figure.get_figwidth() - _around() - _labels(names)) / columns)
    figure.set_figheight(max(1.9 * _inch(), rows * cell + 1.1 * _inch()))


def row_names(layers: Sequence[AttentionMap], width: float, columns: int) -> tuple[list[str], str]:
    """Return the names of the rows, and what the title says of all of them.

    Where the names of the modules differ in one number only, it is the row's; where they differ in more, that goes
    behind the number in the sequence, if the width, in inches, has room for it beside the columns.
    """
    numbers = [str(number) for number in range(len(layers))]
    parts = [layer.name.split(".") for layer in layers]
    start = _shared(parts)
    end = _shared([name[start:][::-1] for name in parts])
    own = [".".join(name[start : len(name) - end]) for name in parts]
    common = ".".join([*parts[0][:start], *(["*"] if any(own) else []), *parts[0][len(parts[0]) - end :]])
    if not any(own):
        return numbers, common.strip(".")
    if all(map(str.isdecimal, own)) and len(set(own)) == len(own):
        return own, common
    long = [f"{number}  {name}" for number, name in zip(numbers, own, strict=True)]
    room = width - _around() - _labels(long) - columns * SMALLEST * _inch()
    return (long if room >= 0 else numbers), (common if start + end else "")


def _inch() -> float:
    """Return an inch at the usual size of font: what stands around the cells grows with it."""
    return float(rcParams["font.size"]) / 10


def _around() -> float:
    """Return what the legend and the words beside the cells take of the width."""
    return 1.4 * _inch()


def _labels(names: Sequence[str]) -> float:
    """Return what the names of rows take of the width."""
    return max(map(len, names)) * DIGIT * _inch() * 10 / 72


def _name_layers(ruler: XAxis | YAxis, names: Sequence[str]) -> None:
    from anylocal._maps.positions import Named

    longest = max(map(len, names))
    name_positions(ruler, "", Named(tuple(names)), range(len(names)), text=0, longest=longest)


def _shared(names: Sequence[Sequence[str]]) -> int:
    """Return how many parts all names begin with."""
    same = (len(set(parts)) == 1 for parts in zip(*names, strict=False))
    return next((number for number, alike in enumerate(same) if not alike), min(map(len, names)))
