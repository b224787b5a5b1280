"""Pictures of all layers of a forward: a statistic along the layers, a dot for each head, a line through their mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from matplotlib import rcParams
from matplotlib.lines import Line2D

from anylocal._drawing.figure import new_axes
from anylocal._drawing.select import array_of
from anylocal._drawing.ticks import name_positions
from anylocal._maps.bounds import inside
from anylocal.errors import ShapeError

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

    from anylocal._drawing.norms import Weights
    from anylocal._maps.map import AttentionMap

GREY = "0.5"
"""The colour of what is drawn for comparison, in matplotlib's notation."""

ByLayer: TypeAlias = Sequence["Weights | None"]
"""For each layer an array with a number for each head first, None where the layer has none."""

MARKERS = "osD^vPX"
"""They tell lines apart where colours do not: in grey, or where there are more lines than colours."""


def layers_of(maps: Iterable[AttentionMap], recipe: str) -> list[AttentionMap]:
    """Return the layers that a recipe was given.

    Raises
    ------
    OptionError, StateError, ChoiceError
        Where something is no map, there is none, or they belong to several forwards.
    """
    # Here only: without torch there are no maps, but pictures of matrices.
    from anylocal._maps.layers import check_forward, maps_of

    layers = maps_of(maps, recipe)
    check_forward(layers, recipe)
    return layers


def by_layer(
    layers: Iterable[AttentionMap], statistic: Callable[[AttentionMap], torch.Tensor], sample: int | None
) -> ByLayer:
    """Compute a statistic, shape (sample, head, ...), of each layer: of one sample, or the mean over all that have it.

    Raises
    ------
    ShapeError
        That of the first layer, where no layer is of a kind that has the statistic.
    PositionError
        Where there is no such sample.
    """
    import torch

    found: list[Weights | None] = []
    refused: list[ShapeError] = []
    for layer in layers:
        chosen = slice(None) if sample is None else [inside(sample, layer.images, "sample", of=layer)]
        try:
            # A graph would hold every block of rows.
            with torch.no_grad():
                found.append(_mean(array_of(statistic(layer))[chosen]))
        except ShapeError as error:
            refused.append(error)
            found.append(None)
    if len(refused) == len(found):
        raise refused[0]
    return found


def uniform_of(attention: AttentionMap) -> AttentionMap:
    """Return the map of one head whose queries attend evenly to all keys that are not padding."""
    from anylocal._maps.map import AttentionMap
    from anylocal._maps.statistics import present

    keys = present(attention, attention.keys).float()
    weights = (keys / keys.sum(1, keepdim=True))[:, None, None].expand(-1, 1, attention.shape[2], -1)
    return AttentionMap.from_weights(
        weights, queries=attention.queries, keys=attention.keys, windows=attention.windows, name=attention.name
    )


def draw_layers(
    ax: Axes | None,
    lines: Mapping[str, ByLayer],
    *,
    ylabel: str,
    title: str,
    legend: str | None = None,
    uniform: ByLayer = (),
) -> Axes:
    """Draw statistics along the layers, each by a line through the means of its heads' dots.

    Parameters
    ----------
    ax : matplotlib.axes.Axes or None
        Where to draw; None makes a new figure.
    lines : mapping of str to sequence
        What the legend says, and for each layer the values of its heads, or None.
    ylabel, title : str
    legend : str, optional
        The title of the legend, where lines are named by what they are of; else dots have an entry there.
    uniform : sequence, optional
        What uniform attention would give in each layer, a thin line.
    """
    ax = new_axes(ax)
    # The dots of several lines stand side by side, around the layer's place.
    apart = np.linspace(-0.25, 0.25, len(lines)) if len(lines) > 1 else [0.0]
    for (name, values), marker, shift in zip(lines.items(), cycle(MARKERS), apart, strict=False):
        (line,) = ax.plot(range(len(values)), _means(values), marker=marker, zorder=2.7, label=name)
        _draw_heads(ax, line, values, shift, label="_head" if legend else "head")
    length = max(map(len, lines.values()))
    if uniform:
        steps = np.repeat(np.arange(len(uniform) + 1) - 0.5, 2)[1:-1]
        ax.plot(steps, np.repeat(_means(uniform), 2), color=GREY, linewidth=0.8, zorder=1, label="uniform attention")
    ax.set_xlim(-0.5, length - 0.5)
    name_positions(ax.xaxis, "", None, range(length), text=0, longest=10)
    ax.set(xlabel="layer", ylabel=ylabel, title=title)
    # From 0, for these are sizes; matplotlib's margin is a share of the range of values, which may be narrow.
    top = ax.dataLim.ymax
    ax.set_ylim(0, 1.06 * top if 0 < top < math.inf else 1)
    _add_legend(ax, legend)
    return ax


def of_samples(layers: Sequence[AttentionMap], sample: int | None) -> str:
    """Return the words that tell which samples of the batch are drawn, none where there is only one."""
    images = layers[0].images
    if images == 1:
        return ""
    return f"mean of {images} samples" if sample is None else f"sample {sample % images}"


def _mean(values: Weights) -> Weights:
    """Average over the samples that have a number: a text of nothing but padding has none."""
    there = ~np.isnan(values)
    counts = there.sum(0)
    # Not nanmean, which warns where no sample has one.
    found: Weights = np.where(there, values, 0).sum(0) / np.where(counts, counts, np.nan).astype(values.dtype)
    return found


def _means(values: ByLayer) -> list[float]:
    return [math.nan if row is None else float(row.mean()) for row in values]


def _draw_heads(ax: Axes, line: Line2D, values: ByLayer, shift: float, label: str) -> None:
    """Draw a dot for each head, in the colour and the form of the line."""
    layers, numbers = zip(
        *((layer + shift, value) for layer, row in enumerate(values) if row is not None for value in row), strict=True
    )
    ax.scatter(
        layers,
        numbers,
        s=_dot() ** 2,
        color=line.get_color(),
        marker=line.get_marker(),
        alpha=0.45,
        linewidths=0,
        label=label,
        # At 0, half of each dot would be cut off, and the other half covered by the frame.
        clip_on=False,
        zorder=2.6,
    )


def _dot() -> float:
    """Return the diameter of a head's dot, in points."""
    return float(0.7 * rcParams["lines.markersize"])


def _add_legend(ax: Axes, title: str | None) -> None:
    handles, _ = ax.get_legend_handles_labels()
    if title:
        # Grey: dots have the colours and forms of their lines.
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=_dot(), color=GREY, label="one head"))
    options = {"handles": handles, "frameon": False, "fontsize": "small"}
    if title:
        ax.legend(
            handlelength=1.2,
            title=title,
            title_fontsize="small",
            loc="upper left",
            bbox_to_anchor=(1, 1),
            borderaxespad=0,
            **options,
        )
        return
    # Below the dots: where there is no free corner, it hides none.
    ax.legend(**options).set_zorder(0.5)
