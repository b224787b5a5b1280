"""Layers whose weights stay in Python: the thumbnails, and the answers to what a widget asks."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch

from anylocal._drawing.panel import starts_of
from anylocal._drawing.scale import top_of
from anylocal._maps.rows import block_rows, chunks
from anylocal._page.computed import Sampled, means_of, thumb_of
from anylocal._page.payload import THUMB, Layer
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anylocal._drawing.select import Flags
    from anylocal._maps.map import AttentionMap


def thumbnails(attention: AttentionMap, samples: Sequence[int]) -> Layer:
    """Return a layer with nothing but thumbnails and scales, computed from blocks of rows."""
    thumbs, tops = [], []
    with torch.no_grad():
        for sample in samples:
            windows = range(sample * attention.windows, (sample + 1) * attention.windows)
            sampled = [Sampled.of(attention, window) for window in windows]
            cells = [_cells(attention, window, own.flags) for window, own in zip(windows, sampled, strict=True)]
            by_head = list(zip(*(own.counted for own in sampled), strict=True))
            tops.append(top_of(*itertools.chain.from_iterable(by_head)))
            means = torch.stack(cells).mean(0).numpy()
            thumbs.append([thumb_of(*each, sampled[0].flags) for each in zip(means, by_head, strict=True)])
    return Layer("", thumbs, 0.0, tops)


def _cells(attention: AttentionMap, place: int, flags: tuple[Flags, Flags]) -> torch.Tensor:
    """Return the thumbnails of a place of the batch, (head, row, column)."""
    _, heads, queries, keys = attention.shape
    to_rows, to_columns = (means_of(starts_of(side, THUMB), len(side)) for side in flags)
    read = attention.rows.reader(slice(place, place + 1), slice(None))
    cells = torch.zeros(heads, to_rows.shape[1], to_columns.shape[1])
    for part in chunks(slice(None), queries, block_rows((1, heads, queries, keys))):
        cells += to_rows[part].mT @ read(part)[0].to("cpu", torch.float32) @ to_columns
    return cells


def lines_of(attention: AttentionMap, place: int, head: int | str, positions: Sequence[int], *, way: str) -> bytes:
    """Return rows of queries, or columns of keys, of a place of the batch, float32: of one head, or of all."""
    heads = slice(head, head + 1) if isinstance(head, int) else slice(None)
    with torch.no_grad():
        found = attention[place, heads, positions] if way == "query" else attention[place, heads, :, positions].mT
        found = found.detach().to("cpu", torch.float32)
        line = found.amax(0) if head == "max" else found.mean(0)
    return line.contiguous().numpy().astype("<f4").tobytes()


def making_of(attention: AttentionMap, place: int, head: int, query: int, key: int) -> dict[str, Any] | None:
    """Return what a weight is made of, or None where query and key are not known."""
    try:
        found = attention.explain(query, key, head, sample=place)
    except UnsupportedError:
        return None
    added = None if math.isinf(found.added) else found.added
    return {"products": found.products.tolist(), "scale": found.scale, "added": added}
