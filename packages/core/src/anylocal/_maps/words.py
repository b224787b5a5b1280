"""Maps of words, where a tokenizer has split them."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import torch

from anylocal._maps.map import AttentionMap
from anylocal._maps.tokens import Tokens
from anylocal.errors import ChoiceError, PositionError, ShapeError

if TYPE_CHECKING:
    from anylocal._maps.positions import Axis


def merge_words(attention: AttentionMap, *, sample: int | None = None) -> AttentionMap:
    """Merge the tokens of each word, in the map of one text.

    Attention to a word is the sum over its tokens, attention from a word their mean, so that rows still sum to 1.

    Parameters
    ----------
    attention : AttentionMap
        Its keys, its queries or both are `Tokens` that know their words.
    sample : int, optional
        Which text of the batch (of a layer of windows, which window); a batch of one needs none.

    Returns
    -------
    AttentionMap
        Shape (1, head, query word, key word); its tokens are the words.

    Raises
    ------
    ShapeError
        If neither side is tokens.
    ChoiceError
        If the batch holds several texts and none was chosen.
    PositionError
        If there is no such text.

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
        msg = f"Neither queries nor keys of {attention!r} are tokens, and there are no words to merge."
        raise ShapeError(msg)
    batch = attention.shape[0]
    if sample is None and batch != 1:
        msg = f"{attention!r} holds {batch} texts, whose words differ: choose one by sample=0 … {batch - 1}."
        raise ChoiceError(msg)
    at = _sample(attention, 0 if sample is None else sample)
    # The windows of a text share its tokens.
    text = at // attention.windows
    rows, queries = _groups(attention.queries, text)
    columns, keys = _groups(attention.keys, text)
    weights = attention[at]
    summed = torch.stack([weights[:, :, column].sum(-1) for column in columns], -1)
    averaged = torch.stack([summed[:, row].mean(1) for row in rows], 1)
    return AttentionMap.from_weights(
        averaged[None],
        name=attention.name,
        queries=queries,
        keys=keys,
        fused=attention.fused,
        forward=attention.forward,
        rank=attention.rank,
    )


def _sample(attention: AttentionMap, sample: object) -> int:
    """Return a sample counted from the start."""
    batch = attention.shape[0]
    try:
        found = operator.index(sample)  # type: ignore[arg-type]  # what is no integer raises, and is caught
    except TypeError:
        found = batch
    if not -batch <= found < batch:
        msg = f"There is no sample {sample!r} of {attention!r}: there are {batch}, counted from 0."
        raise PositionError(msg)
    return found % batch


def _groups(axis: Axis, text: int) -> tuple[list[list[int]], Axis]:
    """Return the positions that become one, and what they become."""
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
    )
