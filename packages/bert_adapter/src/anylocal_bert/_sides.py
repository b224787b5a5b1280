"""Which texts the two sides of a map are: one and the same, or that of a decoder and that of its encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anylocal.attention import Tokens
from anylocal.errors import ShapeError
from anylocal_bert._sources import is_cross

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anylocal.attention import AttentionMap


def tokens_of(attention: AttentionMap, instead: str) -> tuple[Tokens, Tokens]:
    """Return the queries and the keys of a map.

    Raises
    ------
    ShapeError
        Where one of them is no tokens.
    """
    found = []
    for axis, kind in ((attention.queries, "queries"), (attention.keys, "keys")):
        if not isinstance(axis, Tokens):
            msg = f"The {kind} of {attention.name!r} are no tokens. Capture with tokenizer=…, {instead}."
            raise ShapeError(msg)
        found.append(axis)
    return found[0], found[1]


def attends_across(attention: AttentionMap) -> bool:
    """Tell whether the queries are of another text than the keys.

    A text may be its own translation: then the module's name tells.
    """
    queries, keys = attention.queries, attention.keys
    if is_cross(attention.name):
        return True
    if not isinstance(queries, Tokens) or not isinstance(keys, Tokens):
        return False
    # A step of generation asks with the last tokens of the text that it attends to.
    start, end = queries.start, queries.start + len(queries)
    # One text on one side is shared by all of the other.
    texts = range(max(len(queries.texts), len(keys.texts)))
    sides = [(queries.texts[text % len(queries.texts)], keys.texts[text % len(keys.texts)]) for text in texts]
    return any(asking != asked[start:end] for asking, asked in sides)


def real(axis: Tokens, sample: int) -> list[int]:
    """Return the positions of a text that are no padding."""
    return [int(position) for position in np.flatnonzero(~axis.is_padding(sample))]


def words(axis: Tokens, sample: int, positions: Sequence[int]) -> list[str]:
    """Return the tokens at some positions of a text."""
    return [axis.label(position, sample) for position in positions]
