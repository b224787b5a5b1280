"""Query and key in few bits a number, as the page holds them, and the weights that they make.

A constant added to all keys changes no softmax, and one added to all queries adds the same to each key's score: the
means of both are taken off, and what is left of each channel is rounded to its own step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from anylocal._page.operands import Operands


@dataclass(frozen=True, eq=False)
class Channels:
    """Vectors as integers: they are ``mean + step * levels``, each channel of each head with its own mean and step."""

    levels: torch.Tensor
    mean: torch.Tensor
    step: torch.Tensor

    @cached_property
    def rest(self) -> torch.Tensor:
        """The vectors without their mean, as the browser reads them."""
        return self.step * self.levels


@dataclass(frozen=True, eq=False)
class Rounded:
    """The operands of a sample in a number of bits: ``softmax(scale · q.rest · k.rest + bias)``, within the spans."""

    q: Channels
    k: Channels
    scale: float
    bias: torch.Tensor
    spans: torch.Tensor | None

    @classmethod
    def of(cls, given: Operands, bits: int) -> Rounded:
        """Round operands; what the queries have in common becomes a part of the bias."""
        q, k = _rounded(given.q, bits), _rounded(given.k, bits)
        heads, groups = len(given.q), len(given.k)
        common = (k.rest.repeat_interleave(heads // groups, 0) @ q.mean.mT)[..., 0]
        return cls(q, k, given.scale, given.scale * common + given.bias, given.spans)

    def scores(self, head: int, queries: slice | torch.Tensor) -> torch.Tensor:
        """Return the scores of some queries of a head, (query', key); -inf where a query does not see a key."""
        k = self.k.rest[head // (len(self.q.levels) // len(self.k.levels))]
        made = torch.addmm(self.bias[head], self._scaled[head, queries], k.mT)
        if self.spans is not None:
            start, stop = self.spans[:, queries, None]
            places = torch.arange(made.shape[-1])
            made.masked_fill_((places < start) | (places >= stop), -math.inf)
        return made

    def rows(self, queries: slice | torch.Tensor) -> torch.Tensor:
        """Return the weights of some queries, (head, query', key)."""
        return torch.stack([weights_of(self.scores(head, queries)) for head in range(len(self.q.levels))])

    @cached_property
    def _scaled(self) -> torch.Tensor:
        return self.q.rest * self.scale


def weights_of(scores: torch.Tensor) -> torch.Tensor:
    """Return the softmax of scores, (query, key); a query that sees no key has no weights."""
    blind = scores.amax(-1) == -math.inf
    made = scores.softmax(-1)
    return made.masked_fill_(blind[:, None], 0.0) if bool(blind.any()) else made


def _rounded(vectors: torch.Tensor, bits: int) -> Channels:
    """Return vectors, (head, position, feature), in a number of bits, by channel."""
    mean = vectors.mean(1, keepdim=True)
    most = (vectors - mean).abs().amax(1, keepdim=True)
    step = (most / (2 ** (bits - 1) - 1)).where(most > 0, 1.0)
    return Channels(((vectors - mean) / step).round_(), mean, step)
