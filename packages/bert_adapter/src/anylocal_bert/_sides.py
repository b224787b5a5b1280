"""The texts on the two sides of a map: the same text, or those of a decoder and its encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anylocal.attention import Tokens
from anylocal.errors import ShapeError
from anylocal_bert._sources import is_cross

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anylocal.adapter import Flags
    from anylocal.attention import AttentionMap, Axis


def tokens_of(attention: AttentionMap, instead: str) -> tuple[Tokens, Tokens]:
    """Return the queries and the keys of a map, which must be tokens."""
    found = []
    for axis, kind in ((attention.queries, "queries"), (attention.keys, "keys")):
        if not isinstance(axis, Tokens):
            msg = f"The {kind} of {attention.name!r} are not tokens. Capture with tokenizer=…, {instead}."
            raise ShapeError(msg)
        found.append(axis)
    return found[0], found[1]


def attends_across(attention: AttentionMap) -> bool:
    """Return whether the queries belong to another text than the keys.

    Both texts may be equal; the name of a module of cross-attention decides then.
    """
    queries, keys = attention.queries, attention.keys
    if is_cross(attention.name):
        return True
    if not isinstance(queries, Tokens) or not isinstance(keys, Tokens):
        return False
    # At a step of generation, the queries are the last tokens of the text of the keys.
    start, end = queries.start, queries.start + len(queries)
    # A single text on one side is shared by all on the other.
    texts = range(max(len(queries.texts), len(keys.texts)))
    sides = [(queries.texts[text % len(queries.texts)], keys.texts[text % len(keys.texts)]) for text in texts]
    return any(query != key[start:end] for query, key in sides)


def real(axis: Tokens, sample: int) -> list[int]:
    """Return the positions of a text that are not padding."""
    return [int(position) for position in np.flatnonzero(~axis.is_padding(sample))]


def words_of(axis: Axis, positions: Sequence[int], text: int) -> Flags:
    """Return which of the positions are words, neither special tokens nor padding; all of them if none is."""
    flags = np.ones(len(positions), bool)
    if isinstance(axis, Tokens):
        flags = ~(axis.is_special(text) | axis.is_padding(text))[list(positions)]
    return flags if flags.any() else ~flags
