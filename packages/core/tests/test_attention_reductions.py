"""Sums, maxima and the strongest weights of a map are those of the whole tensor, a few rows at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from anylocal.attention import AttentionMap, TopK
from anylocal.errors import OptionError, PositionError

if TYPE_CHECKING:
    from collections.abc import Callable

B, H, Q, K, D = 2, 4, 35, 300, 4


def operands(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        (2 * torch.randn(B, H, Q, D, generator=generator)).to(dtype),
        (2 * torch.randn(B, 2, K, D, generator=generator)).to(dtype),
    )


def weights(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the map in float64."""
    q, k = (each.double() for each in operands(dtype))
    scores: torch.Tensor = q @ k.repeat_interleave(2, 1).mT / D**0.5
    return scores.softmax(-1)


@pytest.fixture(params=[1, 40 * K, 2**22], ids=["by row", "by head", "at once"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AttentionMap:
    """Return a map that is read in blocks of several sizes."""
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", request.param)
    return AttentionMap.from_qk(*operands())


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, atol=1e-6, rtol=1e-5)


AXES: list[Any] = [None, 0, 1, 2, 3, -1, -2, (-2, -1), (0, 2), (1, 3), (1, 2), (0, 1, 2, 3)]
WAYS: dict[str, Callable[[Any, Any], torch.Tensor]] = {
    "sum": lambda values, axis: values.sum(axis),
    "mean": lambda values, axis: values.mean(axis),
    "max": lambda values, axis: values.amax(axis) if isinstance(values, torch.Tensor) else values.max(axis),
    "min": lambda values, axis: values.amin(axis) if isinstance(values, torch.Tensor) else values.min(axis),
}


@pytest.mark.parametrize("axis", AXES, ids=repr)
@pytest.mark.parametrize("name", WAYS)
def test_reduction_is_that_of_the_tensor(attention: AttentionMap, name: str, axis: Any) -> None:
    """Along any axes, the result is that of the float64 softmax."""
    expected = WAYS[name](weights(), tuple(range(4)) if axis is None else axis)
    result = WAYS[name](attention, axis)
    assert (torch.float32, expected.shape) == (result.dtype, result.shape)
    assert_same(result, expected)


def test_sums_of_many_rows_are_exact() -> None:
    """What a key receives of 20,000 queries is that of float64 to 1e-5."""
    generator = torch.Generator().manual_seed(0)
    q, k = (2 * torch.randn(length, 8, generator=generator) for length in (20_000, 50))
    expected = (q.double() @ k.double().mT / 8**0.5).softmax(-1).sum(0)
    assert expected.max() > 3 * expected.min()
    torch.testing.assert_close(AttentionMap.from_qk(q, k).sum(-2)[0, 0].double(), expected, atol=0, rtol=1e-5)


def test_sums_of_many_blocks_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding does not add up from block to block."""
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", 1)
    total = AttentionMap.from_weights(torch.full((20_000, 1), 0.1)).sum(-2)
    torch.testing.assert_close(total.item(), 20_000 * torch.tensor(0.1).item(), atol=0, rtol=1e-6)


def test_sums_of_rounded_weights_are_added_up_in_full() -> None:
    """Given weights in half precision are not added up in it."""
    total = AttentionMap.from_weights(torch.full((4096, 1), 0.1).half()).sum()
    assert torch.float32 == total.dtype
    assert_same(total, torch.tensor(0.1).half().double() * 4096)


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1], ids=repr)
def test_place_of_the_largest(attention: AttentionMap, axis: Any) -> None:
    """The position of the maximum is that in the tensor."""
    assert torch.equal(attention.argmax(axis), weights().argmax(axis))


@pytest.mark.parametrize("axis", [None, 2, -1], ids=repr)
def test_place_of_the_first_of_equals(attention: AttentionMap, axis: Any) -> None:
    """Of equal weights the first counts, wherever blocks end."""
    even = AttentionMap.from_qk(torch.zeros(B, H, Q, 1), torch.zeros(B, H, K, 1))
    assert attention.shape == even.shape
    assert not even.argmax(axis).any()


@pytest.mark.parametrize("axis", [0, 1, 2, -2, 3, -1], ids=repr)
@pytest.mark.parametrize("k", [1, 2])
def test_strongest_along_an_axis(attention: AttentionMap, k: int, axis: int) -> None:
    """Values and indices are those of `torch.topk`."""
    expected = weights().topk(k, axis)
    result = attention.topk(k, axis)
    assert isinstance(result, TopK)
    assert torch.equal(result.indices, expected.indices)
    assert_same(result.values, expected.values)


@pytest.mark.parametrize("k", [1, 64, Q * K])
def test_strongest_of_all_pairs(attention: AttentionMap, k: int) -> None:
    """Each head has its strongest weights, with the query and the key of each."""
    values, indices = attention.topk(k, axis=(-1, -2))
    assert (B, H, k, 2) == indices.shape
    assert_same(values, weights().flatten(2).topk(k).values)
    queries, keys = indices.unbind(-1)
    batch, heads = torch.arange(B)[:, None, None], torch.arange(H)[:, None]
    assert_same(values, weights()[batch, heads, queries, keys])


def test_strongest_by_default_are_those_of_each_query(attention: AttentionMap) -> None:
    """Without an axis, it is that of the keys."""
    assert torch.equal(attention.topk(3).indices, weights().topk(3).indices)


@pytest.mark.parametrize("length", [2 * 64 * 3, 1000, 1023])
def test_strongest_of_long_rows(length: int) -> None:
    """In rows long enough to be searched by groups, wherever they end, the strongest are the same."""
    rows = torch.rand(2, length, generator=torch.Generator().manual_seed(length))
    rows[0, -1], rows[1, -2] = 2, 3
    expected = rows.topk(3)
    values, indices = AttentionMap.from_weights(rows).topk(3)
    assert torch.equal(values[0, 0], expected.values)
    assert torch.equal(indices[0, 0], expected.indices)


def test_reductions_have_gradients() -> None:
    """The sum of a column has the gradient of the tensor's."""
    q, k = (each.requires_grad_() for each in operands())
    expected = torch.autograd.grad(AttentionMap.from_qk(q, k).tensor().sum(2).square().sum(), (q, k))
    found = torch.autograd.grad(AttentionMap.from_qk(q, k).sum(2).square().sum(), (q, k))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("read", "error", "match"),
    [
        (lambda attention: attention.sum(4), PositionError, "Axis index 4 is out of range: there are 4"),
        (lambda attention: attention.mean(()), OptionError, r"axis=\(\) names no axis"),
        (lambda attention: attention.max("key"), PositionError, "Axis index 'k' is not an integer"),
        (lambda attention: attention.argmax((-2, -1)), PositionError, r"Axis index \(-2, -1\) is not an integer"),
        (lambda attention: attention.topk(301), OptionError, "k=301 .* there are 300 along axis -1"),
        (lambda attention: attention.topk(0), OptionError, "k=0 of the strongest"),
        (lambda attention: attention.topk(3, (0, 1)), OptionError, r"axis=\(0, 1\): .* along \(-2, -1\)"),
    ],
)
def test_what_does_not_exist_is_refused(
    read: Callable[[AttentionMap], object], error: type[Exception], match: str
) -> None:
    """An axis that is not there, or more weights than there are, raise an error that says so."""
    with pytest.raises(error, match=match):
        read(AttentionMap.from_qk(*operands()))


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "argmax"])
@pytest.mark.parametrize("axis", [-2, 3])
def test_reductions_take_torchs_arguments(name: str, axis: int) -> None:
    """`dim` is the axis, and `keepdim` keeps it, as in torch."""
    weights = torch.rand(2, 3, 4, 5)
    reduced = getattr(AttentionMap.from_weights(weights), name.removeprefix("a") if name in {"amax", "amin"} else name)
    torch.testing.assert_close(reduced(dim=axis, keepdim=True), getattr(weights, name)(dim=axis, keepdim=True))


def test_an_axis_by_both_of_its_names_is_refused() -> None:
    """It is not known which of the two is meant."""
    with pytest.raises(OptionError, match="axis=0 and dim=1 are two names"):
        AttentionMap.from_weights(torch.eye(2)).sum(0, dim=1)
