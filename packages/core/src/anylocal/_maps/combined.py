"""Rows that arithmetic makes of others, computed when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

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
