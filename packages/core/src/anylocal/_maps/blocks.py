"""Reading a map block by block: no more than a block of it and what was asked for exist at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from anylocal._maps.rows import Pick, StoredRows, block_rows, chunks, picked, side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anylocal._maps.indexing import Selection
    from anylocal._maps.rows import Rows, Shape

_WHOLE: Final = slice(None)

_QUERY: Final = 2

_ROWS: Final = 32
"""Rows of each head in a block, if possible: a product of fewer reads the keys more often than it computes."""


def blocks(rows: Rows, heads: Pick) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the rows of some heads, a block at a time: the first query, and shape (batch, head, query', key)."""
    batch, every, queries, keys = rows.shape
    read, size = rows.reader(_WHOLE, heads), block_rows((batch, _length(heads, every), queries, keys))
    for number, part in enumerate(chunks(_WHOLE, queries, size)):
        yield number * size, read(part)


def head_chunks(shape: Shape, heads: Pick = _WHOLE) -> Iterator[Pick]:
    """Yield the heads that are best read together, all of them unless rows are very long."""
    batch, every, queries, keys = shape
    yield from chunks(heads, every, max(1, block_rows((batch, 1, queries, keys)) // min(_ROWS, max(queries, 1))))


def select(rows: Rows, selection: Selection) -> torch.Tensor:
    """Return what an index selects; of some keys of all queries, for example, only their columns are kept."""
    (batch, heads, queries, keys), points, rest = selection
    whole = isinstance(keys, slice) and len(range(rows.shape[3])[keys]) == rows.shape[3]
    if not points and (whole or isinstance(rows, StoredRows)):
        return picked(rows.take(batch, heads, queries), _WHOLE, _WHOLE, _WHOLE, keys)[rest]
    shape = (_length(batch, rows.shape[0]), rows.shape[1], _length(queries, rows.shape[2]), rows.shape[3])
    made = []
    for part in [heads] if 1 in points else head_chunks(shape, heads):
        size = block_rows((shape[0], _length(part, shape[1]), *shape[2:]))
        read = rows.reader(batch, part)
        found = (picked(read(each), _WHOLE, _WHOLE, _WHOLE, keys) for each in chunks(queries, rows.shape[2], size))
        made.append(_of_queries(found, size, points) if _QUERY in points else _of_blocks(found, shape[2], points))
    return (made[0] if len(made) == 1 else torch.cat(made, 1))[rest]


def _of_blocks(blocks: Iterator[torch.Tensor], queries: int, points: dict[int, torch.Tensor]) -> torch.Tensor:
    """Return the blocks one below the other, or their values at some points."""
    return side_by_side((_gathered(block, points) if points else block for block in blocks), _QUERY, queries)


def _of_queries(blocks: Iterator[torch.Tensor], size: int, points: dict[int, torch.Tensor]) -> torch.Tensor:
    """Return the values at some points of blocks of so many queries each."""
    first, by_query = next(iter(points)), points[_QUERY]
    order = by_query.argsort()

    def found() -> Iterator[torch.Tensor]:
        done = 0
        for number, block in enumerate(blocks):
            end = int((by_query < (number + 1) * size).sum())
            here = {axis: of_axis[order[done:end]] for axis, of_axis in points.items()}
            yield _gathered(block, here | {_QUERY: here[_QUERY] - number * size})
            done = end

    return side_by_side(found(), first, len(order)).index_select(first, order.argsort())


def _gathered(block: torch.Tensor, points: dict[int, torch.Tensor]) -> torch.Tensor:
    """Return the values at some points, along the first of their axes; the others have length 1."""
    first, *others = points
    found = block.movedim(tuple(points), tuple(range(len(points))))[tuple(points.values())].movedim(0, first)
    for axis in others:
        found = found.unsqueeze(axis)
    return found


def _length(pick: Pick, size: int) -> int:
    return len(range(size)[pick]) if isinstance(pick, slice) else len(pick)
