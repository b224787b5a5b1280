"""Recipes of several panels over one image: all heads of a layer, all layers, and layers × heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from anylocal.attention import AttentionMap
from anylocal.drawing import (
    OPACITY,
    OVER_IMAGE,
    Look,
    Panel,
    draw_panels,
    draws,
    head_name,
    image_of,
    inside,
    layers_of,
    map_of,
    new_figure,
    row_names,
    seen,
)
from anylocal.errors import OptionError
from anylocal_vit._over_image import drawn_as, queries_of, query_name
from anylocal_vit._windows import asked, mean_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from anylocal.drawing import Cmap, ImageLike, Norm, Pixels, Share, Statistics


@draws("query")
def over_heads(
    attention: AttentionMap,
    image: ImageLike,
    *,
    query: object = "cls",
    sample: int | None = None,
    norm: Norm = None,
    share: Share = "head",
    cmap: Cmap = OVER_IMAGE,
    alpha: float = OPACITY,
    smooth: bool = False,
    threshold: float | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    columns: int | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw what one query attends to over the image, in every head of a layer, and the mean of the heads.

    This is the picture of the class token's heads that DINO made known (Caron et al., "Emerging Properties in
    Self-Supervised Vision Transformers", ICCV 2021); with ``threshold=0.6``, the one of its masks.

    Parameters
    ----------
    attention : AttentionMap
        Its keys must be `Patches` or `PlacedPatches`.
    image : Photograph, path, PIL.Image.Image, numpy.ndarray or torch.Tensor
        What the model saw; see `query`.
    query : (int, int), int or str, or sequence of them
        The class token by default; see `query`.
    sample : int, optional
        Which image of the batch; a batch of one needs none.
    norm : matplotlib.colors.Normalize or str, optional
        See `query`.
    share : {"head", "all", "layer"}
        Which panels share a scale. By default each has its own, whose top, 1 on the colorbar, is written in the panel:
        every panel can be read. One scale for all compares the heads with each other.
    cmap, alpha, smooth, threshold, mean, std
        See `query`.
    columns : int, optional
        Panels in a row; by default as many as make the panels largest.
    figure : matplotlib.figure.Figure or SubFigure, optional
        An empty one to draw into; by default a new one, as wide as the rcParams say and as high as the panels are.

    Returns
    -------
    matplotlib.figure.Figure
        Its ``axes`` are the heads, the mean (of more than one head), the bare image where the last row has a place
        left, and the colorbar.

    Raises
    ------
    ShapeError, ChoiceError, OptionError, PositionError, NameNotFoundError, UnsupportedError
        As `query`; and if `share` is unknown, or the panels do not fit into the figure.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches
    >>> from anylocal_vit import plot
    >>> patches = Patches(grid=(2, 3), image_size=(32, 48))
    >>> attention = AttentionMap.from_weights(torch.rand(1, 2, 7, 7).softmax(-1), queries=patches, keys=patches)
    >>> figure = plot.over_heads(attention, torch.rand(3, 32, 48), query="cls")
    >>> [ax.get_title() for ax in figure.axes[:3]]
    ['head 0', 'head 1', 'mean']
    """
    attention = map_of(attention, "over_heads")
    number = image_of(attention, sample)
    heads = range(attention.shape[1])
    chosen: list[int | None] = [*heads, *([None] if len(heads) > 1 else [])]
    panels, pixels, named = _panels(attention, image, query, number, chosen, (mean, std))
    titled = [
        Panel(panel.row, panel.keys, "mean" if head is None else f"head {head}", marked=panel.marked)
        for panel, head in zip(panels, chosen, strict=True)
    ]
    heading = ", ".join(
        filter(None, [attention.name, _image_name([attention], number), named, *drawn_as(threshold, smooth)])
    )
    look = Look(pixels, norm, cmap, alpha, share, smooth, threshold)
    return _drawn(titled, look, figure, heading, columns=columns)


@draws("query")
def over_layers(
    maps: Iterable[AttentionMap],
    image: ImageLike,
    *,
    query: object = "cls",
    head: int | None = None,
    layers: Sequence[int] | None = None,
    sample: int | None = None,
    norm: Norm = None,
    share: Share = "head",
    cmap: Cmap = OVER_IMAGE,
    alpha: float = OPACITY,
    smooth: bool = False,
    threshold: float | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    columns: int | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw what one query attends to over the image, in every layer: one head, or the mean of the heads.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The layers of one forward pass, first layer first.
    image, query
        See `over_heads`.
    head : int, optional
        Which head of each layer; the mean over heads by default.
    layers : sequence of int, optional
        Which of the maps, by index; all by default.
    sample, norm, cmap, alpha, smooth, threshold, mean, std, columns, figure
        See `over_heads`.
    share : {"head", "all", "layer"}
        Which panels share a scale: each has its own by default.

    Returns
    -------
    matplotlib.figure.Figure
        Its ``axes`` are the layers, the bare image where the last row has a place left, and the colorbar.

    Raises
    ------
    StateError
        If `maps` is empty.
    ShapeError, ChoiceError, OptionError, PositionError, NameNotFoundError, UnsupportedError
        As `over_heads`, and if the maps belong to several forward passes.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches
    >>> from anylocal_vit import plot
    >>> patches = Patches(grid=(2, 3), image_size=(32, 48))
    >>> options = {"queries": patches, "keys": patches}
    >>> maps = [AttentionMap.from_weights(torch.rand(1, 2, 7, 7).softmax(-1), **options) for _ in range(3)]
    >>> figure = plot.over_layers(maps, torch.rand(3, 32, 48), query=(0, 2))
    >>> [ax.get_title() for ax in figure.axes[:3]]
    ['layer 0', 'layer 1', 'layer 2']
    """
    chosen = _chosen(maps, layers, "over_layers")
    numbers, common = row_names(chosen, 0.0, 1)
    panels = []
    pixels = named = None
    for index, (attention, number) in enumerate(zip(chosen, numbers, strict=True)):
        at = image_of(attention, sample)
        (panel,), pixels, named = _panels(attention, image, query, at, [head], (mean, std), layer=index)
        panels.append(Panel(panel.row, panel.keys, f"layer {number}", index, panel.marked))
    assert pixels is not None
    which = head_name(chosen[0], head)
    heading = ", ".join(
        filter(
            None, [common, _image_name(chosen, image_of(chosen[0], sample)), named, which, *drawn_as(threshold, smooth)]
        )
    )
    look = Look(pixels, norm, cmap, alpha, share, smooth, threshold)
    return _drawn(panels, look, figure, heading, columns=columns)


@draws("query")
def grid(
    maps: Iterable[AttentionMap],
    image: ImageLike,
    *,
    query: object = "cls",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    sample: int | None = None,
    norm: Norm = None,
    share: Share = "head",
    cmap: Cmap = OVER_IMAGE,
    alpha: float = OPACITY,
    smooth: bool = False,
    threshold: float | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw what one query attends to over the image, in every head of every layer: a row of panels for each layer.

    In a figure that is wider than high, layers run along x, and heads along y.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The layers of one forward pass, first layer first.
    image, query
        See `over_heads`.
    layers : sequence of int, optional
        Which of the maps, by index; all by default.
    heads : sequence of int, optional
        Which heads of each; by default all that every layer has.
    sample, norm, cmap, alpha, smooth, threshold, mean, std, figure
        See `over_heads`.
    share : {"head", "all", "layer"}
        Which panels share a scale: each has its own by default; those of a layer; all.

    Returns
    -------
    matplotlib.figure.Figure
        Its ``axes`` are the panels, row by row, and the colorbar.

    Raises
    ------
    StateError
        If `maps` is empty.
    ShapeError, ChoiceError, OptionError, PositionError, NameNotFoundError, UnsupportedError
        As `over_heads`, and if the maps belong to several forward passes.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches
    >>> from anylocal_vit import plot
    >>> patches = Patches(grid=(2, 3), image_size=(32, 48))
    >>> options = {"queries": patches, "keys": patches}
    >>> maps = [AttentionMap.from_weights(torch.rand(1, 2, 7, 7).softmax(-1), **options) for _ in range(3)]
    >>> figure = plot.grid(maps, torch.rand(3, 32, 48), layers=[0, 2])
    >>> len(figure.axes)
    5
    """
    chosen = _chosen(maps, layers, "grid")
    numbers, common = row_names(chosen, 0.0, 1)
    columns = list(range(min(layer.shape[1] for layer in chosen))) if heads is None else list(heads)
    rows: list[list[Panel]] = []
    pixels = named = None
    for index, attention in enumerate(chosen):
        at = image_of(attention, sample)
        panels, pixels, named = _panels(attention, image, query, at, columns, (mean, std), layer=index)
        rows.append(panels)
    assert pixels is not None
    names = [f"layer {number}" for number in numbers], [f"head {head}" for head in columns]
    if figure is not None and figure.bbox.width > figure.bbox.height and len(rows) > len(columns):
        rows, names = [list(panels) for panels in zip(*rows, strict=True)], names[::-1]
    heading = ", ".join(
        filter(None, [common, _image_name(chosen, image_of(chosen[0], sample)), named, *drawn_as(threshold, smooth)])
    )
    look = Look(pixels, norm, cmap, alpha, share, smooth, threshold)
    return _drawn([panel for row in rows for panel in row], look, figure, heading, columns=len(rows[0]), sides=names)


def _chosen(maps: Iterable[AttentionMap], layers: Sequence[int] | None, recipe: str) -> list[AttentionMap]:
    known = layers_of(maps, recipe)
    return known if layers is None else [known[inside(layer, len(known), "layer")] for layer in layers]


def _panels(  # noqa: PLR0917  # each says which row of which map
    attention: AttentionMap,
    image: ImageLike,
    query: object,
    number: int,
    heads: Sequence[int | None],
    statistics: tuple[Statistics, Statistics],
    *,
    layer: int = 0,
) -> tuple[list[Panel], Pixels, str]:
    """Return a panel for each head, the image, and the words for the query."""
    keys, pixels = seen(attention, image, number, *statistics)
    rows = asked(attention, queries_of(query), number)
    places = [(position, at) for at, positions in rows.items() for position in positions]
    marked = attention.queries, places
    panels = [Panel(mean_row(attention, rows, head), keys, layer=layer, marked=marked) for head in heads]
    return panels, pixels, query_name(attention, places)


def _image_name(layers: Sequence[AttentionMap], number: int) -> str:
    return f"image {number}" if layers[0].images > 1 else ""


def _drawn(
    panels: Sequence[Panel],
    look: Look,
    figure: Figure | None,
    heading: str,
    *,
    columns: int | None = None,
    sides: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Figure:
    drawn = new_figure() if figure is None else figure
    if figure is None:
        # Everything is placed here.
        drawn.set_layout_engine("none")
    try:
        draw_panels(panels, look, drawn, fit_height=figure is None, heading=heading, columns=columns, sides=sides)
    except OptionError:
        if figure is None:
            from matplotlib.pyplot import close

            close(drawn)
        raise
    return drawn
