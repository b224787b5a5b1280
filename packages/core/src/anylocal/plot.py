"""Recipes: pictures of a map, whatever its positions are.

Each is a function of the map in matplotlib's own conventions: it draws into the axes given by `ax`, else into a new
figure, obeys the rcParams, never shows anything by itself, and returns what it drew into. The scale of a panel ends
where its patches or words do, not where a sink does (see `heatmap`), and its legend says what it means. Give an axes of
yours a figure with ``layout="constrained"``, which makes room for labels. `style` sets matplotlib for a paper; without
it, give `savefig` the resolution of your printer, which counts for the images in PDF and SVG too.

Needs the extra ``anylocal[plot]``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from anylocal.errors import DependencyError, OptionError

try:
    from matplotlib import cm

    from anylocal._drawing.arguments import draws
    from anylocal._drawing.figure import add_colorbar, fit, shrink, width_of
    from anylocal._drawing.grid import (
        bar_share,
        draw_grid,
        fit_height,
        is_across,
        laid_out,
        row_names,
        thumbnail,
        write_tops,
    )
    from anylocal._drawing.layers import by_layer, draw_layers, layers_of, of_samples, uniform_of
    from anylocal._drawing.matrix import (
        add_common_colorbar,
        difference_of,
        draw_matrix,
        draw_panels,
        drawn_of,
        figure_for,
        most_of,
        of_map,
        scale_of_matrices,
    )
    from anylocal._drawing.norms import named
    from anylocal._drawing.panel import checked_reduce, smaller
    from anylocal._drawing.scale import (
        CMAP,
        DIVERGING,
        LEGEND,
        VALUE,
        centred_scale,
        clipped,
        colormap_of,
        legend_of,
        ranged,
        scales_of,
    )
    from anylocal._drawing.select import (
        image_of,
        layer_name,
        map_of,
        mean_of,
        sample_name,
        sample_of,
        without_padding,
    )
    from anylocal._drawing.style import style
    from anylocal._drawing.ticks import printable
except ModuleNotFoundError as error:
    if error.name not in {"matplotlib", "numpy"}:
        raise
    msg = f'anylocal.plot needs {error.name}, which is not installed: pip install "anylocal[plot]".'
    raise DependencyError(msg, name=error.name) from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from anylocal._drawing.norms import Norm, Weights
    from anylocal._drawing.panel import Reduce
    from anylocal._drawing.scale import Cmap, Share
    from anylocal._maps.array import MapArray
    from anylocal._maps.indexing import Queries
    from anylocal._maps.map import AttentionMap

__all__ = ["difference", "entropy", "heads", "heatmap", "model", "style"]


def __dir__() -> list[str]:
    return __all__


@draws("queries")
def heatmap(
    attention: MapArray | torch.Tensor | Weights,
    *,
    sample: int | None = None,
    head: int | None = None,
    queries: Queries | str | Sequence[object] = None,
    norm: Norm = None,
    cmap: Cmap | None = None,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw the weights of one map as a matrix: a row for each query, a column for each key.

    Ticks name the positions: tokens, prefix tokens, patches by row and column; as many as have room. Cells are
    square, unless the matrix is more than four times as long as it is wide.

    Parameters
    ----------
    attention : AttentionMap, or torch.Tensor or numpy.ndarray of shape (query, key)
        Also what arithmetic makes of maps, such as ``maps[1] - maps[0]``: where that goes below 0, the scale has 0 in
        its middle, as that of `difference` has, and the legend says "value".
    sample : int, optional
        Which sample of the batch; a batch of one needs none.
    head : int, optional
        Which head; the mean over heads by default.
    queries : int, slice, str or sequence, optional
        Which rows, in which order; all by default. Names and, in a sequence, (row, column) pairs mean what the
        map's axis makes of them: ``["cls", (3, 4)]``.
    norm : {"linear", "sqrt", "log", "rank"}, other str or matplotlib.colors.Normalize, optional
        How the scale runs, from 0 to its top (see Notes): evenly by default; by the square root, which shows the weak
        among the strong; by the logarithm, from a thousandth of the top; or by the rank of the weights among those
        drawn. `heads` and `model` run by the root unless told otherwise: give both one norm to compare them. Another
        name that matplotlib knows, such as "symlog", and an object without limits get the extremes.
    cmap : str or matplotlib.colors.Colormap
        "magma" by default: its lightness rises evenly, so it reads the same in grey and with any colour vision. Where 0
        is in the middle of the scale, "coolwarm"; see `difference`.
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
        Where a plain array is no matrix, a sample or a head of one is asked for, there is no such scale or colormap, or
        the scale has no place for the weights: a logarithmic one where all are 0.

    Notes
    -----
    The top of the scale is that of the weights on patches or words, in whose rows and columns prefix tokens, special
    tokens and padding are left out: `[CLS]`, or a register, may take nearly all of the attention. Of fewer than 49 keys
    it is the maximum; else the 99.5th percentile, but at most twice the 98th, and not below the mean, so that a few
    sinks do not make all others black. Where weights lie above it, the colorbar ends in a triangle, and they have the
    colour of its tip. ``norm=matplotlib.colors.Normalize(0, 1)`` clips nothing.

    Where several cells share a dot of the screen, matplotlib draws their average.

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
    drawn = drawn_of(attention, "heatmap", sample, head, queries)
    scale, colours, label = scale_of_matrices(norm, cmap, drawn, [drawn.counted])
    return draw_matrix(drawn, scale, colours, ax, colorbar=colorbar, label=named(label, norm))


def heads(
    attention: MapArray,
    *,
    sample: int | None = None,
    norm: Norm = "sqrt",
    share: Share = "head",
    reduce: Reduce = "max",
    cmap: Cmap | None = None,
    columns: int | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw every head of one map and their mean, each on its own scale.

    The colormap runs from 0 to the top that is written small into each panel, and the colorbar is in fractions of it.
    Where weights lie above a top, the colorbar ends in a triangle. Padding is grey. What arithmetic makes of maps, such
    as ``maps[1] - maps[0]``, has one scale with 0 in its middle where it goes below 0.

    Parameters
    ----------
    attention : AttentionMap, or what arithmetic makes of maps
    sample : int, optional
        Which sample of the batch; a batch of one needs none.
    norm : {"sqrt", "linear", "log", "rank"}, other str or matplotlib.colors.Normalize, optional
        How the scale runs, from 0 to its top; see `heatmap`. By default by the square root: it shows what heads that
        attend to little do beside it. An object, or a name of matplotlib's, is one scale for all.
    share : {"head", "layer", "all"}
        Which panels share a scale, whose colorbar is then in weights: none by default, for a scale that one head needs
        may leave another black. "layer" and "all" are the same here.
    reduce : {"max", "mean"}
        Which weight is drawn for a block of neighbours, where there are more than 260 queries or keys (fewer inside
        `style`: 200 of six heads): by default the maximum, in which a narrow line stays as strong as it is. Prefix and
        special tokens are no part of a block.
    cmap : str or matplotlib.colors.Colormap
        "magma" by default; see `heatmap`.
    columns : int, optional
        Panels in a row; by default about as many as there are rows, and fewer in a narrow figure. In a given figure
        that is too low or too narrow for them, as many as make the panels largest.
    figure : matplotlib.figure.Figure or SubFigure, optional
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
        Where there is no such sample, `columns` is not positive, `attention` is no map, or the scale or the colormap is
        refused as by `heatmap`.

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
    attention = map_of(attention, "heads")
    if columns is not None and columns < 1:
        msg = f"columns={columns!r} is no number of panels in a row; give 1 or more."
        raise OptionError(msg)
    at = sample_of(attention, sample)
    panels = [replace(of_map(attention, at, head), title=f"head {head}") for head in range(attention.shape[1])]
    panels.append(replace(panels[0], weights=mean_of(panel.weights for panel in panels), title="mean"))
    most = most_of(len(panels))
    made = [
        smaller(without_padding(panel.weights, *panel.padding), *panel.flags, most, checked_reduce(reduce))
        for panel in panels
    ]
    counted = [panel.counted for panel in made]
    if panels[0].is_arithmetic and any((values < 0).any() for values in counted):
        # Below 0 there is no common start.
        scale, cmap, label = scale_of_matrices(norm, cmap, panels[0], counted)
        scales = [scale] * len(made)
    else:
        scales, label = scales_of(norm, counted, share), VALUE if panels[0].is_arithmetic else LEGEND
    colours = colormap_of(cmap or CMAP)
    figure, columns = figure_for(figure, columns, panels)
    cells = [panel.weights for panel in made]
    axes = draw_panels(figure, columns, list(zip(panels, cells, scales, strict=True)), colours)
    figure.suptitle("\n".join([*layer_name(attention), *sample_name(attention, at)]))
    scale, label = legend_of(norm, scales, label)
    if not any(ax.texts for ax in axes):
        label = ranged(label, scales)
    legend = cm.ScalarMappable(scale, colours)
    add_common_colorbar(figure, axes, legend, named(label, norm), clipped(scales, cells))
    return figure


def model(
    maps: Iterable[AttentionMap],
    *,
    sample: int | None = None,
    norm: Norm = "sqrt",
    share: Share = "head",
    reduce: Reduce = "max",
    cmap: Cmap = CMAP,
    figure: Figure | None = None,
) -> Figure:
    """Draw every head of every layer in one picture: a row for each layer, a column for each head.

    Each map fills a square, its first query on top and its first key to the left, and has a scale of its own, from
    0 to the top that is written into it where there is room; the colorbar is in fractions of that. Layers of fewer
    heads leave the rest of their row empty, and padding is grey. Where the maps become larger so, such as those of
    many layers of few heads in a wide figure, layers are the columns and heads the rows: both axes say what they
    are.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The layers of one forward, first layer first.
    sample : int, optional
        Which sample of the batch (of a windowed layer, which image); a batch of one needs none.
    norm : {"sqrt", "linear", "log", "rank"}, other str or matplotlib.colors.Normalize, optional
        How the scale runs, from 0 to its top; see `heatmap`. By default by the square root: it shows what heads that
        attend to little do beside it. An object, or a name of matplotlib's, is one scale for all.
    share : {"head", "layer", "all"}
        Which maps share a scale; see `heads`.
    reduce : {"max", "mean"}
        Which weight is drawn for a block of neighbours, where there are more than 64 queries or keys: by default
        the maximum, in which a narrow line stays as strong as it is.
    cmap : str or matplotlib.colors.Colormap
        "magma" by default; see `heatmap`.
    figure : matplotlib.figure.Figure or SubFigure, optional
        An empty one to draw into; by default a new one, as wide as the rcParams say and as high as it needs.

    Returns
    -------
    matplotlib.figure.Figure
        Its first axes hold the maps as ``images``, layer by layer and head by head; the place of each is its
        ``get_extent()``, around (head, layer), or (layer, head) where layers are columns.

    Raises
    ------
    ChoiceError
        Where a batch holds several samples and none was chosen, or the maps belong to several forwards.
    StateError
        Where there is no map.
    OptionError, PositionError
        Where something is no map, there is no such sample, or the scale or the colormap is refused as by `heatmap`.

    Notes
    -----
    The top of a scale is that of what is drawn, blocks of neighbours where a map is large (48 a side are left of it
    inside `style`). Blocks that share a dot of the picture are averaged by matplotlib. A windowed layer is drawn as the
    mean of the windows of the image.

    Rows are numbered as the names of the modules are, ``blocks.4.attn`` by 4, and the title tells the rest of the name.
    Where names differ in more than one number, rows are counted from 0, and where there is room what differs is behind.

    Examples
    --------
    >>> import torch
    >>> from anylocal import plot
    >>> from anylocal.attention import AttentionMap
    >>> layers = [AttentionMap.from_weights(torch.eye(4).expand(1, heads, 4, 4)) for heads in (3, 2)]
    >>> ax = plot.model(layers).axes[0]
    >>> len(ax.images), ax.get_xlabel(), ax.get_ylabel()
    (5, 'head', 'layer')
    """
    layers = layers_of(maps, "model")
    images = [image_of(layer, sample) for layer in layers]
    rows = [
        [thumbnail(layer, image, head, checked_reduce(reduce)) for head in range(layer.shape[1])]
        for layer, image in zip(layers, images, strict=True)
    ]
    panels = [panel for row in rows for panel in row]
    numbers = [number for number, row in enumerate(rows) for _ in row]
    scales, colours = scales_of(norm, [panel.counted for panel in panels], share, numbers), colormap_of(cmap)
    drawn = laid_out(figure)
    heads = max(map(len, rows))
    across = is_across(drawn, len(rows), heads, new=figure is None)
    # Below columns there is no room for words.
    names, common = row_names(layers, 0 if across else width_of(drawn), heads)
    if figure is None:
        fit_height(drawn, *((heads, len(rows)) if across else (len(rows), heads)), names)
    ax = drawn.add_subplot()
    draw_grid(ax, [[panel.weights for panel in row] for row in rows], names, scales, colours, across=across)
    one = f"sample {images[0]}" if layers[0].images > 1 else ""
    fit(ax.set_title("\n".join(filter(None, [printable(common, len(common)), one]))), 0.8 * width_of(drawn))
    scale, label = legend_of(norm, scales)
    if len(set(map(id, scales))) > 1:
        write_tops(ax, drawn, names, scales)
    if not ax.texts:
        label = ranged(label, scales)
    beyond = clipped(scales, [panel.weights for panel in panels])
    bar = add_colorbar(cm.ScalarMappable(scale, colours), ax, named(label, norm), beyond)
    shrink(bar.ax, bar_share(drawn))
    return drawn


@draws("queries")
def difference(
    attention: MapArray | torch.Tensor | Weights,
    other: MapArray | torch.Tensor | Weights,
    *,
    sample: int | None = None,
    head: int | None = None,
    queries: Queries | str | Sequence[object] = None,
    norm: Norm = None,
    cmap: Cmap = DIVERGING,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw what one map has more than another, such as a layer before and after training: `attention` - `other`.

    Parameters
    ----------
    attention, other : AttentionMap, or torch.Tensor or numpy.ndarray of shape (query, key)
        Of one shape, and over the same positions.
    sample, head, queries
        Which sample and head of both, and which rows; see `heatmap`.
    norm : {"linear", "sqrt"}, other str or matplotlib.colors.Normalize, optional
        The scale; by default 0 is in its middle, and it reaches to the top of the differences' sizes on either side
        (see `heatmap`; the colorbar has triangles where more lies beyond). "sqrt" is the root of the size.
    cmap : str or matplotlib.colors.Colormap
        "coolwarm" by default: red where `attention` has more, blue where `other` has, grey where they agree. Its
        colours change evenly and can be told apart with any colour vision.
    ax : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.
    colorbar : bool
        Whether to draw the legend of the scale.

    Returns
    -------
    matplotlib.axes.Axes
        The differences are the array of its only image, ``ax.images[0]``.

    Raises
    ------
    ShapeError
        Where the maps differ in shape, or in what their positions are.
    ChoiceError, PositionError, NameNotFoundError, OptionError
        As `heatmap`.

    Examples
    --------
    >>> import torch
    >>> from anylocal import plot
    >>> from anylocal.attention import AttentionMap
    >>> before, after = (AttentionMap.from_weights(w) for w in (torch.full((2, 2), 0.5), torch.eye(2)))
    >>> ax = plot.difference(after, before)
    >>> ax.images[0].get_array().tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
    """
    drawn = difference_of(attention, other, sample, head, queries)
    scale = centred_scale(norm, drawn.counted)
    label = named("difference of\nattention weights", norm)
    return draw_matrix(drawn, scale, cmap, ax, colorbar=colorbar, label=label)


def entropy(maps: Iterable[AttentionMap], *, sample: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw how evenly the heads of each layer spread their attention: a dot for each head, a line through their mean.

    A thin grey line is at the entropy of uniform attention: ln n of n keys that are not padding. A causal mask hides
    some of them, and what is possible lies below.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The layers of one forward, first layer first: they are counted along x.
    sample : int, optional
        Which sample of the batch (of a windowed layer, which image); by default the mean over all of them.
    ax : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The means are ``ax.lines[0]``; layers and entropies of the heads, ``ax.collections[0].get_offsets()``.

    Raises
    ------
    StateError, ChoiceError
        Where there is no map, or they belong to several forwards.
    OptionError, PositionError
        Where something is no map, or there is no such sample.

    See Also
    --------
    anylocal.attention.entropy : The numbers, and where they are from.

    Examples
    --------
    >>> import torch
    >>> from anylocal import plot
    >>> from anylocal.attention import AttentionMap
    >>> layers = [AttentionMap.from_weights(torch.full((4, n, n), 1 / n)) for n in (2, 4, 8)]
    >>> ax = plot.entropy(layers)
    >>> ax.lines[0].get_ydata().round(2).tolist()
    [0.69, 1.39, 2.08]
    """
    layers = layers_of(maps, "entropy")
    from anylocal._maps.statistics import entropy as entropies

    return draw_layers(
        ax,
        {"mean of heads": by_layer(layers, entropies, sample)},
        ylabel="entropy (nats)",
        title=of_samples(layers, sample),
        uniform=by_layer(map(uniform_of, layers), entropies, sample),
    )
