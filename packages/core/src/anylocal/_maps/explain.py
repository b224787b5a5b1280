"""How one weight comes about: the product of query and key by channel, the scale, the mask, and the row's softmax."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from anylocal._maps.bounds import inside, place_of
from anylocal._maps.rows import LazyRows, StoredRows, exactly
from anylocal.errors import ChoiceError, UnsupportedError

if TYPE_CHECKING:
    from anylocal._maps.map import AttentionMap

_SHOWN: Final = 8
"""Channels and terms that are shown."""

_WIDTH: Final = 120
"""Of the longest bar, in CSS pixels."""


class Term(NamedTuple):
    """A key of the row: its label, its score and its weight."""

    key: str
    score: float
    weight: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """How one weight comes about; see `AttentionMap.explain`. Notebooks show it as tables with bars.

    Attributes
    ----------
    name : str
        The layer.
    head : int
    query, key : str
        Their labels.
    products : torch.Tensor, shape (feature,)
        The product of query and key in each channel.
    scale : float
        By which the sum of the products is multiplied.
    added : float
        What the mask adds, a bias for example; -inf hides the key.
    score : float
        The sum of the products times the scale, plus what is added.
    total : float
        The logarithm of the sum of the exponentials of the row's scores; -inf in a row without any key.
    weight : float
        exp(score - total), and 0 where the key is hidden.
    terms : tuple of Term
        The largest of the row, each with `key`, `score` and `weight`.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap
    >>> found = AttentionMap.from_qk(torch.eye(2), torch.eye(2), scale=1.0).explain(0, 0, head=0)
    >>> found.products.tolist(), found.score, round(found.weight, 4)
    ([1.0, 0.0], 1.0, 0.7311)
    """

    name: str
    head: int
    query: str
    key: str
    products: torch.Tensor = field(repr=False)
    scale: float
    added: float
    score: float
    total: float
    weight: float
    terms: tuple[Term, ...] = field(repr=False)

    def __str__(self) -> str:
        place = f"{self.name or 'layer'}, head {self.head}, {self.query} → {self.key}"
        made, sum_ = ("", "") if self.added == 0 else (" + mask", f" {self.added:+.4g}")
        product = f"q · k × scale{made} = {float(self.products.sum()):.4g} × {self.scale:.4g}{sum_} = {self.score:.4g}"
        return f"{place}: {product}; exp({self.score:.4g} - {self.total:.4g}) = {self.weight:.4g}"

    def _repr_html_(self) -> str:
        order = self.products.abs().argsort(descending=True)[:_SHOWN].tolist()
        channels = [(str(at), float(self.products[at])) for at in order]
        rest = float(self.products.sum()) - sum(value for _, value in channels)
        if len(self.products) > len(channels):
            channels.append((f"{len(self.products) - len(channels)} others", rest))
        terms = [(f"{term.key} ({term.score:.3g})", term.weight) for term in self.terms]
        return (
            f"<p>{html.escape(str(self))}</p>"
            f"{_bars('channel', 'q · k', channels)}{_bars('key (score)', 'weight', terms)}"
        )


def explained(attention: AttentionMap, query: object, key: object, head: int, sample: int | None) -> Explanation:
    """Return how a weight comes about; see `AttentionMap.explain`."""
    if sample is None and attention.shape[0] > 1:
        msg = f"{attention!r} holds {attention.shape[0]} samples; choose one by sample=0 … {attention.shape[0] - 1}."
        raise ChoiceError(msg)
    place = inside(sample or 0, attention.shape[0], "sample", of=attention)
    at = inside(head, attention.shape[1], "head", of=attention)
    text = place_of(attention, place)
    row, column = attention.queries.position(query, text), attention.keys.position(key, text)
    rows = _plain(attention)
    with torch.no_grad(), exactly(rows.device):
        products = _product(rows, place, at, row)
        added = _added(rows, place, at, row)
        scores = (products.sum(-1) * rows.scale + added).cpu()
        total = float(scores.logsumexp(-1))
        weights = attention[place, at, row].detach().double().cpu()
    largest = weights.argsort(descending=True)[:_SHOWN].tolist()
    return Explanation(
        name=attention.name,
        head=at,
        query=attention.queries.display(row, text),
        key=attention.keys.display(column, text),
        products=products[column].cpu(),
        scale=rows.scale,
        added=float(added[column]),
        score=float(scores[column]),
        total=total,
        weight=float(weights[column]),
        terms=tuple(Term(attention.keys.display(k, text), float(scores[k]), float(weights[k])) for k in largest),
    )


def _plain(attention: AttentionMap) -> LazyRows:
    """Return the rows if they are a plain softmax of query and key."""
    rows = attention.rows
    lazy = rows if isinstance(rows, LazyRows | StoredRows) else rows.cpu()
    if type(lazy) is LazyRows:
        return lazy
    why = "were given" if isinstance(rows, StoredRows) else "are not a plain softmax of query and key"
    msg = (
        f"The weights of {attention!r} {why}, so what made them is not known; maps of fused kernels, and those of "
        "AttentionMap.from_qk, can be explained."
    )
    raise UnsupportedError(msg)


def _product(rows: LazyRows, place: int, head: int, query: int) -> torch.Tensor:
    """Return the products of a query with all keys by channel, (key, feature), in float64."""
    q, k = (each[place if len(each) > 1 else 0] for each in (rows.q, rows.k))
    return q[head, query].double() * k[head // (len(q) // len(k))].double()


def _added(rows: LazyRows, place: int, head: int, query: int) -> torch.Tensor:
    """Return what mask and causality add to the scores of a query, (key,), in float64."""
    keys = rows.shape[3]
    added = torch.zeros(keys, dtype=torch.float64, device=rows.device)
    if rows.mask is not None:
        own = rows.mask.expand(rows.shape)[place, head, query]
        added = added.masked_fill(~own, -math.inf) if own.dtype == torch.bool else own.double()
    if rows.causal:
        added = added.masked_fill(torch.arange(keys, device=rows.device) > query, -math.inf)
    return added


def _bars(title: str, unit: str, values: list[tuple[str, float]]) -> str:
    """Return a table with a bar for each value, whatever its label holds."""
    most = max((abs(value) for _, value in values if math.isfinite(value)), default=0.0) or 1.0
    lines = "".join(
        f"<tr><td>{html.escape(label)}</td><td>{value:.3g}</td><td>{_bar(value / most)}</td></tr>"
        for label, value in values
    )
    return (
        f'<table style="display: inline-table; margin-right: 2em"><thead><tr><th>{html.escape(title)}</th>'
        f"<th>{html.escape(unit)}</th><th></th></tr></thead><tbody>{lines}</tbody></table>"
    )


def _bar(share: float) -> str:
    colour = "#0b6bcb" if share > 0 else "#b3261e"
    width = round(_WIDTH * min(1.0, abs(share)))
    return f'<span style="display: inline-block; height: 0.7em; width: {width}px; background: {colour}"></span>'
