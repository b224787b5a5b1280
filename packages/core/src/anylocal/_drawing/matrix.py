"""Maps as matrices on paper: a row for each query, a column for each key; one alone, or several in rows of panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rcParams

from anylocal._drawing.figure import (
    LETTER,
    SMALLEST,
    bar_options,
    fit,
    height_of,
    interpolation,
    lay_out,
    new_figure,
    shrink,
    type_share,
    width_of,
)
from anylocal._drawing.panel import write_top
from anylocal._drawing.scale import (
    CMAP,
    DIVERGING,
    LEGEND,
    VALUE,
    centred_scale,
    clipped,
    colormap_of,
    scale_of,
    short,
)
from anylocal._drawing.select import (
    array_of,
    broken,
    caption,
    counted_of,
    is_arithmetic,
    is_map,
    layer_name,
    map_of,
    padding_of,
    positions_of,
    rows_of,
    sample_of,
)
from anylocal._drawing.strip import LONG, add_bar, axes_for, fit_tokens, is_strip, lower, size_of
from anylocal._drawing.ticks import LINE, name_positions
from anylocal._maps.bounds import place_of
from anylocal.errors import OptionError, ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from anylocal._drawing.norms import Norm, Weights
    from anylocal._drawing.scale import Cmap, Extend
    from anylocal._drawing.select import Flags
    from anylocal._maps.map import AttentionMap
    from anylocal._maps.positions import Axis

MOST = 260
"""Most rows and columns of a panel, about one a dot where a column of a paper has three of them."""

PRINTED = 280_000
"""Most cells of all panels in a file of vectors: SVG has 2.5 bytes for each, and is to stay below 1 MB."""

SAFE = 0.8
"""The least that a panel gets of the width that is planned for it."""

TITLE = 0.55
"""Inches of a panel that is as wide as its title, at the usual size of font."""


@dataclass(frozen=True)
class Drawn:
    """What `draw_matrix` draws.

    Examples
    --------
    >>> import numpy as np
    >>> from anylocal.drawing import Drawn, draw_matrix, scale_of
    >>> drawn = Drawn(np.eye(3), queries=None, keys=None, rows=range(3))
    >>> ax = draw_matrix(drawn, scale_of(None, [drawn.weights]), "magma", None, colorbar=True)
    """

    weights: Weights
    queries: Axis | None
    keys: Axis | None
    rows: Sequence[int]
    """Positions of the queries."""
    text: int = 0
    """By which number the axes know the sample: which text of the batch it is, or which window of an image."""
    title: str = ""
    is_arithmetic: bool = False
    """Whether it is what arithmetic makes of maps, and no attention weights."""

    @property
    def flags(self) -> tuple[Flags, Flags]:
        """Which rows and which columns the scale is for."""
        keys = range(self.weights.shape[1])
        return counted_of(self.queries, self.rows, self.text), counted_of(self.keys, keys, self.text)

    @property
    def padding(self) -> tuple[Flags, Flags]:
        """Which rows and which columns are padding."""
        keys = range(self.weights.shape[1])
        return padding_of(self.queries, self.rows, self.text), padding_of(self.keys, keys, self.text)

    @property
    def counted(self) -> Weights:
        """The weights that the scale is for."""
        return self.weights[np.ix_(*self.flags)]


def drawn_of(attention: Any, recipe: str, sample: int | None, head: int | None, queries: Any = None) -> Drawn:
    """Return what a recipe was given, a map or a plain matrix, as a matrix.

    Raises
    ------
    ChoiceError, OptionError, PositionError, ShapeError
        Where there is no such sample, head or query, or it is not one map or one matrix.
    """
    if is_map(attention) or isinstance(attention, Sequence):
        return of_map(map_of(attention, recipe), sample, head, queries)
    return _of_array(attention, sample, head, queries)


def draw_matrix(
    drawn: Drawn,
    scale: Normalize,
    cmap: Cmap,
    ax: Axes | None,
    *,
    colorbar: bool,
    label: str = LEGEND,
    visible: Weights | None = None,
) -> Axes:
    """Draw one matrix with its title and the legend of its scale, which names the maximum where that is clipped.

    The legend is that of the `visible` weights, by default all of them.
    """
    colours = colormap_of(cmap)
    ax = axes_for(ax, drawn.weights)
    share, width = type_share(ax), ax.bbox.width / ax.figure.dpi
    image = show(drawn, ax, scale, colours)
    set_title(ax, drawn.title.split("\n"), share, width)
    shrink(ax, share)
    lower(ax, image, drawn.weights)
    fit_tokens(ax, drawn, *size_of(ax, drawn))
    if colorbar:
        visible = drawn.weights if visible is None else visible
        extend = clipped([scale], [visible])
        if extend in {"max", "both"}:
            label += f"\n(max {short(float(np.nanmax(visible)))})"
        shrink(add_bar(image, ax, label, extend).ax, share)
    return ax


def set_title(ax: Axes, lines: Sequence[str], share: float, width: float, *, packed: bool = False) -> None:
    """Write a title above axes that may be one of many: broken and smaller, so that it stays above them.

    Lines that are `packed` share one where there is room: axes in a figure without a layout engine have little above.
    """
    size = max(SMALLEST, share) * float(ax.title.get_fontsize())
    # The colorbar and the labels of rows leave room beside the axes.
    room = 1.3 * width
    # Somewhat smaller type is better than a third line.
    least = max(SMALLEST / share, 0.7) * size if share > SMALLEST else size
    most = int(72 * (0.95 * width / size if packed else room / least) / LETTER)
    shown: list[str] = []
    for part in (part for line in lines for part in broken(line, most)):
        if packed and shown and len(shown[-1]) + len(part) + 2 <= most:
            # A name that was broken goes on.
            shown[-1] += part if shown[-1].endswith(".") else f", {part}"
        else:
            shown.append(part)
    # The label of the first row reaches above the axes, where a wide title would meet it.
    pad = rcParams["axes.titlepad"] + 2
    title = ax.set_title("\n".join(shown), fontsize=size, pad=pad)
    fit(title, room)
    if packed and ax.figure.get_layout_engine() is None:
        # Nobody makes room above the axes.
        above = (ax.figure.bbox.y1 - ax.bbox.y1) / ax.figure.dpi * 72 - pad
        most = max(SMALLEST * size, above / (LINE * max(1, len(shown))))
        title.set_fontsize(min(most, float(title.get_fontsize())))


def difference_of(attention: Any, other: Any, sample: int | None, head: int | None, queries: Any = None) -> Drawn:
    """Return what one map, or plain matrix, gives more than another of the same shape and positions.

    Raises
    ------
    ShapeError
        Where shapes or positions differ.
    """
    one, two = (drawn_of(item, "difference", sample, head, queries) for item in (attention, other))
    shapes = [tuple(item.shape) for item in (attention, other)]
    if shapes[0] != shapes[1]:
        msg = f"difference subtracts maps of one shape and got {shapes[0]} and {shapes[1]}; choose layers that fit."
        raise ShapeError(msg)
    for mine, others, kind in ((one.queries, two.queries, "queries"), (one.keys, two.keys, "keys")):
        if not _same_positions(mine, others, one.text):
            msg = (
                f"difference subtracts weights of the same positions, and the {kind} are {mine!r} and {others!r}; "
                "give maps of one text, or of images cut into the same patches."
            )
            raise ShapeError(msg)
    title = one.title
    if is_map(attention) and attention.name != other.name:
        names = [*layer_name(attention), "− " + "\n".join(layer_name(other) or ["other"])]
        title = "\n".join([*names, title.rpartition("\n")[2]])
    return replace(one, weights=one.weights - two.weights, title=title)


def of_map(attention: AttentionMap, sample: int | None, head: int | None, queries: Any = None) -> Drawn:
    """Return some rows of one head of a map, or of the mean over heads, as a matrix."""
    sample = sample_of(attention, sample)
    text = place_of(attention, sample)
    rows = positions_of(queries, attention.queries, attention.shape[2], text)
    return Drawn(
        weights=rows_of(attention, sample, head, rows),
        queries=attention.queries,
        keys=attention.keys,
        rows=rows,
        text=text,
        title="\n".join(caption(attention, sample, head)),
        is_arithmetic=is_arithmetic(attention),
    )


def scale_of_matrices(
    norm: Norm, cmap: Cmap | None, drawn: Drawn, counted: Sequence[Weights]
) -> tuple[Normalize, Cmap, str]:
    """Return one scale, the colormap and what the legend calls the values: weights, or what arithmetic makes of them.

    What goes below 0 in that has 0 in the middle of the scale.
    """
    label = VALUE if drawn.is_arithmetic else LEGEND
    if drawn.is_arithmetic and norm in {None, "linear", "sqrt"} and any((values < 0).any() for values in counted):
        most = np.concatenate([values.reshape(-1, values.shape[-1]) for values in counted])
        return centred_scale(norm, most), cmap or DIVERGING, label
    return scale_of(norm, counted), cmap or CMAP, label


def _of_array(matrix: Any, sample: int | None, head: int | None, queries: Any) -> Drawn:
    if (sample, head) != (None, None):
        msg = f"sample={sample!r}, head={head!r} choose from a map, and a plain matrix has neither; leave them out."
        raise OptionError(msg)
    weights = array_of(matrix)
    if weights.ndim != 2 or not weights.size:  # noqa: PLR2004  # the number of axes
        msg = (
            f"A heatmap needs weights of shape (query, key) and got {weights.shape}; give one matrix, "
            "or a map made by AttentionMap.from_weights."
        )
        raise ShapeError(msg)
    rows = positions_of(queries, None, len(weights))
    return Drawn(weights[rows], None, None, rows)


def show(drawn: Drawn, ax: Axes, scale: Normalize, cmap: Cmap, cells: Weights | None = None) -> AxesImage:
    """Draw a matrix, or the `cells` that it was made smaller to, and name its positions."""
    rows, columns = drawn.weights.shape
    # The rcParams may have the origin below and a grid: here the first query is on top, as in a matrix.
    image = ax.imshow(
        drawn.weights if cells is None else cells,
        cmap=cmap,
        norm=scale,
        aspect="equal" if _near_square(drawn.weights) else "auto",
        origin="upper",
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
        interpolation=interpolation(),
    )
    ax.grid(visible=False)
    longest = 10 if cells is None else 8
    name_positions(ax.yaxis, "query", drawn.queries, drawn.rows, text=drawn.text, longest=longest)
    # Of a few queries, the keys that they attend to most are named in any case.
    first = np.argsort(-drawn.weights.max(0)).tolist() if is_strip(drawn.weights) else ()
    name_positions(ax.xaxis, "key", drawn.keys, range(columns), text=drawn.text, longest=longest, first=first)
    return image


def figure_for(figure: Figure | None, columns: int | None, panels: Sequence[Drawn]) -> tuple[Figure, int]:
    """Return the figure to draw into and the number of panels in its rows."""
    given = figure is not None
    # Compressed: panels of a fixed shape, side by side without gaps.
    if figure is None:
        figure = new_figure()
        figure.set_layout_engine("compressed")
    else:
        lay_out(figure, "compressed")
    number = len(panels)
    if columns is None and given:
        columns = max(range(1, number + 1), key=lambda columns: _panel_width(figure, columns, panels))
    if columns is None:
        even = math.ceil(number / max(1, round(math.sqrt(number / 1.6))))
        columns = max(1, min(even, int(_free(figure, 1) / (TITLE * _inch()))))
    if not given:
        panel = _free(figure, 1) / columns * _shape(panels[0].weights)
        figure.set_figheight(1.2 * _inch() + math.ceil(number / columns) * (panel + 0.3 * _inch()))
    return figure, columns


def most_of(panels: int) -> int:
    """Return how many rows and columns each of some panels may have."""
    return MOST if interpolation() == "antialiased" else min(MOST, math.isqrt(PRINTED // panels))


def _inch() -> float:
    """Return an inch at the usual size of font: the room around panels, and that of a title, grow with it."""
    return float(rcParams["font.size"]) / 10


def _share(figure: Figure, number: int) -> float:
    """Return how large the type around so many panels is, as a share of the usual."""
    each = math.sqrt(width_of(figure) * height_of(figure) / number)
    return min(1.0, max(SMALLEST, each / (1.6 * _inch())))


def _free(figure: Figure, number: int) -> float:
    """Return what the width of a figure leaves for panels, in inches."""
    return max(0.1, width_of(figure) - 1.7 * _inch() * _share(figure, number))


def _panel_width(figure: Figure, columns: int, panels: Sequence[Drawn]) -> float:
    """Return about how wide a panel is in a figure, in inches: its height may leave less than its width does."""
    rows, inch = math.ceil(len(panels) / columns), _inch() * _share(figure, len(panels))
    high = (height_of(figure) - 1.2 * inch) / rows - 0.3 * inch
    return min(_free(figure, len(panels)) / columns, high / _shape(panels[0].weights))


def _shape(weights: Weights) -> float:
    """Return the height of a panel as a share of its width."""
    height, width = weights.shape
    return height / width if _near_square(weights) else 1.0


def add_common_colorbar(
    figure: Figure, axes: Sequence[Axes], mappable: ScalarMappable, label: str, extend: Extend
) -> None:
    """Put one colorbar beside all panels."""
    options = bar_options(mappable.norm, label, extend)  # type: ignore[arg-type]  # its setter takes more than its getter gives
    bar = figure.colorbar(mappable, ax=axes, fraction=0.06, pad=0.03, **options)
    shrink(bar.ax, _share(figure, len(axes)))
    fit(bar.ax.yaxis.label, 0.5 * height_of(figure))


def draw_panels(
    figure: Figure, columns: int, panels: Sequence[tuple[Drawn, Weights, Normalize]], cmap: Cmap
) -> list[Axes]:
    """Draw matrices in rows, and say what their positions are once."""
    rows = math.ceil(len(panels) / columns)
    width = _panel_width(figure, columns, [drawn for drawn, _, _ in panels])
    fill = width / (TITLE * _inch())
    # Beside a panel that is narrower than its title stand other titles, or the bar: they get less of the width, for a
    # long row has many gaps. Half a font can still be read in print.
    share = 1.0 if round(fill, 3) >= 1 else max(0.45, 0.75 * fill)
    share = min(share, _share(figure, len(panels)))
    grid = figure.add_gridspec(rows, columns)
    axes = [figure.add_subplot(grid[divmod(number, columns)]) for number in range(len(panels))]
    apart = len({id(scale) for _, _, scale in panels}) > 1
    for number, (ax, (drawn, cells, scale)) in enumerate(zip(axes, panels, strict=True)):
        show(drawn, ax, scale, cmap, cells)
        if apart:
            write_top(ax, (0.97, 0.97), scale, width, ax.transAxes)
        ax.set_title(drawn.title, fontsize=share * rcParams["font.size"])
        # Labels at the outer edge only. Below a panel that has none under it, they hang into the empty place, and the
        # layout is not to make room for them above the last row.
        ax.tick_params(labelleft=number % columns == 0, labelbottom=number + columns >= len(panels))
        ax.xaxis.set_in_layout(number // columns == rows - 1)
    # What the positions are is said once, in the middle of the lower and the left edge.
    below, left = axes[(rows - 1) * columns :], axes[::columns]
    names = {"x": below[(len(below) - 1) // 2], "y": left[len(left) // 2]}
    for ax in axes:
        for ruler in (ax.xaxis, ax.yaxis):
            if ax is not names[ruler.axis_name]:
                ruler.set_label_text("")
        shrink(ax, _share(figure, len(panels)))
        fit_tokens(ax, panels[0][0], SAFE * width, SAFE * width * _shape(panels[0][0].weights))
    return axes


def _same_positions(one: Axis | None, other: Axis | None, text: int) -> bool:
    """Tell whether two axes name their positions alike; one that only counts goes with any."""
    if one is None or other is None:
        return True
    from anylocal._maps.positions import Axis

    return Axis in {type(one), type(other)} or one.labels(text) == other.labels(text)


def _near_square(weights: Weights) -> bool:
    height, width = weights.shape
    return bool(max(height, width) <= LONG * min(height, width))
