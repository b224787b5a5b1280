"""Recipes: pictures of the attention of tokens, and the recipes of `anylocal.plot`.

`queries=` chooses any number of rows, `query=` the one token that a picture is about. Scales are for words: special
tokens, on which most heads rest, may go beyond them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Rectangle

from anylocal.attention import AttentionMap, Tokens, merge_words
from anylocal.attention import rollout as follow
from anylocal.drawing import (
    LEGEND,
    LINE,
    PADDING,
    Drawn,
    array_of,
    caption,
    clipped,
    colormap_of,
    draw_matrix,
    draws,
    is_map,
    map_of,
    named,
    of_map,
    place_of,
    printable,
    room,
    rows_of,
    sample_name,
    sample_of,
    scale_of,
    scale_of_matrices,
    set_title,
    short,
    type_share,
)
from anylocal.errors import OptionError, PositionError, ShapeError, StateError
from anylocal.plot import difference, entropy, heads, heatmap, model
from anylocal_bert._columns import (
    LONGEST,
    add_legend,
    draw_bars,
    draw_behind,
    draw_lines,
    name_columns,
    name_lines,
    reach,
    tall_axes,
)
from anylocal_bert._columns import strongest as strongest_of
from anylocal_bert._over_frames import over_frames
from anylocal_bert._over_image import over_image, over_words
from anylocal_bert._sides import attends_across, real, tokens_of, words_of
from anylocal_bert._spectrogram import spectrogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes

    from anylocal.adapter import Flags
    from anylocal.attention import MapArray
    from anylocal.drawing import Cmap, Norm, Weights

__all__ = [
    "cross",
    "difference",
    "entropy",
    "heads",
    "heatmap",
    "lines",
    "model",
    "over_frames",
    "over_image",
    "over_words",
    "rollout",
    "spectrogram",
    "tokens",
]


def __dir__() -> list[str]:
    return __all__


PAPER = "magma_r"
"""The default colormap of lines, from the white of paper for low weights to dark for high ones."""

STRONGEST = 60
"""How many lines a picture has at most by default; the eye cannot follow more."""

NAMED = 5
"""How many of the strongest lines have names at their ends before special tokens have."""

FAINT, FEWEST = 0.2, 5
"""By default lines of one query with less than this share of its greatest weight on a word are left out, but not of
these few strongest."""


@draws("queries")
def tokens(
    attention: MapArray,
    *,
    sample: int | None = None,
    head: int | None = None,
    queries: str | int | slice | Sequence[object] | None = None,
    norm: Norm = None,
    cmap: Cmap | None = None,
    ax: Axes | None = None,
    colorbar: bool = True,
    words: bool = False,
) -> Axes:
    """Draw which tokens attend to which: a row for each query, a column for each key, padding in grey.

    Attention from padding is meaningless, and padding gets none: its rows and columns are covered and do not count for
    the scale. A thin line marks the start of a further sentence, if the tokens have `segments`. A few rows of a long
    text are no higher than a line of text.

    Parameters
    ----------
    attention : AttentionMap, or what arithmetic makes of maps
        Its keys must be `Tokens`.
    sample : int, optional
        Which text of the batch (of a layer of windows, which window); a batch of one needs none.
    head : int, optional
        Which head; the mean over heads by default.
    queries : str, int, slice or sequence, optional
        Which rows, by token or position; all by default.
    norm : matplotlib.colors.Normalize or str, optional
        The scale, as in `heatmap`: "linear", "sqrt", "log", "rank", or a scale of your own. It is for words; attention
        to special tokens, or from them, may lie beyond its top, which a triangle on the colorbar shows.
    cmap : str or matplotlib.colors.Colormap
        "magma" by default, and "coolwarm" for what arithmetic makes of maps where it goes below 0; see `heatmap`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    colorbar : bool
        Whether to draw the legend of the scale.
    words : bool
        Whether to merge the tokens of each word (see `anylocal.attention.merge_words`); `queries` are words then.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ShapeError
        If the keys are not tokens.
    ChoiceError
        If the batch holds several texts and none was chosen, or several maps were given.
    PositionError, NameNotFoundError
        If the text, head or query does not exist.
    OptionError
        If `attention` is not a map, or `heatmap` would refuse the scale or the colormap.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Tokens
    >>> axis = Tokens(["[CLS]", "hi", "[PAD]"], padding=[False, False, True])
    >>> ax = tokens(AttentionMap.from_weights(torch.eye(3), queries=axis, keys=axis))
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['[CLS]', 'hi', '[PAD]']
    """
    attention = map_of(attention, "tokens")
    if not isinstance(attention.keys, Tokens):
        msg = f"The keys of {attention.name!r} are not tokens. Capture with tokenizer=…, or draw it with heatmap."
        raise ShapeError(msg)
    at = sample_of(attention, sample)
    if words:
        merged = of_map(merge_words(attention, sample=at), None, head, queries)
        # The merged map is a batch of one, so that the caption must come from the map before.
        drawn = replace(merged, title="\n".join(caption(attention, at, head)))
    else:
        drawn = of_map(attention, at, head, queries)
    ax = _draw_tokens(drawn, norm, cmap, ax, colorbar=colorbar)
    columns = range(drawn.weights.shape[1])
    for axis, positions, direction in ((drawn.keys, columns, "x"), (drawn.queries, drawn.rows, "y")):
        if isinstance(axis, Tokens):
            segments = axis.segments(drawn.text)
            _separate(ax, [segments[position] for position in positions], axis=direction)
    return ax


@draws("queries")
def cross(
    attention: AttentionMap,
    *,
    sample: int | None = None,
    head: int | None = None,
    queries: str | int | slice | Sequence[object] | None = None,
    norm: Norm = None,
    cmap: Cmap | None = None,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw cross-attention: a row for each token of the decoder's text, a column for each token of the encoder's.

    Padding is covered in grey, as in `tokens`.

    Parameters
    ----------
    attention : AttentionMap
        A layer of cross-attention, whose queries and keys must be `Tokens`.
    sample, head, queries, norm, cmap, ax, colorbar
        See `tokens`.

    Returns
    -------
    matplotlib.axes.Axes
        The weights are the array of its only image, ``ax.images[0]``.

    Raises
    ------
    ShapeError
        If the queries or the keys are not tokens, or belong to one text.
    ChoiceError, PositionError, NameNotFoundError, OptionError
        See `tokens`.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Tokens
    >>> source, target = Tokens(["good", "day", "</s>"]), Tokens(["guten", "Tag"])
    >>> attention = AttentionMap.from_weights(torch.eye(3)[:2], queries=target, keys=source)
    >>> ax = cross(attention)
    >>> ax.get_ylabel(), ax.get_xlabel(), ax.images[0].get_array().shape
    ('target token', 'source token', (2, 3))
    """
    attention = map_of(attention, "cross")
    tokens_of(attention, "or draw it with heatmap")
    if not attends_across(attention):
        msg = f"{attention!r} is self-attention: its queries and keys belong to one text. Draw it with tokens."
        raise ShapeError(msg)
    ax = _draw_tokens(of_map(attention, sample, head, queries), norm, cmap, ax, colorbar=colorbar)
    ax.set(xlabel="source token", ylabel="target token")
    return ax


@draws("query")
def lines(
    attention: AttentionMap,
    *,
    query: str | int | None = None,
    strongest: int | None = None,
    sample: int | None = None,
    head: int | None = None,
    norm: Norm = None,
    cmap: Cmap = PAPER,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw weights as lines, from the queries in a column on the left to the keys on the right.

    The greater a weight, the darker and wider its line; strong lines lie on top. Padding is left out. Without a query,
    the lines are those between words: special tokens, on which most heads rest, have thin grey ones behind them. Where
    not all tokens have room for a label, the ends of the strongest lines have one. Lines remain vectors in PDF and SVG.

    Parameters
    ----------
    attention : AttentionMap
        Its queries and keys must be `Tokens`, of one text or, in cross-attention, of two.
    query : str or int, optional
        The token, or its position, whose lines are drawn; those of all tokens by default.
    strongest : int, optional
        How many lines are drawn at most: those of the greatest weights. By default 60, and of one query, beyond the
        five strongest, none below a fifth of its greatest weight on a word. The title tells how many of how many are
        drawn. Weights of 0 have no line. Grey lines do not count: they are those of weights as great as the least of
        these.
    sample, head
        See `tokens`.
    norm : matplotlib.colors.Normalize or str, optional
        The scale of colours and widths, as in `heatmap`, for the weights drawn between words: that of a special token
        may lie beyond its top.
    cmap : str or matplotlib.colors.Colormap
        "magma_r" by default, whose lightness falls evenly with the weight: low weights are pale on white paper. On a
        dark background, use "magma".
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure, tall enough for a token on each line.
    colorbar : bool
        Whether to draw the legend of the scale, below.

    Returns
    -------
    matplotlib.axes.Axes
        The lines are ``ax.collections[0]``, the strongest last: ``get_segments()`` go from (0, row of the query) to
        (1, row of the key), and ``get_array()`` holds the weights. Grey ones are ``ax.collections[1]``.

    Raises
    ------
    ShapeError
        If the queries or the keys are not tokens.
    ChoiceError
        If the batch holds several texts and none was chosen, several maps were given, or `query` occurs twice.
    PositionError, NameNotFoundError
        If the text, head or query does not exist, or the query or the whole text is padding.
    OptionError
        If `strongest` is not positive, `attention` is not a map, or `heatmap` would refuse the scale or the colormap.

    Notes
    -----
    After J. Vig, "A Multiscale Visualization of Attention in the Transformer Model", ACL 2019.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Tokens
    >>> axis = Tokens(["[CLS]", "hi", "[SEP]"])
    >>> weights = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])
    >>> ax = lines(AttentionMap.from_weights(weights, queries=axis, keys=axis), query="hi", strongest=2)
    >>> [segment.tolist() for segment in ax.collections[0].get_segments()]
    [[[0.0, 1.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 2.0]]]
    """
    attention = map_of(attention, "lines")
    queries, keys = tokens_of(attention, "or draw it with heatmap")
    if strongest is not None and strongest < 1:
        msg = f"strongest={strongest!r} is not a number of lines; pass 1 or more."
        raise OptionError(msg)
    at = sample_of(attention, sample)
    text = place_of(attention, at)
    left, right = _all_real(queries, text), _all_real(keys, text)
    asked = left if query is None else [_real_query(queries, query, text)]
    weights = rows_of(attention, at, head, asked)[:, right]
    if (weights < 0).any():
        msg = f"lines draws attention weights, and those of {attention!r} go below 0; draw differences with tokens."
        raise OptionError(msg)
    counted = np.logical_and.outer(words_of(queries, asked, text), words_of(keys, right, text))
    candidates = counted if query is None else np.ones_like(counted)
    least = 0.0
    if strongest is None and query is not None:
        least = min(FAINT * weights[counted].max(), np.sort(weights[0])[-FEWEST:].min())
    drawn = strongest_of(np.where(candidates & (weights >= least), weights, 0), strongest or STRONGEST)
    # With 0, from which a scale given without limits starts.
    scale = scale_of(norm, [np.array([0.0, *(weights[place] for place in drawn if counted[place])])])
    colours = colormap_of(cmap)
    ax = tall_axes(ax, max(len(left), len(right)))
    share, width = type_share(ax), ax.bbox.width / ax.figure.dpi
    lefts = [left.index(position) for position in asked]
    found = draw_lines(ax, weights, drawn, lefts, norm=scale, cmap=colours)
    chosen = [] if query is None else [_query_name(queries, asked[0], text)]
    number, label = f"{len(drawn)} strongest of {candidates.sum()} weights", LEGEND
    ends = drawn
    if not candidates.all():
        least = weights[drawn[0]] if drawn else 0
        behind = strongest_of(np.where(candidates | (weights < least), 0, weights), None)
        draw_behind(ax, behind, lefts)
        number, label = number.replace("weights", "between words"), f"{LEGEND}\n(grey: special tokens, not to scale)"
        # Without the names of the keys in which grey lines end, the next name would be taken for theirs. The last ends
        # are the first to be named, and those of the strongest lines matter most.
        special = ~words_of(keys, right, text)
        ends = [*((row, column) for column, row in {c: r for r, c in behind if special[c]}.items()), *drawn[-NAMED:]]
        ends = [*drawn[:-NAMED], *ends]
    name_columns(ax, (queries, left), (keys, right), text, [(lefts[row], column) for row, column in ends])
    set_title(ax, [", ".join(caption(attention, at, head)), ", ".join([*chosen, number])], share, width)
    if colorbar:
        beyond = clipped([scale], [found.get_array()])
        if beyond in {"max", "both"}:
            most = f"(max {short(max(weights[place] for place in drawn))})"
            label = label.replace("\n(", f" {most}\n(") if "\n" in label else f"{label} {most}"
        add_legend(found, ax, label, beyond)
    return ax


@draws("query")
def rollout(
    maps: Iterable[AttentionMap],
    *,
    query: str | int | None = None,
    sample: int | None = None,
    residual: float = 0.5,
    norm: Norm = None,
    color: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the attention rollout from one query of the last layer to the input: a bar for each token.

    The axis ends at the greatest value of a word, or of another token that has little more. A longer bar, such as that
    of ``[CLS]``, is broken off there, and its value is written beside it. Padding is covered in grey. Where not all
    labels have room, the five longest bars are among those that have one.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The self-attention layers of one forward pass, first layer first. Their positions must be `Tokens`.
    query : str or int, optional
        A token, or its position; by default the first that is not padding, ``[CLS]`` in a BERT, or the last one where
        the first sees only itself, as in a decoder.
    sample : int, optional
        Which text of the batch; a batch of one needs none.
    residual : float, default 0.5
        The share of the residual connection; see `anylocal.attention.rollout`.
    norm : matplotlib.colors.Normalize or str, optional
        The scale of lengths, as in `heatmap`.
    color : str, optional
        The colour of the bars, the first of the rcParams' cycle by default.
    ax
        See `lines`.

    Returns
    -------
    matplotlib.axes.Axes
        The bars are ``ax.containers[0]``, the first token on top.

    Raises
    ------
    ShapeError
        If the positions are not tokens, or the layers cannot be multiplied.
    ChoiceError
        If the batch holds several texts and none was chosen, the maps belong to several forward passes, or `query`
        occurs twice.
    PositionError, NameNotFoundError
        If the text or query does not exist, or the query or the whole text is padding.
    OptionError, StateError, UnsupportedError
        If an item is not a map, `residual` is not between 0 and 1, `heatmap` would refuse the scale, no map was
        given, or a layer attends within windows.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Tokens
    >>> axis = Tokens(["[CLS]", "hi"])
    >>> layers = [AttentionMap.from_weights(torch.full((2, 2), 0.5), queries=axis, keys=axis)] * 2
    >>> ax = rollout(layers, query="hi")
    >>> [round(float(bar.get_width()), 4) for bar in ax.containers[0]]
    [0.375, 0.625]
    """
    layers = [maps] if is_map(maps) else [map_of(layer, "rollout") for layer in maps]
    if not layers:
        msg = "No map to roll out; run the model inside the capture first."
        raise StateError(msg)
    last = layers[-1]
    axis, _ = tokens_of(last, "or use anylocal.attention.rollout")
    at = sample_of(last, sample)
    text = place_of(last, at)
    position = _default_query(last, axis, at, text) if query is None else _real_query(axis, query, text)
    row: Weights = array_of(follow(layers, residual=residual, queries=position)[at])
    scale = scale_of(norm, [row[words_of(axis, range(len(row)), text)]])
    if norm in {None, "linear", "sqrt", "log"}:
        reach(scale, row)
    ax = tall_axes(ax, len(row))
    share, width = type_share(ax), ax.bbox.width / ax.figure.dpi
    draw_bars(ax, row, scale, color)
    size = room(ax.bbox.height, ax, 7) / (len(row) * LINE)
    name_lines(ax.yaxis, "key", axis, range(len(row)), text, size=size, first=np.argsort(-row).tolist())
    ax.set(xlabel="attention rollout", ylabel="token")
    for place in np.flatnonzero(axis.is_padding(text)):
        ax.axhspan(place - 0.5, place + 0.5, facecolor=PADDING, edgecolor="none", gid="padding")
    number = f"rollout of {len(layers)} layer{'s' * (len(layers) > 1)}"
    lines = [", ".join([number, *sample_name(last, at)]), _query_name(axis, position, text)]
    set_title(ax, lines, share, width)
    return ax


def _draw_tokens(drawn: Drawn, norm: Norm, cmap: Cmap | None, ax: Axes | None, *, colorbar: bool) -> Axes:
    """Draw a matrix with the rows and columns of padding covered, on a scale for the words."""
    rows, columns = drawn.padding
    counted = [flags & ~hidden for flags, hidden in zip(drawn.flags, (rows, columns), strict=True)]
    scale, colours, label = scale_of_matrices(norm, cmap, drawn, [drawn.weights[np.ix_(*counted)]])
    visible = drawn.weights[np.ix_(~rows, ~columns)]
    ax = draw_matrix(drawn, scale, colours, ax, colorbar=colorbar, label=named(label, norm), visible=visible)
    _cover(ax, columns, axis="x")
    _cover(ax, rows, axis="y")
    return ax


def _default_query(attention: AttentionMap, axis: Tokens, sample: int, text: int) -> int:
    """Return the first position that is not padding; where it sees only itself, the last."""
    first, *_, last = _all_real(axis, text) * 2
    row = attention[sample, :, first]
    return first if bool(row[:, :first].any() or row[:, first + 1 :].any()) else last


def _all_real(axis: Tokens, text: int) -> list[int]:
    """Return the positions that are not padding; refuse a text without any."""
    positions = real(axis, text)
    if not positions:
        msg = f"Text {text} of {axis!r} is all padding, whose attention is meaningless; draw another text."
        raise PositionError(msg)
    return positions


def _query_name(axis: Tokens, position: int, text: int) -> str:
    """Return the part of a title that names the query."""
    return f"query {printable(axis.display(position, text), LONGEST)}"


def _real_query(axis: Tokens, query: str | int, text: int) -> int:
    """Return the position of a token, which must not be padding."""
    position = axis.position(query, text)
    if axis.is_padding(text)[position]:
        msg = f"Query {query!r} is padding in text {text}, whose attention is meaningless; pass another."
        raise PositionError(msg)
    return position


def _separate(ax: Axes, segments: Sequence[int | None], *, axis: str) -> None:
    """Draw a line before each sentence but the first."""
    known = [(position, segment) for position, segment in enumerate(segments) if segment is not None]
    draw = ax.axvline if axis == "x" else ax.axhline
    for (_, before), (position, segment) in pairwise(known):
        if segment != before:
            draw(position - 0.5, color=PADDING, linewidth=0.8, gid="segment")


def _cover(ax: Axes, padding: Flags, *, axis: str) -> None:
    """Lay grey over the rows or columns of padding."""
    height, width = ax.images[0].get_array().shape[:2]  # type: ignore[union-attr]  # heatmap has drawn it
    for position in np.flatnonzero(padding):
        corner, size = ((position - 0.5, -0.5), (1, height)) if axis == "x" else ((-0.5, position - 0.5), (width, 1))
        ax.add_patch(Rectangle(corner, *size, facecolor=PADDING, edgecolor="none", gid="padding"))
