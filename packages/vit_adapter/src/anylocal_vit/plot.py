"""Recipes: attention over the image, and statistics layer by layer.

The image is in grey, and the weights of the patches cover it exactly where the model saw them. Prefix tokens cover no
pixels: they are cells beside the image, on the same scale. Patches outside a window leave the image bare. The recipes
of `anylocal.plot` are here as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anylocal.attention import AttentionMap, AttentionMaps, Axis, Patches, PlacedPatches, prefix_mass
from anylocal.attention import distance as distances
from anylocal.attention import rollout as follow
from anylocal.drawing import (
    CMAP,
    LEGEND,
    add_colorbar,
    array_of,
    by_layer,
    caption,
    colormap_of,
    draw_layers,
    head_name,
    image_of,
    is_map,
    layer_name,
    layers_of,
    map_of,
    new_axes,
    of_samples,
    sample_name,
    sample_of,
    scale_of,
)
from anylocal.errors import ChoiceError, OptionError, PositionError, ShapeError, StateError
from anylocal.plot import difference, entropy, heads, heatmap, model
from anylocal_vit._overlay import BACKGROUND, Overlay, overlay, seen
from anylocal_vit._windows import (
    asked,
    check_windowed,
    is_cell,
    mean_row,
    of_image,
    regions,
    scattered,
    spread,
    stitched,
    within,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anylocal.drawing import Cmap, ImageLike, Norm, Pixels, Statistics, Weights

__all__ = ["difference", "distance", "entropy", "heads", "heatmap", "model", "prefix", "query", "rollout", "windows"]

ALPHA = 0.6
"""Opaque enough to tell weights apart, transparent enough to see the image."""


def query(
    attention: AttentionMap | Sequence[AttentionMap],
    image: ImageLike,
    *,
    query: object,
    layer: int | str | None = None,
    sample: int | None = None,
    head: int | None = None,
    norm: Norm = None,
    cmap: Cmap = CMAP,
    alpha: float = ALPHA,
    mean: Statistics = None,
    std: Statistics = None,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw what one query attends to, or several on average, over the image.

    Query patches are outlined in black and white, as are the cells of queries that are prefix tokens. Where the layer
    attends within windows, only the patches of the query's window are covered, with white lines on black around them.

    Parameters
    ----------
    attention : AttentionMap or AttentionMaps
        Its keys must be `Patches` or `PlacedPatches`.
    image : torch.Tensor, numpy.ndarray, PIL.Image.Image or Photograph
        The model's input, in its size: one image, or the complete batch. A normalised image is scaled to its own
        range, or denormalised by `mean` and `std`. An image that the model pads may be given with or without the
        padding, which lies below and to the right and is grey.
    query : (int, int), int or str, or sequence of them
        Row and column of a patch, a position, or the name of a prefix token; for a sequence, the mean of their
        weights is drawn. Two plain integers are one patch. Within windows, patches by row and column in the
        image, which determine the window.
    layer : int or str, optional
        Which of several maps: its index, or the name of its module.
    sample : int, optional
        Which sample of the batch (in a windowed layer, which image); a batch of one needs none.
    head : int, optional
        Which head; the mean over heads by default.
    norm : matplotlib.colors.Normalize or str, optional
        The scale of patches and prefix tokens, from 0 to the greatest weight drawn by default.
    cmap : str or matplotlib.colors.Colormap
        "magma" by default: dark without attention, and perceptually uniform.
    alpha : float
        The opacity of the weights, between 0 and 1.
    mean, std : float or sequence of float, optional
        The statistics that normalised the image: a number for each colour channel, or one for all.
    ax : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default. The prefix cells are an inset to the left of it.
    colorbar : bool
        Whether to draw the legend of the scale, on the same grey as the prefix cells.

    Returns
    -------
    matplotlib.axes.Axes
        Its units are pixels. The weights of the patches are the array of ``ax.images[1]``, over the image.

    Raises
    ------
    ShapeError
        If the size of the image is not that of the model's input, or the keys are not patches of an image.
    ChoiceError
        If the batch holds several samples and none was chosen, several maps were given without `layer`, or a query
        of a windowed layer does not determine its window.
    OptionError
        If `attention` is not a map, `layer` is given with a single map, or `mean` and `std` do not fit the image.
    PositionError, NameNotFoundError
        If no such layer, sample, head or query exists.
    UnsupportedError
        If the layer attends within windows whose places are unknown.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches
    >>> from anylocal_vit import plot
    >>> patches = Patches(grid=(2, 3), image_size=(32, 48))
    >>> attention = AttentionMap.from_weights(torch.eye(7), queries=patches, keys=patches)
    >>> ax = plot.query(attention, torch.rand(3, 32, 48), query=(0, 2))
    >>> ax.images[1].get_array().tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    attention = _layer(attention, layer)
    number = image_of(attention, sample)
    keys, pixels = seen(attention, image, number, mean, std)
    rows = asked(attention, _queries(query), number)
    places = [(position, at) for at, positions in rows.items() for position in positions]
    ax, drawn = _row(
        mean_row(attention, rows, head),
        keys,
        pixels,
        marked=(attention.queries, places),
        title=[*_title(attention, number, head), _query_name(attention, places)],
        options=_Options(norm, cmap, alpha, ax, colorbar=colorbar),
    )
    if attention.windows > 1:
        chosen = [at % attention.windows for at in rows]
        drawn.borders(regions(of_image(attention.keys, number, attention.windows), *chosen), clip=False)
    return ax


def windows(
    attention: AttentionMap,
    image: ImageLike,
    *,
    query: object = None,
    sample: int | None = None,
    head: int | None = None,
    norm: Norm = None,
    cmap: Cmap = CMAP,
    alpha: float = ALPHA,
    mean: Statistics = None,
    std: Statistics = None,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw all windows of a windowed layer in their places over the image: the attention to each patch in its window.

    White lines on black run between neighbours of different windows, shifted or not. They are left out where all
    neighbours are, as in windows of patches from all over the image, which lines would hide. The weights of a window
    sum to 1, prefix tokens included: compare them within a window only.

    Parameters
    ----------
    attention : AttentionMap
        Its keys must be `PlacedPatches`, of windows.
    image
        See `query`.
    query : (int, int), int or str, optional
        The query of every window: row and column within the window, a position in it, or the name of a prefix token.
        It is outlined in each; windows where it is padding stay bare. The mean over the query patches of each window
        by default.
    sample : int, optional
        Which image of the batch; a batch of one needs none.
    head : int, optional
        Which head; the mean over heads by default.
    norm, cmap, alpha, mean, std, ax, colorbar
        See `query`.

    Returns
    -------
    matplotlib.axes.Axes
        As that of `query`. Patches in several windows, as keys at an edge may be, have the mean of their weights, as
        have prefix tokens.

    Raises
    ------
    UnsupportedError
        If the layer does not attend within windows, or their places are unknown.
    ShapeError, ChoiceError, OptionError, PositionError, NameNotFoundError
        As `query`, and if a pair is given and the windows are not made of rows and columns.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, PlacedPatches
    >>> from anylocal_vit import plot
    >>> axis = PlacedPatches(grid=(1, 4), places=[[0, 1], [2, 3]], image_size=(16, 64))
    >>> weights = torch.tensor([[[[0.75, 0.25], [0.5, 0.5]]], [[[0.0, 1.0], [0.0, 1.0]]]])
    >>> attention = AttentionMap.from_weights(weights, queries=axis, keys=axis, windows=2)
    >>> ax = plot.windows(attention, torch.rand(3, 16, 64), query=(0, 0))
    >>> ax.images[1].get_array().tolist()
    [[0.75, 0.25, 0.0, 1.0]]
    """
    attention = map_of(attention, "windows")
    check_windowed(attention)
    number = image_of(attention, sample)
    keys, pixels = seen(attention, image, number, mean, std)
    position, named = (None, "") if query is None else within(attention.queries, query)
    samples = range(number * attention.windows, (number + 1) * attention.windows)
    places = [] if position is None else [(position, at) for at in samples]
    # All windows share one cell for each prefix token.
    prefixed = position is not None and position < len(getattr(attention.queries, "prefix", ()))
    ax, drawn = _row(
        stitched(attention, number, position, head),
        keys,
        pixels,
        marked=(attention.queries, places[:1] if prefixed else places),
        title=[
            *_title(attention, number, head),
            "mean of all queries" if position is None else f"query {named} of each window",
        ],
        options=_Options(norm, cmap, alpha, ax, colorbar=colorbar),
    )
    # Queries are in one window each, while keys at an edge may be in several.
    parted = attention.queries if isinstance(attention.queries, PlacedPatches) else attention.keys
    borders = regions(of_image(parted, number, attention.windows))
    if not scattered(borders):
        drawn.borders(borders, clip=True)
    return ax


def rollout(
    maps: Iterable[AttentionMap],
    image: ImageLike,
    *,
    query: object = None,
    sample: int | None = None,
    residual: float = 0.5,
    norm: Norm = None,
    cmap: Cmap = CMAP,
    alpha: float = ALPHA,
    mean: Statistics = None,
    std: Statistics = None,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw the attention rollout of one query of the last layer over the image.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The self-attention layers of one forward pass, first layer first.
    image
        See `query`.
    query : (int, int), int or str, optional
        ``"cls"`` by default, position 0 in models without it.
    sample
        See `query`.
    residual : float, default 0.5
        The share of the residual connection; see `anylocal.attention.rollout`.
    norm, cmap, alpha, mean, std, ax, colorbar
        See `query`.

    Returns
    -------
    matplotlib.axes.Axes
        As that of `query`.

    Raises
    ------
    ShapeError, ChoiceError, OptionError, PositionError, NameNotFoundError, UnsupportedError
        As `query`, and if the layers cannot be multiplied.
    StateError
        If `maps` is empty.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches
    >>> from anylocal_vit import plot
    >>> patches = Patches(grid=(1, 2), image_size=(16, 32))
    >>> layers = [AttentionMap.from_weights(torch.full((3, 3), 1 / 3), queries=patches, keys=patches)] * 2
    >>> ax = plot.rollout(layers, torch.rand(3, 16, 32))
    >>> ax.images[1].get_array().round(2).tolist()
    [[0.25, 0.25]]
    """
    layers = [map_of(layer, "rollout") for layer in maps]
    if not layers:
        msg = "No attention map to roll out; run the model inside the capture first."
        raise StateError(msg)
    last = layers[-1]
    sample = sample_of(last, sample)
    keys, pixels = seen(last, image, sample, mean, std)
    position = last.keys.position(("cls" if "cls" in keys.prefix else 0) if query is None else query, sample)
    row = array_of(follow(layers, residual=residual, queries=position)[sample])
    return _row(
        spread(last.keys, row, sample),
        keys,
        pixels,
        marked=(last.keys, [(position, sample)]),
        title=[
            ", ".join([f"rollout of {len(layers)} layer{'s' * (len(layers) > 1)}", *sample_name(last, sample)]),
            f"query {last.keys.label(position, sample)}",
        ],
        options=_Options(norm, cmap, alpha, ax, label="attention rollout", colorbar=colorbar),
    )[0]


def prefix(maps: Iterable[AttentionMap], *, sample: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the attention of the patches of each layer to prefix tokens, such as ``cls`` and registers.

    Each token has a line through the means of heads, and a dot for each head. Layers whose keys have no prefix token
    are left empty, and still count along x.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The layers of one forward pass, first layer first, along x.
    sample : int, optional
        Which sample of the batch (in a windowed layer, which image); by default the mean over all of them.
    ax : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The means are ``ax.lines``, one for each token; the shares of heads are the second column of
        ``ax.collections[…].get_offsets()``.

    Raises
    ------
    ShapeError
        If no layer's keys have prefix tokens.
    StateError, ChoiceError
        If `maps` is empty, or holds several forward passes.
    OptionError, PositionError
        If an item is not a map, or no such sample exists.

    See Also
    --------
    anylocal.attention.prefix_mass : The numbers, and their definition.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches
    >>> from anylocal_vit import plot
    >>> patches = Patches(grid=(1, 3))
    >>> layers = [AttentionMap.from_weights(torch.eye(4), queries=patches, keys=patches)] * 2
    >>> ax = plot.prefix(layers)
    >>> ax.lines[0].get_ydata().tolist()
    [0.0, 0.0]
    """
    layers = layers_of(maps, "prefix")
    names = [tuple(getattr(layer.keys, "prefix", ())) for layer in layers]
    tokens = list(dict.fromkeys(name for some in names for name in some))
    if not tokens:
        msg = (
            f"No layer's keys have prefix tokens, those of {layers[0]!r} are {layers[0].keys!r}; give the layers of a "
            "model with a class token or registers."
        )
        raise ShapeError(msg)
    shares = by_layer(layers, prefix_mass, sample)
    lines = {
        token: [
            share[:, some.index(token)] if share is not None and token in some else None
            for share, some in zip(shares, names, strict=True)
        ]
        for token in tokens
    }
    return draw_layers(ax, lines, ylabel="share of attention", title=of_samples(layers, sample), legend="mean of heads")


def distance(maps: Iterable[AttentionMap], *, sample: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the mean attention distance of each layer: a dot for each head, a line through their mean.

    Layers whose queries or keys are not patches, as in class attention, are left empty, and still count along x.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The layers of one forward pass, first layer first, along x.
    sample : int, optional
        Which sample of the batch (in a windowed layer, which image); by default the mean over all of them.
    ax : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The means are ``ax.lines[0]``; layers and distances of heads are ``ax.collections[0].get_offsets()``. In
        pixels; in patches if the maps do not know the size of their image.

    Raises
    ------
    ShapeError
        If no layer's queries and keys are patches, or only some know the size of their image.
    StateError, ChoiceError
        If `maps` is empty, or holds several forward passes.
    OptionError, PositionError
        If an item is not a map, or no such sample exists.

    See Also
    --------
    anylocal.attention.distance : The numbers, and their source.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches
    >>> from anylocal_vit import plot
    >>> patches = Patches(grid=(1, 2), prefix=(), image_size=(16, 32))
    >>> layers = [AttentionMap.from_weights(w, queries=patches, keys=patches) for w in (torch.eye(2), 1 - torch.eye(2))]
    >>> ax = plot.distance(layers)
    >>> ax.lines[0].get_ydata().tolist()
    [0.0, 16.0]
    """
    layers = layers_of(maps, "distance")
    values = by_layer(layers, distances, sample)
    sizes = [
        getattr(layer.queries, "image_size", None) or getattr(layer.keys, "image_size", None)
        for layer, value in zip(layers, values, strict=True)
        if value is not None
    ]
    if None in sizes and any(sizes):
        msg = "Some layers know the size of their image and others do not; give the axes of all of them an image_size."
        raise ShapeError(msg)
    unit = "patches" if None in sizes else "pixels"
    return draw_layers(
        ax,
        {"mean of heads": values},
        ylabel=f"mean attention\ndistance ({unit})",
        title=of_samples(layers, sample),
    )


@dataclass(frozen=True)
class _Options:
    """The user's choices of how to draw."""

    norm: Norm
    cmap: Cmap
    alpha: float
    ax: Axes | None
    label: str = LEGEND
    colorbar: bool = True


def _row(
    row: Weights,
    keys: Patches,
    pixels: Pixels,
    *,
    marked: tuple[Axis, Iterable[tuple[int, int]]],
    title: Sequence[str],
    options: _Options,
) -> tuple[Axes, Overlay]:
    """Draw weights over the image, and outline queries: an axis, and (position, sample) pairs on it."""
    scale, colours = scale_of(options.norm, [row]), colormap_of(options.cmap)
    ax = new_axes(options.ax)
    drawn = overlay(ax, row, keys, pixels, norm=scale, cmap=colours, alpha=options.alpha)
    axis, places = marked
    for place in places:
        drawn.outline(axis, *place)
    ax.set_title("\n".join(title))
    if options.colorbar:
        bar = add_colorbar(drawn.heat, ax, options.label)
        bar.ax.set_facecolor(BACKGROUND)
    return ax, drawn


def _layer(attention: AttentionMap | Sequence[AttentionMap], layer: int | str | None) -> AttentionMap:
    """Return the map to draw, or the chosen one of several."""
    if is_map(attention):
        if layer is not None:
            msg = f"layer={layer!r} chooses from several maps, and {attention!r} is one; leave it out."
            raise OptionError(msg)
        return attention
    if isinstance(attention, Sequence) and layer is not None:
        return AttentionMaps(attention)[layer]
    if isinstance(attention, Sequence) and any(map(is_map, attention)):
        msg = f"query draws one map and got {len(attention)}; take one by position or by name, such as layer=0."
        raise ChoiceError(msg)
    return map_of(attention, "query")


def _queries(query: Any) -> list[Any]:
    """Return a list of queries: a sequence holds several, unless it is the row and column of one."""
    query = query.tolist() if hasattr(query, "tolist") else query
    if isinstance(query, str) or not isinstance(query, Sequence) or is_cell(query):
        return [query]
    if not query:
        msg = "query=[] holds no query to draw; give one, such as query=(0, 0)."
        raise PositionError(msg)
    return list(query)


def _title(attention: AttentionMap, image: int, head: int | None) -> list[str]:
    """Return the lines of a title: those of `caption`, without a window."""
    if attention.windows == 1:
        return caption(attention, image, head)
    words = [f"image {image}"] if attention.images > 1 else []
    return [*layer_name(attention), ", ".join([*words, head_name(attention, head)])]


def _query_name(attention: AttentionMap, places: Sequence[tuple[int, int]]) -> str:
    """Return the line of a title that names the queries, given as (position, sample) pairs."""
    if len(places) > 1:
        return f"mean of {len(places)} queries"
    ((position, at),) = places
    window = f" in window {at % attention.windows}" if attention.windows > 1 else ""
    return f"query {attention.queries.label(position, at)}{window}"
