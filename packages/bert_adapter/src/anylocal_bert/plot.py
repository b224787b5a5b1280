"""Recipes: pictures of what tokens attend to.

The recipes of `anylocal.plot` are here as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Rectangle

from anylocal.attention import AttentionMap, Tokens
from anylocal.errors import ShapeError
from anylocal.plot import difference, entropy, heads, heatmap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize

__all__ = ["difference", "entropy", "heads", "heatmap", "tokens"]

PADDING = "0.6"
"""The grey of padding, in matplotlib's notation: no color of the default colormap."""


def tokens(
    attention: AttentionMap,
    *,
    sample: int | None = None,
    head: int | None = None,
    queries: str | int | Sequence[object] | None = None,
    norm: Normalize | str | None = None,
    cmap: str | Colormap = "magma",
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw which tokens attend to which: a row for each query, a column for each key, padding in grey.

    What padding attends to means nothing, and it gets no attention: its rows and columns are covered.

    Parameters
    ----------
    attention : AttentionMap
        Its keys must be `Tokens`.
    sample : int, optional
        Which text of the batch; a batch of one needs none.
    head : int, optional
        Which head; the mean over heads by default.
    queries : str, int or sequence, optional
        Which rows, by token or position; all by default.
    norm : matplotlib.colors.Normalize or str, optional
        The scale, from 0 to the greatest weight drawn by default.
    cmap : str or matplotlib.colors.Colormap
        "magma" by default.
    ax : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.
    colorbar : bool
        Whether to draw the legend of the scale.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ShapeError
        Where the keys are no tokens.
    ChoiceError
        Where the batch holds several texts and none was chosen.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Tokens
    >>> axis = Tokens(["[CLS]", "hi", "[PAD]"], padding=[False, False, True])
    >>> ax = tokens(AttentionMap.from_weights(torch.eye(3), queries=axis, keys=axis))
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['[CLS]', 'hi', '[PAD]']
    """
    if not isinstance(attention.keys, Tokens):
        msg = f"The keys of {attention.name!r} are no tokens. Capture with tokenizer=…, or draw it with heatmap."
        raise ShapeError(msg)
    ax = heatmap(attention, sample=sample, head=head, queries=queries, norm=norm, cmap=cmap, ax=ax, colorbar=colorbar)
    _cover(ax, attention.keys.is_padding(sample or 0), axis="x")
    if queries is None and isinstance(attention.queries, Tokens):
        _cover(ax, attention.queries.is_padding(sample or 0), axis="y")
    return ax


def _cover(ax: Axes, padding: Sequence[bool] | np.ndarray[tuple[int, ...], np.dtype[np.bool_]], *, axis: str) -> None:
    """Lay grey over the rows or columns of padding."""
    height, width = ax.images[0].get_array().shape[:2]  # type: ignore[union-attr]  # heatmap has drawn it
    for position in np.flatnonzero(padding):
        corner, size = ((position - 0.5, -0.5), (1, height)) if axis == "x" else ((-0.5, position - 0.5), (width, 1))
        ax.add_patch(Rectangle(corner, *size, facecolor=PADDING, edgecolor="none", gid="padding"))
