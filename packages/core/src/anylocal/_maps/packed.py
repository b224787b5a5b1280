"""Rows of several sequences in one map: each has a block of its own, and everything else is 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from anylocal._maps.banded import BandedRows, Scoring
from anylocal._maps.rows import float_type, positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anylocal._maps.rows import LazyRows, Pick, Reader, Shape


class Span(NamedTuple):
    """A sequence: its sample, and the places of its queries and keys there, in order."""

    sample: int
    queries: torch.Tensor
    keys: torch.Tensor


class Block(NamedTuple):
    """The rows of one sequence, and where they are in the map."""

    rows: LazyRows
    span: Span


class PackedRows:
    """Rows of sequences that see nothing of each other.

    `dtype` and `device` are those of the rows, of which there may be none.
    """

    def __init__(self, shape: Shape, blocks: Sequence[Block], dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self._blocks = tuple(blocks)

    def take(self, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        """Return the rows picked, shape (batch', head', query', key)."""
        return self.reader(batch, heads)(queries)

    def reader(self, batch: Pick, heads: Pick) -> Reader:
        """Return a function of the queries alone."""
        samples = positions(batch, self.shape[0], self.device).tolist()
        number = len(positions(heads, self.shape[1], self.device))
        readers = [
            (block, block.rows.reader(slice(None), heads)) for block in self._blocks if block.span.sample in samples
        ]

        def read(queries: Pick) -> torch.Tensor:
            asked = positions(queries, self.shape[2], self.device)
            made = torch.zeros(len(samples), number, len(asked), self.shape[3], dtype=self.dtype, device=self.device)
            for block, rows_of in readers:
                found, own = _among(asked, block.span.queries)
                if len(found):
                    rows = rows_of(own)[0]
                    wide = rows.new_zeros(*rows.shape[:2], self.shape[3]).index_copy(2, block.span.keys, rows)
                    for place, sample in enumerate(samples):
                        if sample == block.span.sample:
                            made[place].index_copy_(1, found, wide)
            return made

        return read

    def cpu(self) -> PackedRows:
        """Return the same rows from copies in CPU memory."""
        blocks = [
            Block(rows.cpu(), Span(span.sample, span.queries.cpu(), span.keys.cpu())) for rows, span in self._blocks
        ]
        return PackedRows(self.shape, blocks, self.dtype, torch.device("cpu"))


def _among(asked: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which of the queries asked for are at these places, which are in order, and which place each is at."""
    at = torch.searchsorted(places, asked).clamp(max=max(len(places) - 1, 0))
    found = (places[at] == asked).nonzero()[:, 0] if len(places) else at[:0]
    return found, at[found]


def packed_rows(q: torch.Tensor, k: torch.Tensor, scoring: Scoring, spans: Iterable[Span]) -> PackedRows:
    """Return the rows of the sequences in query and key, both (batch, head, position, feature).

    ALiBi slopes that differ between samples are those of the sequences, in their order.
    """
    blocks = [
        Block(BandedRows(_part(q, span.sample, span.queries), _part(k, span.sample, span.keys), own), span)
        for span, own in ((span, scoring.of_sample(number)) for number, span in enumerate(spans))
        if len(span.queries) and len(span.keys)
    ]
    return PackedRows((*q.shape[:3], k.shape[2]), blocks, float_type(q.dtype, k.dtype), q.device)


def _part(tensor: torch.Tensor, sample: int, places: torch.Tensor) -> torch.Tensor:
    """Return some positions of one sample, without a copy if they are next to each other."""
    first, last, own = int(places[0]), int(places[-1]), tensor[sample : sample + 1]
    return own[:, :, first : last + 1] if last - first + 1 == len(places) else own.index_select(2, places)
