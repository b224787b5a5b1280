"""Pictures with a token on each line: lines from a column of tokens to another, bars beside a column of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rcParams
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.layout_engine import ConstrainedLayoutEngine, TightLayoutEngine
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from anylocal.drawing import LINE, name_positions, new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import YAxis

    from anylocal.attention import Tokens
    from anylocal.drawing import Cmap, Weights

THINNEST, WIDEST = 0.4, 2.4
"""Widths of a line at the two ends of the scale, in points."""

LONGEST = 14
"""Most characters of a label."""

TALLEST = 20.0
"""Most inches of a new figure, in which tokens without room get no label."""


def tall_axes(ax: Axes | None, lines: int) -> Axes:
    """Return the axes, or those of a new figure that is high enough for as many lines of text."""
    if ax is not None:
        return ax
    figure = new_figure()
    font = rcParams["font.size"] / 72
    # Before the layout, new axes take three quarters of the height, and lines must have room even then.
    figure.set_figheight(min(TALLEST, max(figure.get_figheight(), 1.35 * lines * LINE * font + 12 * font)))
    return figure.add_subplot()


def strongest(weights: Weights, most: int | None) -> list[tuple[int, int]]:
    """Return the rows and columns of the greatest weights, or of all above 0, the weakest first."""
    flat = np.where(weights > 0, weights, 0).ravel()
    # Stable: which of equal weights are drawn must not depend on the machine.
    order = np.argsort(-flat, kind="stable")[: min(most or flat.size, np.count_nonzero(flat))]
    rows, columns = np.unravel_index(order[::-1], weights.shape)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


def draw_lines(
    ax: Axes, weights: Weights, drawn: Sequence[tuple[int, int]], lefts: Sequence[int], *, norm: Normalize, cmap: Cmap
) -> LineCollection:
    """Draw a line for each weight, from its row on the left to its column on the right, the last on top."""
    values = np.array([weights[place] for place in drawn])
    shares = np.clip(np.ma.filled(norm(values), 0), 0, 1)
    lines = LineCollection(
        [[(0.0, float(lefts[row])), (1.0, float(column))] for row, column in drawn],
        array=values,
        norm=norm,
        cmap=cmap,
        linewidths=THINNEST + (WIDEST - THINNEST) * shares,
        capstyle="round",
    )
    ax.add_collection(lines, autolim=False)
    return lines


def name_columns(
    ax: Axes, left: tuple[Tokens, Sequence[int]], right: tuple[Tokens, Sequence[int]], sample: int
) -> None:
    """Label queries on the left and keys on the right, both from the top downwards."""
    ax.set(xlim=(0, 1), ylim=(max(len(left[1]), len(right[1])) - 0.5, -0.5), xticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    other = ax.secondary_yaxis("right")
    other.spines[:].set_visible(False)
    name_lines(ax.yaxis, "query", *left, sample)
    name_lines(other.yaxis, "key", *right, sample)


def name_lines(ruler: YAxis, name: str, axis: Tokens, shown: Sequence[int], sample: int) -> None:
    """Label each line with its token."""
    name_positions(ruler, name, axis, shown, text=sample, longest=LONGEST)
    ruler.set_tick_params(length=0)


def draw_bars(ax: Axes, values: Weights, scale: Normalize, cmap: Cmap) -> ScalarMappable:
    """Draw a bar for each token, from the top downwards, in the colour of its value."""
    colours = ScalarMappable(scale, cmap)
    # With a thin edge, as the colour of the least value may be that of the paper.
    ax.barh(range(len(values)), values, color=colours.to_rgba(values), edgecolor="0.5", linewidth=0.4, height=0.8)
    # Up to the longest bar, whatever the scale of colours.
    ax.set(xlim=(0, 1.02 * (np.nan_to_num(values).max() or 1.0)), ylim=(len(values) - 0.5, -0.5))
    ax.grid(visible=False)
    return colours


def add_legend(mappable: ScalarMappable, ax: Axes, label: str) -> None:
    """Draw the legend of the scale below the axes, as beside them are tokens or no room."""
    # Other scales have their own tick locators, such as powers of ten.
    options: dict[str, Any] = {"label": label, "ticks": MaxNLocator(4) if type(mappable.norm) is Normalize else None}
    engine = ax.figure.get_layout_engine()
    if isinstance(engine, TightLayoutEngine):
        # A tight layout shrinks the axes, and with them a gap that is a share of their height; an inset keeps its gap.
        inset = _under(ax, _below(ax) + 0.1, 0.12)
        ax.figure.colorbar(mappable, cax=inset, orientation="horizontal", **options)
        return
    # Only the constrained layout makes room for the tick labels between.
    room = 0.0 if isinstance(engine, ConstrainedLayoutEngine) else _below(ax) * ax.figure.dpi / ax.bbox.height
    ax.figure.colorbar(mappable, ax=ax, location="bottom", fraction=0.05, aspect=30, pad=0.04 + room, **options)


def _below(ax: Axes) -> float:
    """Return how far the tick labels reach below the axes, in inches."""
    numbers = ax.xaxis.get_tightbbox()
    return 0.0 if numbers is None else max(0.0, ax.bbox.y0 - numbers.y0) / ax.figure.dpi


def _under(ax: Axes, start: float, height: float) -> Axes:
    """Return an inset below the axes, of their width; vertically, the unit is the inch."""
    # `transAxes` is affine, which its stub does not say.
    down = ax.figure.dpi_scale_trans + ScaledTranslation(0, 0, ax.transAxes)  # type: ignore[arg-type]  # a transform is right
    return ax.inset_axes((0, -start - height, 1, height), transform=blended_transform_factory(ax.transAxes, down))
