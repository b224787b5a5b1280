"""Pictures with a token on each line: lines from a column of tokens to another, bars beside a column of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rcParams
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.layout_engine import TightLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from anylocal.drawing import LINE, fit_labels, name_positions, new_figure, room, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import YAxis
    from matplotlib.cm import ScalarMappable

    from anylocal.attention import Tokens
    from anylocal.drawing import Cmap, Extend, Weights

THINNEST, WIDEST = 0.4, 2.4
"""Widths of a line at the two ends of the scale, in points."""

BEHIND = "0.75"
"""The grey of lines that are no part of the scale."""

BARELY = 1.25
"""Bars that are longer than the scale by this at most are not cut off: the axis reaches their end."""

CROWDED = 4.0
"""Points: bars that have less of the height stand without gaps."""

CLEAR = 0.015
"""The share of the height that is left free above and below such bars."""

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


def draw_behind(ax: Axes, drawn: Sequence[tuple[int, int]], lefts: Sequence[int]) -> None:
    """Draw thin grey lines behind all others."""
    ends = [[(0.0, float(lefts[row])), (1.0, float(column))] for row, column in drawn]
    ax.add_collection(LineCollection(ends, colors=BEHIND, linewidths=THINNEST, zorder=1.5), autolim=False)


def name_columns(
    ax: Axes,
    left: tuple[Tokens, Sequence[int]],
    right: tuple[Tokens, Sequence[int]],
    sample: int,
    drawn: Sequence[tuple[int, int]],
) -> None:
    """Label queries on the left and keys on the right, both from the top downwards, the ends of strong lines first."""
    ax.set(xlim=(0, 1), ylim=(max(len(left[1]), len(right[1])) - 0.5, -0.5), xticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    other = ax.secondary_yaxis("right")
    other.spines[:].set_visible(False)
    size = room(ax.bbox.height, ax, 10) / (max(len(left[1]), len(right[1])) * LINE)
    rows, columns = (dict.fromkeys(ends) for ends in zip(*reversed(drawn), strict=True)) if drawn else ((), ())
    name_lines(ax.yaxis, "query", *left, sample, size=size, first=rows)
    name_lines(other.yaxis, "key", *right, sample, size=size, first=columns)


def name_lines(
    ruler: YAxis,
    name: str,
    axis: Tokens,
    shown: Sequence[int],
    sample: int,
    *,
    size: float,
    first: Iterable[int],
) -> None:
    """Label each line with its token, in type of that size if it can be read; else the first ones, and some others."""
    name_positions(ruler, name, axis, shown, text=sample, longest=LONGEST, first=first)
    ruler.set_tick_params(length=0)
    fit_labels(ruler, size)


def reach(scale: Normalize, values: Weights) -> None:
    """Let a scale end at the longest bar that is not much longer."""
    assert scale.vmax is not None
    scale.vmax = max([scale.vmax, *values[values <= BARELY * scale.vmax].tolist()])


def draw_bars(ax: Axes, values: Weights, scale: Normalize, color: str | None) -> None:
    """Draw a bar for each token, from the top downwards; one that is longer than the scale is broken at its end."""
    assert scale.vmin is not None
    assert scale.vmax is not None
    # Gaps narrower than a pixel or two would make a pattern that is not in the values.
    crowded = room(ax.bbox.height, ax, 7) / len(values) < CROWDED
    ax.barh(range(len(values)), values, color=color, height=1.0 if crowded else 0.8)
    end = scale.vmax
    if isinstance(scale, LogNorm):
        ax.set_xscale("log")
    elif type(scale) is not Normalize:
        ax.set_xscale("function", functions=(scale, scale.inverse))
        ax.xaxis.set_major_locator(FixedLocator(scale.inverse(np.linspace(0, 1, 5)).tolist()))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    else:
        end += 0.02 * (end - scale.vmin)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        # As `short` writes the values beside broken bars.
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".removeprefix("0") or "0"))
    # Thin bars at the ends would be taken for the frame.
    margin = 0.5 + CLEAR * len(values) * crowded
    ax.set(xlim=(scale.vmin, end), ylim=(len(values) - 1 + margin, -margin))
    ax.grid(visible=False)
    _break(ax, np.flatnonzero(values > end).tolist(), values)


def _break(ax: Axes, places: Sequence[int], values: Weights) -> None:
    """Mark bars as broken off at the right edge, and write their values beside them."""
    # In inches across, from the right edge. `transAxes` is affine, which its stub does not say.
    across = ax.figure.dpi_scale_trans + ScaledTranslation(1, 0, ax.transAxes)  # type: ignore[arg-type]  # a transform is right
    edge = blended_transform_factory(across, ax.transData)
    gaps = [[(start, place + 0.45), (start + 0.07, place - 0.45)] for place in places for start in (-0.16, -0.09)]
    background = ax.get_facecolor()
    ax.add_collection(
        LineCollection(gaps, colors=[background], linewidths=1.8, transform=edge, gid="break"), autolim=False
    )
    high = room(ax.bbox.height, ax, 7) / len(values)
    written: list[int] = []
    for place in sorted(places, key=lambda place: -values[place]):
        # In a thin bar the gaps are hardly visible, and an arrow is.
        colour = ax.containers[0][place].get_facecolor()
        ax.plot(0.04, place, ">", color=colour, markersize=5, transform=edge, clip_on=False, gid="break")
        text = ax.text(0.1, place, short(values[place]), transform=edge, va="center", fontsize="small", gid="beyond")
        if any(abs(place - other) * high < LINE * float(text.get_fontsize()) for other in written):
            # Two numbers that nearly touch would be illegible.
            text.remove()
        else:
            written.append(place)


def add_legend(mappable: ScalarMappable, ax: Axes, label: str, extend: Extend) -> None:
    """Draw the legend of the scale below the axes, as beside them are tokens or no room."""
    # Other scales have their own tick locators, such as powers of ten.
    options: dict[str, Any] = {"label": label, "ticks": MaxNLocator(4) if type(mappable.norm) is Normalize else None}
    if extend != "neither" and not hasattr(mappable.norm, "extend"):
        options |= {"extend": extend, "extendfrac": 0.03}
    engine = ax.figure.get_layout_engine()
    if isinstance(engine, TightLayoutEngine):
        # A tight layout shrinks the axes, and with them a gap that is a share of their height; an inset keeps its gap.
        ax.figure.colorbar(mappable, cax=_under(ax, 0.1, 0.12), orientation="horizontal", **options)
        return
    ax.figure.colorbar(mappable, ax=ax, location="bottom", fraction=0.05, aspect=30, pad=0.04, **options)


def _under(ax: Axes, start: float, height: float) -> Axes:
    """Return an inset below the axes, of their width; vertically, the unit is the inch."""
    # `transAxes` is affine, which its stub does not say.
    down = ax.figure.dpi_scale_trans + ScaledTranslation(0, 0, ax.transAxes)  # type: ignore[arg-type]  # a transform is right
    return ax.inset_axes((0, -start - height, 1, height), transform=blended_transform_factory(ax.transAxes, down))
