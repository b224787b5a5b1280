"""Recipes: pictures of a map, whatever its positions are.

Each is a function of the map in matplotlib's own conventions: it draws into the axes given by `ax`, else into a new
figure, obeys the rcParams, never shows anything by itself, and returns what it drew into. Everything in one picture
is on one scale, whose colorbar says what it means. Give an axes of yours a figure with ``layout="constrained"``, which
makes room for labels, and `savefig` the resolution of your printer, which counts for the images in PDF and SVG too.

Needs the extra ``anylocal[plot]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from anylocal.errors import DependencyError, OptionError, ShapeError

try:
    from matplotlib import rcParams
    from matplotlib.cm import ScalarMappable

    from anylocal import _draw
    from anylocal._ticks import name_positions
except ModuleNotFoundError as error:
    if error.name not in {"matplotlib", "numpy"}:
        raise
    msg = f'anylocal.plot needs {error.name}, which is not installed: pip install "anylocal[plot]".'
    raise DependencyError(msg, name=error.name) from error

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from anylocal._axes import Axis
    from anylocal._draw import Cmap, Norm, Weights
    from anylocal._index import Queries
    from anylocal._map import AttentionMap

__all__ = ["heads", "heatmap"]

LONG = 4
"""A matrix that is longer by this than it is wide fills the axes; others have square cells."""


def heatmap(
    attention: AttentionMap | torch.Tensor | Weights,
    *,
    sample: int | None = None,
    head: int | None = None,
    queries: Queries | str | Sequence[object] = None,
    norm: Norm = None,
    cmap: Cmap = _draw.CMAP,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw the weights of one map as a matrix: a row for each query, a column for each key.

    Ticks name the positions: tokens, prefix tokens, patches by row and column; as many as have room. Cells are
    square, unless the matrix is more than four times as long as it is wide.

    Parameters
    ----------
    attention : AttentionMap, or torch.Tensor or numpy.ndarray of shape (query, key)
    sample : int, optional
        Which sample of the batch; a batch of one needs none.
    head : int, optional
        Which head; the mean over heads by default.
    queries : int, slice, str or sequence, optional
        Which rows, in which order; all by default. Names and, in a sequence, (row, column) pairs mean what the
        map's axis makes of them: ``["cls", (3, 4)]``.
    norm : matplotlib.colors.Normalize or str, optional
        The scale, from 0 to the greatest weight drawn by default.
    cmap : str or matplotlib.colors.Colormap
        "magma" by default: its lightness rises evenly, so it reads the same in grey and with any colour vision.
    ax : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.
    colorbar : bool
        Whether to draw the legend of the scale.

    Returns
    -------
    matplotlib.axes.Axes
        The weights are the array of its only image, ``ax.images[0]``.

    Raises
    ------
    ChoiceError
        Where the batch holds several samples and none was chosen, or several maps were given.
    PositionError, NameNotFoundError
        Where there is no such sample, head or query.
    ShapeError, OptionError
        Where a plain array is no matrix, or a sample or a head of one is asked for.

    Examples
    --------
    >>> import torch
    >>> from anylocal import plot
    >>> from anylocal.attention import AttentionMap, Tokens
    >>> tokens = Tokens(["[CLS]", "good", "day", "[SEP]"])
    >>> attention = AttentionMap.from_weights(torch.eye(4), name="layer.0", queries=tokens, keys=tokens)
    >>> ax = plot.heatmap(attention, queries=["good", "day"])
    >>> ax.images[0].get_array().shape, ax.get_xlabel()
    ((2, 4), 'key token')
    """
    if _draw.is_map(attention) or isinstance(attention, Sequence):
        drawn = _of_map(_draw.map_of(attention, "heatmap"), sample, head, queries)
    else:
        drawn = _of_array(attention, sample, head, queries)
    scale = _draw.shared_norm(norm, [drawn.weights])
    ax = _draw.new_axes(ax)
    image = _show(drawn, ax, scale, cmap)
    ax.set_title(drawn.title)
    if colorbar:
        _draw.add_colorbar(image, ax)
    return ax


def heads(
    attention: AttentionMap,
    *,
    sample: int | None = None,
    norm: Norm = None,
    cmap: Cmap = _draw.CMAP,
    columns: int | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw every head of one map and their mean, all on one scale.

    Parameters
    ----------
    attention : AttentionMap
    sample : int, optional
        Which sample of the batch; a batch of one needs none.
    norm : matplotlib.colors.Normalize or str, optional
        The scale of all panels, from 0 to the greatest weight of any head by default.
    cmap : str or matplotlib.colors.Colormap
        "magma" by default; see `heatmap`.
    columns : int, optional
        Panels in a row; by default about as many as there are rows, and fewer in a narrow figure.
    figure : matplotlib.figure.Figure, optional
        An empty one to draw into; by default a new one, as wide as the rcParams say and as high as it needs.

    Returns
    -------
    matplotlib.figure.Figure
        Its ``axes`` are the heads, the mean, and the colorbar.

    Raises
    ------
    ChoiceError
        Where the batch holds several samples and none was chosen, or several maps were given.
    PositionError, OptionError
        Where there is no such sample, `columns` is not positive, or `attention` is no map.

    Notes
    -----
    In a notebook, end the line with a semicolon: else the picture shows twice, once as the cell's value.

    Examples
    --------
    >>> import torch
    >>> from anylocal import plot
    >>> from anylocal.attention import AttentionMap
    >>> attention = AttentionMap.from_weights(torch.rand(1, 3, 4, 4).softmax(-1), name="blocks.3.attn")
    >>> figure = plot.heads(attention)
    >>> [ax.get_title() for ax in figure.axes[:4]]
    ['head 0', 'head 1', 'head 2', 'mean']
    """
    attention = _draw.map_of(attention, "heads")
    if columns is not None and columns < 1:
        msg = f"columns={columns!r} is no number of panels in a row; give 1 or more."
        raise OptionError(msg)
    at = _draw.sample_of(attention, sample)
    panels = [replace(_of_map(attention, at, head), title=f"head {head}") for head in range(attention.shape[1])]
    panels.append(replace(panels[0], weights=_draw.mean_of(panel.weights for panel in panels), title="mean"))
    scale = _draw.shared_norm(norm, [panel.weights for panel in panels])
    figure, columns = _figure(figure, columns, panels)
    axes = _draw_panels(figure, columns, panels, scale, cmap)
    figure.suptitle("\n".join([*_draw.layer_name(attention), *_draw.sample_name(attention, at)]))
    figure.colorbar(ScalarMappable(scale, cmap), ax=axes, label=_draw.LEGEND, fraction=0.06, pad=0.02)
    return figure


@dataclass(frozen=True)
class _Drawn:
    """What a matrix on paper consists of."""

    weights: Weights
    queries: Axis | None
    keys: Axis | None
    rows: Sequence[int]
    """Positions of the queries."""
    text: int = 0
    """By which number the axes know the sample: which text of the batch it is, or which window of an image."""
    title: str = ""


def _of_map(attention: AttentionMap, sample: int | None, head: int | None, queries: Any = None) -> _Drawn:
    sample = _draw.sample_of(attention, sample)
    text = _draw.place_of(attention, sample)
    rows = _draw.positions_of(queries, attention.queries, attention.shape[2], text)
    return _Drawn(
        weights=_draw.rows_of(attention, sample, head, rows),
        queries=attention.queries,
        keys=attention.keys,
        rows=rows,
        text=text,
        title="\n".join(_draw.caption(attention, sample, head)),
    )


def _of_array(matrix: Any, sample: int | None, head: int | None, queries: Any) -> _Drawn:
    if (sample, head) != (None, None):
        msg = f"sample={sample!r}, head={head!r} choose from a map, and a plain matrix has neither; leave them out."
        raise OptionError(msg)
    weights = _draw.array_of(matrix)
    if weights.ndim != 2 or not weights.size:  # noqa: PLR2004  # the number of axes
        msg = (
            f"A heatmap needs weights of shape (query, key) and got {weights.shape}; give one matrix, "
            "or a map made by AttentionMap.from_weights."
        )
        raise ShapeError(msg)
    rows = _draw.positions_of(queries, None, len(weights))
    return _Drawn(weights[rows], None, None, rows)


def _show(drawn: _Drawn, ax: Axes, scale: Normalize, cmap: Cmap, longest: int = 10) -> AxesImage:
    # The rcParams may have the origin below and a grid: here the first query is on top, as in a matrix.
    image = ax.imshow(
        drawn.weights, cmap=cmap, norm=scale, aspect="equal" if _near_square(drawn.weights) else "auto", origin="upper"
    )
    ax.grid(visible=False)
    name_positions(ax.yaxis, "query", drawn.queries, drawn.rows, text=drawn.text, longest=longest)
    name_positions(ax.xaxis, "key", drawn.keys, range(len(drawn.weights[0])), text=drawn.text, longest=longest)
    return image


def _figure(figure: Figure | None, columns: int | None, panels: Sequence[_Drawn]) -> tuple[Figure, int]:
    """Return the figure to draw into and the number of panels in its rows."""
    given = figure is not None
    if figure is None:
        figure = _draw.new_figure()
    # Compressed: panels of a fixed shape, side by side without gaps.
    if not given or figure.get_layout_engine() is None:
        figure.set_layout_engine("compressed")
    # The room around the panels, and that of a title, grow with the font.
    inch = rcParams["font.size"] / 10
    free = max(0.1, figure.get_figwidth() - 1.7 * inch)
    if columns is None:
        even = math.ceil(len(panels) / max(1, round(math.sqrt(len(panels) / 1.6))))
        columns = max(1, min(even, int(free / (0.55 * inch))))
    if not given:
        height, width = panels[0].weights.shape
        panel = free / columns * (height / width if _near_square(panels[0].weights) else 1)
        figure.set_figheight(1.2 * inch + math.ceil(len(panels) / columns) * (panel + 0.3 * inch))
    return figure, columns


def _draw_panels(figure: Figure, columns: int, panels: Sequence[_Drawn], scale: Normalize, cmap: Cmap) -> list[Axes]:
    rows = math.ceil(len(panels) / columns)
    grid = figure.add_gridspec(rows, columns)
    axes = [figure.add_subplot(grid[divmod(number, columns)]) for number in range(len(panels))]
    for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        _show(panel, ax, scale, cmap, longest=8)
        ax.set_title(panel.title, fontsize="medium")
        # Labels at the outer edge only. Below a panel that has none under it, they would push the last row away.
        ax.tick_params(labelleft=number % columns == 0, labelbottom=number // columns == rows - 1)
    # What the positions are is said once, not at every panel.
    figure.supxlabel(axes[0].get_xlabel(), fontsize=rcParams["axes.labelsize"])
    figure.supylabel(axes[0].get_ylabel(), fontsize=rcParams["axes.labelsize"])
    for ax in axes:
        ax.set(xlabel="", ylabel="")
    return axes


def _near_square(weights: Weights) -> bool:
    height, width = weights.shape
    return bool(max(height, width) <= LONG * min(height, width))
