"""Query and key of a layer, with what else its softmax depends on: a bias of each key, and which keys a query sees.

Causal, sliding and block masks let a query see keys from one to another, and padding hides keys from all queries. Any
other mask or bias is as large as the map, and such a map is stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from anylocal._maps.rows import LazyRows
from anylocal._readout.multihead.projected import ProjectedRows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anylocal._maps.map import AttentionMap

LONG: Final = 4
"""Query and key are kept if the map has more than so many times their elements: stored maps have one byte a weight,
and compress to about 0.4; query and key have up to 16 bits a number, and compress hardly."""

_HIDDEN: Final = -1e4
"""What is added to a score to hide a key is at most this: its weight is 0 in float32."""

_ROWS: Final = 512
"""Rows of a mask that are looked at together."""


@dataclass(frozen=True, eq=False)
class Operands:
    """What the rows of one sample are computed from.

    Attributes
    ----------
    q : torch.Tensor, shape (head, query, feature)
    k : torch.Tensor, shape (key head, key, feature)
        Neighbouring query heads share a key head.
    scale : float
    bias : torch.Tensor, shape (1 or head, key)
        Added to the scores; -inf where no query sees a key.
    spans : torch.Tensor, shape (2, query), or None
        The first key that each query sees and the one after the last; None if all see all.
    """

    q: torch.Tensor
    k: torch.Tensor
    scale: float
    bias: torch.Tensor
    spans: torch.Tensor | None


def operands_of(attention: AttentionMap, batch: Sequence[int]) -> list[Operands] | None:
    """Return the operands of some places of the batch, or None if a map must be stored, or is no larger than they are.

    A map that is no plain softmax of query and key, mask and causality must be stored.
    """
    rows = attention.rows
    if not isinstance(rows, LazyRows | ProjectedRows):
        return None
    lazy = rows.cpu()
    # Other classes compute something else from the same operands: windows of a band, functions of the positions, sinks.
    if type(lazy) is not LazyRows or not _is_long(lazy):
        return None
    found = [_of_place(lazy, place) for place in batch]
    every = [each for each in found if each is not None]
    return every if len(every) == len(found) else None


def _is_long(rows: LazyRows) -> bool:
    _, heads, queries, keys = rows.shape
    features, groups = rows.k.shape[3], rows.k.shape[1]
    return heads * queries * keys > LONG * features * (heads * queries + groups * keys)


def _of_place(rows: LazyRows, place: int) -> Operands | None:
    q, k = (each[place if len(each) > 1 else 0].to(torch.float32) for each in (rows.q, rows.k))
    finite = bool(q.isfinite().all() and k.isfinite().all())
    mask = None if rows.mask is None else rows.mask[place if len(rows.mask) > 1 else 0]
    seen = _seen(mask, rows.shape[2], rows.shape[3])
    if not finite or seen is None:
        return None
    bias, spans = seen
    if rows.causal:
        ends = torch.arange(1, rows.shape[2] + 1).clamp(max=rows.shape[3])
        start, stop = (torch.zeros_like(ends), ends) if spans is None else (spans[0], torch.minimum(spans[1], ends))
        spans = torch.stack([start, stop])
    return Operands(q, _distinct(k), rows.scale, bias, spans)


def _distinct(k: torch.Tensor) -> torch.Tensor:
    """Return key heads, (key head, key, feature), once each: where there is a mask, libraries repeat them."""
    for size in range(len(k), 1, -1):
        if len(k) % size == 0:
            groups: torch.Tensor = k.reshape(-1, size, *k.shape[1:])
            if torch.equal(groups, groups[:, :1].expand_as(groups)):
                return groups[:, 0]
    return k


def _seen(mask: torch.Tensor | None, queries: int, keys: int) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Return a mask, (head, query, key), as a bias of each key and the keys that each query sees, or None."""
    if mask is None:
        return torch.zeros(1, keys), None
    if mask.shape[1] == 1 or queries == 1:
        return _of_keys(mask[:, 0].expand(-1, keys))
    if mask.shape[0] > 1 and not bool((mask == mask[:1]).all()):
        return None
    return _of_pairs(mask[0].expand(-1, keys))


def _of_keys(mask: torch.Tensor) -> tuple[torch.Tensor, None] | None:
    """Return a mask that is the same for all queries, (head, key), as a bias."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape).masked_fill_(~mask, -math.inf), None
    # Where something finite hides all keys, it hides none, and the sum has no digits left for the scores.
    lost = (mask <= _HIDDEN).all(-1) & (mask != -math.inf).any(-1)
    broken = mask.isnan() | (mask == math.inf)
    return None if bool(lost.any() or broken.any()) else (mask.to(torch.float32), None)


def _of_pairs(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return a mask of pairs, (query, key), as the keys that each query sees, and those that none does."""
    parts = []
    for part in mask.split(_ROWS):
        seen = part if part.dtype == torch.bool else part == 0
        # Any other number is a bias; and see `_of_keys`.
        plain = part.dtype == torch.bool or bool((seen | (part <= _HIDDEN)).all())
        if not plain or (part.dtype != torch.bool and bool((~seen.any(-1) & (part != -math.inf).any(-1)).any())):
            return None
        parts.append(seen)
    ever = torch.stack([seen.any(0) for seen in parts]).any(0)
    spans = torch.cat([_span(seen) for seen in parts], 1)
    places = torch.arange(mask.shape[1])
    for seen, (start, stop) in zip(parts, (part for part in spans.split(_ROWS, 1)), strict=True):
        inside = (places >= start[:, None]) & (places < stop[:, None]) & ever
        if not torch.equal(inside, seen):
            return None
    return torch.zeros(1, len(ever)).masked_fill_(~ever, -math.inf), spans


def _span(seen: torch.Tensor) -> torch.Tensor:
    """Return the first key that each query sees and the one after the last, (2, query); 0 and 0 if it sees none."""
    flags = seen.to(torch.uint8)
    start = flags.argmax(-1)
    stop = flags.shape[-1] - flags.flip(-1).argmax(-1)
    return torch.stack([start, stop]).masked_fill_(~seen.any(-1), 0)
