"""Maps between words instead of tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from anylocal._maps.bounds import inside
from anylocal._maps.map import AttentionMap
from anylocal._maps.tokens import Tokens
from anylocal.errors import ChoiceError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anylocal._maps.positions import Axis


def merge_words(attention: AttentionMap, *, sample: int | None = None) -> AttentionMap:
    """Merge the tokens of each word in the map of one text.

    Attention to a word is the sum over its tokens, attention from a word the mean, so that rows still sum to 1.

    Parameters
    ----------
    attention : AttentionMap
        A map whose keys, queries or both are `Tokens` with words.
    sample : int, optional
        Index of the text in the batch (of the window, if the layer attends within windows). May be left out for a batch
        of one.

    Returns
    -------
    AttentionMap
        Shape (1, head, query word, key word); its tokens are the words.

    Raises
    ------
    ShapeError
        If neither the queries nor the keys are tokens.
    ChoiceError
        If the batch holds several texts and none was chosen.
    PositionError
        If the sample is out of range.

    Notes
    -----
    The rule is that of Clark et al. 2019, "What Does BERT Look At?", section 4.1.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Tokens, merge_words
    >>> axis = Tokens(["play", "##ing", "now"], words=[0, 0, 1])
    >>> merged = merge_words(AttentionMap.from_weights(torch.full((3, 3), 1 / 3), queries=axis, keys=axis))
    >>> merged.keys.labels(), merged[0, 0, 0]
    (['playing', 'now'], tensor([0.6667, 0.3333]))
    """
    if not isinstance(attention.queries, Tokens) and not isinstance(attention.keys, Tokens):
        msg = f"Neither the queries nor the keys of {attention!r} are tokens: no words to merge."
        raise ShapeError(msg)
    batch = attention.shape[0]
    if sample is None and batch != 1:
        msg = f"{attention!r} holds {batch} texts with different words; choose one by sample=0 … {batch - 1}."
        raise ChoiceError(msg)
    at = inside(0 if sample is None else sample, batch, "sample", of=attention)
    text = at // attention.windows
    rows, queries = _groups(attention.queries, text)
    columns, keys = _groups(attention.keys, text)
    weights = attention[at]
    summed = torch.stack([weights[:, :, column].sum(-1) for column in columns], -1)
    averaged = torch.stack([summed[:, row].mean(1) for row in rows], 1)
    labels = replace(attention.labels, queries=queries, keys=keys, windows=1, mixed=None)
    return AttentionMap.from_weights(averaged[None], **vars(labels))


def _groups(axis: Axis, text: int) -> tuple[list[list[int]], Axis]:
    """Return the positions of each word, and the axis of words."""
    if not isinstance(axis, Tokens):
        return [[position] for position in range(len(axis))], axis
    groups = axis.words(text)
    padding, special, segments = axis.is_padding(text), axis.is_special(text), axis.segments(text)
    return groups, Tokens(
        [axis.spelling(group, text) for group in groups],
        padding=[bool(padding[group].all()) for group in groups],
        special=[bool(special[group].all()) for group in groups],
        start=axis.start,
        segments=[segments[group[0]] for group in groups],
        **_media(axis, groups, text),
    )


def _media(axis: Tokens, groups: Sequence[Sequence[int]], text: int) -> dict[str, Any]:
    """Return where the images of a text are among its words; a patch in a word with other tokens is not known."""
    own = [item for item in axis.media if item.text == text]
    places = {group[0]: word for word, group in enumerate(groups) if len(group) == 1} | {-1: -1}
    if any(position not in places for item in own for position in item.positions):
        return {"media_unknown": "patches are merged to words"}
    moved = [replace(item, text=0, positions=[places[position] for position in item.positions]) for item in own]
    return {"media": moved, "media_unknown": axis.media_unknown}
