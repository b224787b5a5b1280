"""Recipes over one image: what a query attends to, all windows of a layer, and rollout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anylocal.attention import AttentionMap, AttentionMaps, Axis, Patches, PlacedPatches
from anylocal.attention import rollout as follow
from anylocal.drawing import (
    BACKGROUND,
    LEGEND,
    OPACITY,
    OVER_IMAGE,
    add_colorbar,
    array_of,
    caption,
    clipped,
    draw_overlay,
    draws,
    head_name,
    image_of,
    is_map,
    layer_name,
    map_of,
    new_axes,
    overlay_colormap,
    sample_name,
    sample_of,
    scale_of,
    seen,
    set_title,
    shrink,
    type_share,
)
from anylocal.errors import ChoiceError, OptionError, PositionError, StateError
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

    from anylocal.drawing import Cmap, ImageLike, Norm, Overlay, Pixels, Statistics, Weights


@draws("query")
def query(
    attention: AttentionMap | Sequence[AttentionMap],
    image: ImageLike,
    *,
    query: object,
    layer: int | str | None = None,
    sample: int | None = None,
    head: int | None = None,
    norm: Norm = None,
    cmap: Cmap = OVER_IMAGE,
    alpha: float = OPACITY,
    smooth: bool = False,
    threshold: float | None = None,
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
    image : Photograph, path, PIL.Image.Image, numpy.ndarray or torch.Tensor
        What the model saw: one image, or the complete batch. A file, or a photograph of another size, is prepared by
        the preprocessing of the captured model, as `photograph` does. A normalised image is scaled to its own range,
        or denormalised by `mean` and `std`. An image that the model pads may be given with or without the padding,
        which lies below and to the right and is grey.
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
        "linear" by default, or "sqrt", "log", "rank", or a norm of matplotlib's. The scale goes from 0 to a robust
        maximum of the patches, between their 98th and 99.5th percentile, for single patches may take fifty times as
        much as any other; the colorbar has a triangle where weights are clipped.
    cmap : str or matplotlib.colors.Colormap
        "plasma" by default: its lightness rises evenly, and it stands out on most photographs. On one whose own
        colours are warm, "viridis" stands out more, and so does either on a photograph in grey.
    alpha : float
        The opacity of the greatest weight, between 0 and 1. Opacity grows with the weight: the image keeps its colours
        where there is none, and fades to grey below weights.
    smooth : bool
        Whether to interpolate between the centres of patches (bicubic, each centre with its own weight); the patches as
        they are by default.
    threshold : float, optional
        Draw only the smallest set of patches that holds this share of the weight of all patches, such as 0.6.
    mean, std : float or sequence of float, optional
        The statistics that normalised the image: a number for each colour channel, or one for all.
    ax : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default. Prefix tokens, such as the class token, are cells below the image,
        inside the axes, with their weight written in them.
    colorbar : bool
        Whether to draw the legend of the scale, on a middle grey, as the prefix cells are.

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
    rows = asked(attention, queries_of(query), number)
    places = [(position, at) for at, positions in rows.items() for position in positions]
    ax, drawn = _row(
        mean_row(attention, rows, head),
        keys,
        pixels,
        marked=(attention.queries, places),
        title=[*_title(attention, number, head), query_name(attention, places)],
        options=_Options(norm, cmap, alpha, ax, smooth=smooth, threshold=threshold, colorbar=colorbar),
    )
    if attention.windows > 1:
        chosen = [at % attention.windows for at in rows]
        drawn.borders(regions(of_image(attention.keys, number, attention.windows), *chosen), clip=False)
    return ax


@draws("query")
def windows(
    attention: AttentionMap,
    image: ImageLike,
    *,
    query: object = None,
    sample: int | None = None,
    head: int | None = None,
    norm: Norm = None,
    cmap: Cmap = OVER_IMAGE,
    alpha: float = OPACITY,
    smooth: bool = False,
    threshold: float | None = None,
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
    norm, cmap, alpha, smooth, threshold, mean, std, ax, colorbar
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
        options=_Options(norm, cmap, alpha, ax, smooth=smooth, threshold=threshold, colorbar=colorbar),
    )
    # Queries are in one window each, while keys at an edge may be in several.
    parted = attention.queries if isinstance(attention.queries, PlacedPatches) else attention.keys
    borders = regions(of_image(parted, number, attention.windows))
    if not scattered(borders):
        drawn.borders(borders, clip=True)
    return ax


@draws("query")
def rollout(
    maps: Iterable[AttentionMap],
    image: ImageLike,
    *,
    query: object = None,
    sample: int | None = None,
    residual: float = 0.5,
    norm: Norm = None,
    cmap: Cmap = OVER_IMAGE,
    alpha: float = OPACITY,
    smooth: bool = False,
    threshold: float | None = None,
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
    norm, cmap, alpha, smooth, threshold, mean, std, ax, colorbar
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
        options=_Options(
            norm, cmap, alpha, ax, label="attention rollout", smooth=smooth, threshold=threshold, colorbar=colorbar
        ),
    )[0]


@dataclass(frozen=True)
class _Options:
    """The user's choices of how to draw."""

    norm: Norm
    cmap: Cmap
    alpha: float
    ax: Axes | None
    label: str = LEGEND
    smooth: bool = False
    threshold: float | None = None
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
    # The scale is that of the patches: a class token may have fifty times as much.
    scale = scale_of(options.norm, [keys.split(row)[1].ravel()])
    colours = overlay_colormap(options.cmap, options.alpha, threshold=options.threshold)
    ax = new_axes(options.ax)
    share = type_share(ax)
    drawn = draw_overlay(
        ax, row, keys, pixels, scale=scale, colours=colours, smooth=options.smooth, threshold=options.threshold
    )
    axis, places = marked
    for place in places:
        drawn.outline(axis, *place)
    if options.colorbar:
        bar = add_colorbar(drawn.heat, ax, options.label, extend=clipped([scale], [row]))
        bar.ax.set_facecolor(BACKGROUND)
        shrink(bar.ax, share)
    # A colorbar may have taken some of the axes' width.
    width = ax.bbox.width / ax.figure.dpi
    set_title(ax, [*title, *drawn_as(options.threshold, options.smooth)], share, width, packed=True)
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


def queries_of(query: Any) -> list[Any]:
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


def query_name(attention: AttentionMap, places: Sequence[tuple[int, int]]) -> str:
    """Return the line of a title that names the queries, given as (position, sample) pairs."""
    if len(places) > 1:
        return f"mean of {len(places)} queries"
    ((position, at),) = places
    window = f" in window {at % attention.windows}" if attention.windows > 1 else ""
    return f"query {attention.queries.label(position, at)}{window}"


def drawn_as(threshold: float | None, smooth: bool) -> list[str]:  # noqa: FBT001  # the recipes' own options
    """Return the words for what a picture leaves out or adds: without them, a bare patch looks like no attention."""
    words = [] if threshold is None else [f"fewest patches with {threshold:.0%} of the patches' weight"]
    return [*words, *(["interpolated"] if smooth else [])]
