"""Recipes: pictures of what patches attend to, over the image.

The image is below, in grey, and the weights of the patches lie over it, exactly where the model saw them. Prefix
tokens cover no pixels: they are cells beside the image, on the same scale. The recipes of `anylocal.plot` are here
as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anylocal import _draw
from anylocal.attention import AttentionMap, Patches
from anylocal.attention import rollout as follow
from anylocal.errors import StateError
from anylocal.plot import heads, heatmap
from anylocal_vit._overlay import BACKGROUND, overlay, seen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anylocal._draw import Cmap, Norm, Weights
    from anylocal.attention import Axis
    from anylocal_vit._image import ImageLike, Pixels, Statistics

__all__ = ["heads", "heatmap", "query", "rollout"]

ALPHA = 0.6
"""Opaque enough to tell weights apart, and the image shows through."""


def query(
    attention: AttentionMap,
    image: ImageLike,
    *,
    query: object,
    sample: int | None = None,
    head: int | None = None,
    norm: Norm = None,
    cmap: Cmap = _draw.CMAP,
    alpha: float = ALPHA,
    mean: Statistics = None,
    std: Statistics = None,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw what one query attends to, over the image.

    The query patch is outlined in black and white, as is the cell of a query that is a prefix token.

    Parameters
    ----------
    attention : AttentionMap
        Its keys must be `Patches`.
    image : torch.Tensor, numpy.ndarray, PIL.Image.Image or Photograph
        What the model saw, in its size: one image, or the whole batch. A normalised one is drawn between its
        own extremes, or put back by `mean` and `std`.
    query : (int, int), int or str
        Row and column of a patch, a position, or the name of a prefix token.
    sample : int, optional
        Which sample of the batch; a batch of one needs none.
    head : int, optional
        Which head; the mean over heads by default.
    norm : matplotlib.colors.Normalize or str, optional
        The scale of patches and prefix tokens, from 0 to the greatest weight of the query by default.
    cmap : str or matplotlib.colors.Colormap
        "magma" by default: what gets no attention goes dark, and lightness rises evenly with the weight.
    alpha : float
        How much the weights cover the image, between 0 and 1.
    mean, std : float or sequence of float, optional
        What the image was normalised by: a number for each colour, or one for all.
    ax : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default. The prefix cells are an inset to the left of it.
    colorbar : bool
        Whether to draw the legend of the scale. It lies over a middle grey, as the prefix cells do.

    Returns
    -------
    matplotlib.axes.Axes
        Its units are pixels. The weights of the patches are the array of ``ax.images[1]``, the image is below.

    Raises
    ------
    ShapeError
        Where the image has another size than the model saw, or the keys are no patches of an image.
    ChoiceError
        Where the batch holds several samples and none was chosen, or several maps were given.
    OptionError
        Where `attention` is no map, or `mean` and `std` do not fit the image.
    PositionError, NameNotFoundError
        Where there is no such sample, head or query.
    UnsupportedError
        Where the layer attends within windows.

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
    sample = _draw.sample_of(_draw.map_of(attention, "query"), sample)
    keys, pixels = seen(attention, image, sample, mean, std)
    position = attention.queries.position(query, sample)
    return _row(
        _draw.rows_of(attention, sample, head, [position])[0],
        keys,
        pixels,
        marked=(attention.queries, position),
        title=[*_draw.caption(attention, sample, head), f"query {attention.queries.label(position, sample)}"],
        options=_Options(norm, cmap, alpha, ax, colorbar=colorbar),
    )


def rollout(
    maps: Iterable[AttentionMap],
    image: ImageLike,
    *,
    query: object = None,
    sample: int | None = None,
    residual: float = 0.5,
    norm: Norm = None,
    cmap: Cmap = _draw.CMAP,
    alpha: float = ALPHA,
    mean: Statistics = None,
    std: Statistics = None,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw the attention rollout of one query of the last layer, followed back to the image.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The self-attention layers of one forward, first layer first.
    image
        See `query`.
    query : (int, int), int or str, optional
        ``"cls"`` by default, position 0 where there is no such token.
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
        As `query`, and where the layers cannot be multiplied.
    StateError
        Where there is no map.

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
    layers = [_draw.map_of(layer, "rollout") for layer in maps]
    if not layers:
        msg = "There is no map to roll out; run the model inside the capture first."
        raise StateError(msg)
    last = layers[-1]
    sample = _draw.sample_of(last, sample)
    keys, pixels = seen(last, image, sample, mean, std)
    position = keys.position(("cls" if "cls" in keys.prefix else 0) if query is None else query)
    return _row(
        _draw.array_of(follow(layers, residual=residual, queries=position)[sample]),
        keys,
        pixels,
        marked=(keys, position),
        title=[
            ", ".join([f"rollout of {len(layers)} layer{'s' * (len(layers) > 1)}", *_draw.sample_name(last, sample)]),
            f"query {keys.label(position)}",
        ],
        options=_Options(norm, cmap, alpha, ax, label="attention rollout", colorbar=colorbar),
    )


@dataclass(frozen=True)
class _Options:
    """What the user chose of how to draw."""

    norm: Norm
    cmap: Cmap
    alpha: float
    ax: Axes | None
    label: str = _draw.LEGEND
    colorbar: bool = True


def _row(
    row: Weights, keys: Patches, pixels: Pixels, *, marked: tuple[Axis, int], title: Sequence[str], options: _Options
) -> Axes:
    """Draw one query's weights over the image, and mark the query."""
    scale = _draw.shared_norm(options.norm, [row])
    ax = _draw.new_axes(options.ax)
    drawn = overlay(ax, row, keys, pixels, norm=scale, cmap=options.cmap, alpha=options.alpha)
    drawn.outline(*marked)
    ax.set_title("\n".join(title))
    if options.colorbar:
        bar = _draw.add_colorbar(drawn.heat, ax, options.label)
        bar.ax.set_facecolor(BACKGROUND)
    return ax
