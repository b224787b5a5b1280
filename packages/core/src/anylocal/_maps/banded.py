"""Rows of kernels in which a query sees a band of keys around the one that it is aligned with.

Causal attention is a band without end on the left, and a window one with two ends. Such kernels may also cap scores,
subtract a slope times the distance (ALiBi), and give a part of each row to a sink that is no key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from anylocal._maps.rows import LazyRows, Pick, compact, fitting, positions, softmax_beside_sinks


@dataclass(frozen=True)
class Scoring:
    """What a kernel makes of the products of query and key.

    Parameters
    ----------
    scale : float, optional
        Factor of the products, 1 / sqrt(features) by default.
    left, right : int, optional
        How many keys before and after the aligned one a query sees; all by default.
    from_top_left : bool
        Whether query 0 is aligned with key 0; by default the last query is aligned with the last key.
    softcap : float, optional
        Scores are softcap · tanh(score / softcap).
    slopes : torch.Tensor, shape (batch or 1, head), optional
        ALiBi: subtracted from a score for each position between its key and the aligned one.
    sinks : torch.Tensor, shape (head,), optional
        Score of something that is no key and takes part in each row, which then sums to less than 1.
    """

    scale: float | None = None
    left: int | None = None
    right: int | None = None
    from_top_left: bool = False
    softcap: float | None = None
    slopes: torch.Tensor | None = None
    sinks: torch.Tensor | None = None

    def of_sample(self, number: int) -> Scoring:
        """Return what is computed in one sample of a batch."""
        if self.slopes is None or len(self.slopes) == 1:
            return self
        return replace(self, slopes=self.slopes[number : number + 1])

    def compact(self) -> Scoring:
        """Return the same from copies in CPU memory."""
        slopes, sinks = (None if each is None else compact(each) for each in (self.slopes, self.sinks))
        return replace(self, slopes=slopes, sinks=sinks)


class BandedRows(LazyRows):
    """Rows computed as a softmax of the scores in a band."""

    def __init__(self, q: torch.Tensor, k: torch.Tensor, scoring: Scoring, mask: torch.Tensor | None = None) -> None:
        super().__init__(q, k, mask, scoring.scale, causal=False)
        self._scoring = scoring
        self._watch(self.q, self.k, self.mask, scoring.slopes, scoring.sinks)

    def cpu(self) -> BandedRows:
        """Return the same rows from copies in CPU memory."""
        mask = None if self.mask is None else compact(self.mask)
        return BandedRows(compact(self.q), compact(self.k), self._scoring.compact(), mask)

    def _softmax(self, scores: torch.Tensor, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        scoring = self._scoring
        if scoring.softcap is not None:
            scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
        if scoring.slopes is not None:
            slopes = fitting(scoring.slopes, batch, heads).to(scores)
            scores = scores - slopes[..., None, None] * self._apart(queries).abs()
        if self.mask is not None:
            mask = fitting(self.mask, batch, heads, queries)
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        if scoring.left is not None or scoring.right is not None:
            scores = scores.masked_fill_(self._outside(queries), -math.inf)
        return softmax_beside_sinks(scores, scoring.sinks, heads)

    def _apart(self, queries: Pick) -> torch.Tensor:
        """Return how far behind the aligned key each key is, (query', key)."""
        shift = 0 if self._scoring.from_top_left else self.shape[3] - self.shape[2]
        aligned = positions(queries, self.shape[2], self.device) + shift
        return torch.arange(self.shape[3], device=self.device) - aligned[:, None]

    def _outside(self, queries: Pick) -> torch.Tensor:
        apart, left, right = self._apart(queries), self._scoring.left, self._scoring.right
        outside = torch.zeros_like(apart, dtype=torch.bool) if left is None else apart < -left
        return outside if right is None else outside | (apart > right)
