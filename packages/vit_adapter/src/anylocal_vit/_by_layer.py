"""Recipes of statistics along the layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from anylocal.attention import AttentionMap, prefix_mass
from anylocal.attention import distance as distances
from anylocal.drawing import by_layer, draw_layers, layers_of, of_samples, uniform_of
from anylocal.errors import ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    return draw_layers(
        ax,
        lines,
        ylabel="attention weight\non prefix tokens",
        title=of_samples(layers, sample),
        legend="prefix token\n(mean of heads)",
    )


def distance(maps: Iterable[AttentionMap], *, sample: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the mean attention distance of each layer: a dot for each head, a line through their mean.

    A thin grey line is at the distance of uniform attention: the mean over all pairs of patches.

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
        uniform=by_layer(map(uniform_of, layers), distances, sample),
    )
