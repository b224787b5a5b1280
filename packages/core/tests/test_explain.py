"""How one weight comes about: products, scale, mask and softmax, as plain arithmetic has them."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from anylocal.attention import AttentionMap, Patches, Tokens
from anylocal.errors import ChoiceError, NameNotFoundError, PositionError, UnsupportedError


def operands(heads: int = 4, groups: int = 2, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(batch, heads, 7, 5, generator=generator)
    return q, torch.randn(batch, groups, 7, 5, generator=generator)


BIAS = torch.linspace(-1, 1, 49).reshape(1, 1, 7, 7)
SEEN = torch.ones(7, 7, dtype=torch.bool).tril(1)


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({}, 0.0),
        ({"scale": 0.3}, 0.0),
        ({"mask": BIAS}, float(BIAS[0, 0, 3, 2])),
        ({"mask": SEEN}, 0.0),
        ({"causal": True}, 0.0),
    ],
    ids=["plain", "scale", "bias", "mask", "causal"],
)
def test_the_numbers_lead_to_the_weight(options: dict[str, Any], added: float) -> None:
    """By channel, of the key head that the query head shares, to the map's own weight."""
    q, k = operands()
    attention = AttentionMap.from_qk(q, k, name="layer", **options)
    found = attention.explain(3, 2, 1, sample=1)
    expected = (q[1, 1, 3] * k[1, 0, 2]).double()
    assert torch.allclose(found.products, expected)
    assert found.scale == options.get("scale", 5**-0.5)
    assert found.added == pytest.approx(added)
    assert found.score == pytest.approx(float(expected.sum()) * found.scale + added)
    assert math.exp(found.score - found.total) == pytest.approx(float(attention[1, 1, 3, 2]), rel=1e-5)
    assert found.weight == pytest.approx(float(attention[1, 1, 3, 2]))


@pytest.mark.parametrize("options", [{"mask": SEEN}, {"causal": True}], ids=["mask", "causal"])
def test_a_hidden_key_has_no_weight(options: dict[str, Any]) -> None:
    """What is added is minus infinity."""
    found = AttentionMap.from_qk(*operands(), **options).explain(1, 5, 0, sample=0)
    assert (found.added, found.score, found.weight) == (-math.inf, -math.inf, 0.0)


def test_the_largest_terms_of_the_row_come_first() -> None:
    """With their labels, scores and weights."""
    axis = Tokens(list("abcdefg"))
    attention = AttentionMap.from_qk(*operands(batch=1), queries=axis, keys=axis)
    found = attention.explain("b", "d", 3)
    row = attention[0, 3, 1]
    assert (found.query, found.key) == ("b", "d")
    assert [term.key for term in found.terms] == ["abcdefg"[at] for at in row.argsort(descending=True)]
    assert [term.weight for term in found.terms] == pytest.approx(row.sort(descending=True).values.tolist())
    assert [math.exp(term.score - found.total) for term in found.terms] == pytest.approx(
        [term.weight for term in found.terms], rel=1e-5
    )


def test_positions_are_those_of_the_axes() -> None:
    """A patch by its row and column, a prefix token by its name."""
    axis = Patches((2, 3))
    attention = AttentionMap.from_qk(*operands(batch=1), queries=axis, keys=axis)
    found = attention.explain((1, 0), "cls", 0)
    assert (found.query, found.key) == ("(1, 0)", "cls")
    assert found.weight == pytest.approx(float(attention[0, 0, 4, 0]))


def test_each_sample_has_its_own_tokens() -> None:
    """Also where its windows are several places of the batch."""
    q, k = operands(batch=4)
    axis = Tokens([list("abcdefg"), list("tuvwxyz")])
    attention = AttentionMap.from_qk(q, k, windows=2, queries=axis, keys=axis)
    found = [attention.explain(1, 2, 0, sample=sample).key for sample in range(4)]
    assert found == ["c", "c", "v", "v"]


def test_a_notebook_shows_bars_and_no_markup_of_tokens() -> None:
    """Each of the strongest channels and keys has a bar; what tokens hold stays text."""
    axis = Tokens(["<b>", *"bcdefg"])
    found = AttentionMap.from_qk(*operands(batch=1), queries=axis, keys=axis).explain(0, 0, 0)._repr_html_()
    assert "<b>" not in found
    assert "&lt;b&gt; → &lt;b&gt;" in found
    assert found.count("width: 120px") == 2
    assert found.count("<tr><td>") == 5 + 7


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"query": 7, "key": 0, "head": 0, "sample": 0}, PositionError, "out of range"),
        ({"query": 0, "key": 0, "head": 4, "sample": 0}, PositionError, "Head index 4"),
        ({"query": 0, "key": 0, "head": 0, "sample": 2}, PositionError, "Sample index 2"),
        ({"query": 0, "key": 0, "head": 0}, ChoiceError, r"2 samples; choose one by sample=0 … 1"),
        ({"query": "x", "key": 0, "head": 0, "sample": 0}, NameNotFoundError, "x"),
    ],
)
def test_what_is_not_there_is_refused(options: dict[str, Any], error: type[Exception], match: str) -> None:
    """As in an index of the map."""
    axis = Tokens(list("abcdefg"))
    with pytest.raises(error, match=match):
        AttentionMap.from_qk(*operands(), queries=axis, keys=axis).explain(**options)


def test_weights_that_were_given_are_not_explained() -> None:
    """What made them is not known, and is said so."""
    with pytest.raises(UnsupportedError, match="were given, so what made them is not known; maps of fused kernels"):
        AttentionMap.from_weights(torch.eye(3)).explain(0, 0, 0)
