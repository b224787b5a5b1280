"""Maps of words, where a tokenizer has split them."""

from __future__ import annotations

import torch

from anylocal._axes import Axis
from anylocal._map import AttentionMap
from anylocal._tokens import Tokens
from anylocal.errors import ChoiceError, PositionError, ShapeError


def merge_words(attention: AttentionMap, *, sample: int | None = None) -> AttentionMap:
    """Merge the tokens of each word, in the map of one text.

    Attention to a word is the sum over its tokens, attention from a word their mean, so that rows still sum to 1.

    Parameters
    ----------
    attention : AttentionMap
        Its keys, its queries or both are `Tokens` that know their words.
    sample : int, optional
        Which text of the batch; a batch of one needs none.

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
    at = 0 if sample is None else sample
    if not -batch <= at < batch:
        msg = f"There is no sample {at}: there are {batch}."
        raise PositionError(msg)
    at %= batch
    rows, queries = _groups(attention.queries, at)
    columns, keys = _groups(attention.keys, at)
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


def _groups(axis: Axis, sample: int) -> tuple[list[list[int]], Axis]:
    """Return the positions that become one, and what they become."""
    if not isinstance(axis, Tokens):
        return [[position] for position in range(len(axis))], axis
    groups = axis.words(sample)
    padding, special, segments = axis.is_padding(sample), axis.is_special(sample), axis.segments(sample)
    return groups, Tokens(
        [axis.spelling(group, sample) for group in groups],
        padding=[bool(padding[group].all()) for group in groups],
        special=[bool(special[group].all()) for group in groups],
        start=axis.start,
        segments=[segments[group[0]] for group in groups],
    )
