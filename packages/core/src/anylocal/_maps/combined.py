"""Rows that are made of others when they are asked for: by arithmetic, or one below the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from anylocal._maps.rows import positions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anylocal._maps.rows import Pick, Reader, Rows, Shape


class CombinedRows:
    """Rows that a function of single values makes of the same rows of others, and of numbers."""

    def __init__(self, function: Callable[..., Any], *operands: Rows | float) -> None:
        self._function = function
        self._operands = operands
        first = next(each for each in operands if not isinstance(each, int | float))
        self.shape: Shape = first.shape
        self.device = first.device
        self.dtype: torch.dtype = self._of(lambda rows: torch.empty(0, dtype=rows.dtype)).dtype

    def take(self, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        """Return the rows picked, shape (batch', head', query', key)."""
        return self._of(lambda rows: rows.take(batch, heads, queries))

    def reader(self, batch: Pick, heads: Pick) -> Reader:
        """Return a function of the queries alone."""
        readers = [each if isinstance(each, int | float) else each.reader(batch, heads) for each in self._operands]
        return lambda queries: self._function(*(each(queries) if callable(each) else each for each in readers))

    def cpu(self) -> CombinedRows:
        """Return the same rows from copies in CPU memory."""
        return CombinedRows(
            self._function, *(each if isinstance(each, int | float) else each.cpu() for each in self._operands)
        )

    def _of(self, read: Callable[[Rows], torch.Tensor]) -> torch.Tensor:
        values = (each if isinstance(each, int | float) else read(each) for each in self._operands)
        computed: torch.Tensor = self._function(*values)
        return computed


@dataclass(frozen=True)
class Part:
    """The first `count` rows of a source, whose first `width` keys are those from `place` on."""

    rows: Rows
    count: int
    place: int
    width: int


class RowsBelow:
    """Rows of several sources, one below the other; keys that a source does not have weigh 0."""

    def __init__(self, parts: Sequence[Part], keys: int) -> None:
        self._parts = parts
        first = parts[0].rows
        self.shape: Shape = (*first.shape[:2], sum(part.count for part in parts), keys)
        self.device = first.device
        self.dtype = first.dtype

    @property
    def ends(self) -> list[int]:
        """The last query of each source."""
        return [sum(part.count for part in self._parts[: at + 1]) - 1 for at in range(len(self._parts))]

    def take(self, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        """Return the rows picked, shape (batch', head', query', key)."""
        return self.reader(batch, heads)(queries)

    def reader(self, batch: Pick, heads: Pick) -> Reader:
        """Return a function of the queries alone."""
        sizes = (len(positions(pick, n, self.device)) for pick, n in zip((batch, heads), self.shape, strict=False))
        shape = (*sizes, -1, self.shape[3])
        latest: list[tuple[Part, Reader]] = []

        def read(queries: Pick) -> torch.Tensor:
            every = positions(queries, self.shape[2], self.device).contiguous()
            made = torch.zeros(*shape[:2], len(every), shape[3], dtype=self.dtype, device=self.device)
            for part, at, rows in self._among(every):
                # A reader may hold its keys in another precision: one at a time is enough, for blocks come in order.
                if not latest or latest[0][0] is not part:
                    latest[:] = [(part, part.rows.reader(batch, heads))]
                made[:, :, at, part.place : part.place + part.width] = latest[0][1](rows)[..., : part.width]
            return made

        return read

    def cpu(self) -> RowsBelow:
        """Return the same rows from copies in CPU memory."""
        return RowsBelow([replace(part, rows=part.rows.cpu()) for part in self._parts], self.shape[3])

    def _among(self, queries: torch.Tensor) -> Iterator[tuple[Part, torch.Tensor, torch.Tensor]]:
        """Yield each part that has some of the queries: their places among these, and in it."""
        ends = torch.tensor([part.count for part in self._parts], device=queries.device).cumsum(0)
        owners = torch.searchsorted(ends, queries, right=True)
        for number in owners.unique().tolist():
            part = self._parts[number]
            at = (owners == number).nonzero()[:, 0]
            yield part, at, queries[at] - (ends[number] - part.count)
