"""Sums, maxima and the strongest weights of a map, block by block: the whole map never exists at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch

from anylocal._maps.blocks import blocks, head_chunks
from anylocal._maps.bounds import inside
from anylocal._maps.rows import SideBySide, float_type, side_by_side
from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anylocal._maps.rows import Pick, Rows

    Combine: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

AxisIndex: TypeAlias = int | Sequence[int] | None
"""One axis, counted from either end, or several; None for all."""

_HEAD, _QUERY, _KEY, _NUMBER = 1, 2, 3, 4
_GROUP = 64


class TopK(NamedTuple):
    """The strongest weights, strongest first, and where they are; as `torch.topk` returns them.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap
    >>> AttentionMap.from_weights(torch.tensor([[0.0, 1.0]])).topk(1)
    TopK(values=tensor([[[[1.]]]]), indices=tensor([[[[1]]]]))
    """

    values: torch.Tensor
    indices: torch.Tensor


def total(rows: Rows, axis: AxisIndex) -> torch.Tensor:
    """Return the sum along some axes, in the widest type of the device."""
    axes = axes_of(axis)
    counts = rows.dtype == torch.bool
    wide = torch.int64 if counts else torch.float32 if rows.device.type == "mps" else torch.float64
    dtype = torch.int64 if counts else float_type(rows.dtype)
    return _folded(rows, axes, lambda block: block.sum(axes, keepdim=True, dtype=dtype).to(wide), torch.add)


def extreme(rows: Rows, axis: AxisIndex, reduce: Callable[..., torch.Tensor], combine: Combine) -> torch.Tensor:
    """Return the maximum or the minimum along some axes."""
    axes = axes_of(axis)
    return _folded(rows, axes, lambda block: reduce(block, axes, keepdim=True), combine)


def place_of_largest(rows: Rows, axis: int | None) -> torch.Tensor:
    """Return the index of the maximum along an axis, the first of several; by None in the flattened map."""
    if axis is None:
        values, places = _peaks(rows)
        sample = values.argmax()
        return sample * (rows.shape[_QUERY] * rows.shape[_KEY]) + places.flatten()[sample]
    at = inside(axis, _NUMBER, "axis")
    if at == _QUERY:
        return _peaks(rows, at).indices
    found = (block.argmax(at, keepdim=True) for _, block in blocks(rows, slice(None)))
    return side_by_side(found, _QUERY, rows.shape[_QUERY]).squeeze(at)


def strongest(rows: Rows, k: int, axis: int | Sequence[int]) -> TopK:
    """Return the k strongest weights along an axis, or along those of queries and keys together."""
    axes = axes_of(axis)
    if len(axes) > 1 and axes != (_QUERY, _KEY):
        msg = f"axis={axis!r}: the strongest weights are those along one axis, or along (-2, -1), queries and keys."
        raise OptionError(msg)
    at, along = axes[0], rows.shape[_KEY] if len(axes) > 1 else 1
    length = rows.shape[at] * along
    if not 1 <= k <= length:
        msg = f"k={k!r} of the strongest weights were asked for, and there are {length} along axis {axis!r}."
        raise OptionError(msg)

    def best(start: int, block: torch.Tensor) -> TopK:
        values, indices = _topk(block.flatten(_QUERY) if len(axes) > 1 else block.movedim(at, -1), k)
        return TopK(values, indices + start * along if at == _QUERY else indices)

    def better(one: TopK, two: TopK) -> TopK:
        values, indices = (torch.cat(pair, -1) for pair in zip(one, two, strict=True))
        values, chosen = values.topk(min(k, values.shape[-1]), -1)
        return TopK(values, indices.gather(-1, chosen))

    def of_heads(heads: Pick) -> TopK:
        parts = (best(start, block) for start, block in blocks(rows, heads))
        if at == _QUERY:
            return functools.reduce(better, parts)
        # Queries are the third axis, unless one before them has become the last.
        values, indices = (SideBySide(1 if at < _QUERY else _QUERY, rows.shape[_QUERY]) for _ in range(2))
        for part in parts:
            values.add(part.values)
            indices.add(part.indices)
        return TopK(values.joined, indices.joined)

    values, indices = _of_all_heads(rows, at, of_heads)
    if len(axes) > 1:
        return TopK(values, torch.stack([indices // along, indices % along], -1))
    return TopK(values.movedim(-1, at), indices.movedim(-1, at))


def axes_of(axis: AxisIndex) -> tuple[int, ...]:
    """Return axes as counted from the start, in order; all of them for None."""
    given = range(_NUMBER) if axis is None else axis if isinstance(axis, Sequence) else [axis]
    if not given:
        msg = f"axis={axis!r} names no axis; give one or several, or None for all."
        raise OptionError(msg)
    return tuple(sorted({inside(each, _NUMBER, "axis") for each in given}))


def _folded(
    rows: Rows, axes: Sequence[int], of_block: Callable[[torch.Tensor], torch.Tensor], combine: Combine
) -> torch.Tensor:
    """Join what is made of each block, where the axes have length 1: combined along these, else side by side."""

    def of_heads(heads: Pick) -> torch.Tensor:
        parts = (of_block(block) for _, block in blocks(rows, heads))
        queries = rows.shape[_QUERY]
        return functools.reduce(combine, parts) if _QUERY in axes else side_by_side(parts, _QUERY, queries)

    parts = [of_heads(heads) for heads in head_chunks(rows.shape)]
    return (functools.reduce(combine, parts) if _HEAD in axes else torch.cat(parts, _HEAD)).squeeze(tuple(axes))


def _peaks(rows: Rows, axis: int | None = None) -> TopK:
    """Return the maximum and its first place along the queries, or along queries and keys together (None)."""

    def peak(start: int, block: torch.Tensor) -> TopK:
        values, indices = block.flatten(_QUERY).max(-1) if axis is None else block.max(axis)
        return TopK(values, indices + start * (rows.shape[_KEY] if axis is None else 1))

    def higher(one: TopK, two: TopK) -> TopK:
        later = two.values > one.values
        return TopK(*(there.where(later, here) for here, there in zip(one, two, strict=True)))

    def of_heads(heads: Pick) -> TopK:
        return functools.reduce(higher, (peak(start, block) for start, block in blocks(rows, heads)))

    return _of_all_heads(rows, _QUERY, of_heads)


def _of_all_heads(rows: Rows, axis: int, of_heads: Callable[[Pick], TopK]) -> TopK:
    """Return a function of heads for all of them, at once if their axis is the one reduced, which is then the last."""
    if axis == _HEAD:
        return of_heads(slice(None))
    parts = (of_heads(heads) for heads in head_chunks(rows.shape))
    # The batch may be the last axis then, too.
    return TopK(*(torch.cat(each, min(axis, _HEAD)) for each in zip(*parts, strict=True)))


def _topk(values: torch.Tensor, k: int) -> TopK:
    """Return up to k of the largest values of the last axis, and their places."""
    length = values.shape[-1]
    whole = length // _GROUP * _GROUP
    if k * _GROUP * 2 > length:
        return TopK(*values.topk(min(k, length), -1))
    # The k largest are in the k groups with the largest maxima, and the maximum of a group costs far less than topk.
    groups = values[..., :whole].unflatten(-1, (-1, _GROUP))
    chosen = groups.amax(-1).topk(k, -1).indices[..., None]
    places = (chosen * _GROUP + torch.arange(_GROUP, device=values.device)).flatten(-2)
    tail = torch.arange(whole, length, device=values.device).expand(*values.shape[:-1], -1)
    places = torch.cat([places, tail], -1)
    found, at = values.gather(-1, places).topk(k, -1)
    return TopK(found, places.gather(-1, at))
