"""Indexing a map is indexing the tensor, except that only the rows asked for are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from anylocal.attention import AttentionMap
from anylocal.errors import PositionError

B, H, Q, K, D = 3, 4, 5, 6, 8


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def computed(heads: int = H, batch: int = B, **options: Any) -> AttentionMap:
    return AttentionMap.from_qk(2 * random(B, H, Q, D), 2 * random(batch, heads, K, D), **options)


MAPS = {
    "weights": AttentionMap.from_weights(random(B, H, Q, K).softmax(-1)),
    "plain": computed(),
    "grouped": computed(heads=2, causal=True),
    "one key head": computed(heads=1, batch=1),
    "bool": computed(mask=random(B, H, Q, K) > 0),
    "bool per key": computed(mask=random(B, 1, 1, K) > 0, causal=True),
    "bias per head": computed(mask=random(H, Q, K)),
}

INDICES: list[Any] = [
    (),
    ...,
    None,
    0,
    -1,
    np.int64(2),
    torch.tensor(1),
    (0, 3),
    (0, 3, 2),
    (0, 3, 2, 5),
    (..., 0),
    (..., 0, slice(None)),
    (slice(None), slice(None), 0),
    (slice(None), slice(None), -2),
    (slice(None), -1, slice(1, 4)),
    (slice(None), slice(0, 4, 3), slice(0, 100, 2), slice(-3, None)),
    (slice(3, 1), slice(None), slice(5, 9)),
    (1, ..., 2),
    (None, 1, None, ..., None),
    [2, 0],
    (slice(None), [3, -1, 0]),
    (slice(None), slice(None), [4, 4]),
    (slice(None), slice(None), slice(None), [5, 0]),
    (0, slice(None), [1, 2]),
    (slice(None), 1, [1, 2], 0),
    ([0, 1], None, 2),
    (slice(None), []),
    (slice(None), np.array([1, 3])),
    (slice(None), np.array([1, 3], dtype=np.uint8)),
    (slice(None), np.array([1, 2, 3])[::-1]),
    (slice(None), np.array([True, True, False, False])[::-1]),
    (slice(None), torch.tensor([1, 3], dtype=torch.int32)),
    [True, False, True],
    (slice(None), [True, False, False, True]),
    (slice(None), slice(None), np.array([False] * 5)),
    (slice(None), slice(None), slice(None), torch.tensor([True, False] * 3)),
    ([0, 2], [1, 3]),
    ([0, 2], slice(None), [1, 3]),
    ([[0], [2]], slice(None), slice(1, 3), [1, 3]),
    (slice(None), [[0, 1], [2, 3]]),
    (1, [0, 2], slice(None), [-1, 0]),
    (slice(None), torch.ones(H, Q, dtype=torch.bool).tril()),
    True,
    (False, 0),
]

BACKWARDS: list[Any] = [
    slice(None, None, -1),
    (0, slice(None, None, -2)),
    (slice(None), 1, slice(4, 0, -1)),
    (..., slice(None, None, -1)),
    (slice(None, None, -1), [0, 1], slice(None, None, -3), slice(2, None, -1)),
]


def plain(index: Any) -> Any:
    """Convert arrays for torch, without negative strides and bytes, which it takes for bool."""
    if isinstance(index, tuple):
        return tuple(map(plain, index))
    return np.array(index, dtype=bool if index.dtype == bool else np.int64) if isinstance(index, np.ndarray) else index


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("index", INDICES, ids=repr)
@pytest.mark.parametrize("name", MAPS)
def test_index_is_that_of_the_tensor(name: str, index: Any) -> None:
    """Every index gives what it gives on the whole tensor."""
    whole = MAPS[name].tensor()
    expected = whole[plain(index)]
    result = MAPS[name][index]
    assert expected.shape == result.shape
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("index", INDICES, ids=repr)
@pytest.mark.parametrize("name", MAPS)
def test_index_of_a_longer_map_is_that_of_the_tensor(monkeypatch: pytest.MonkeyPatch, name: str, index: Any) -> None:
    """Every index gives the same where the map is read a row at a time."""
    whole = MAPS[name].tensor()
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", 1)
    result = MAPS[name][index]
    assert whole[plain(index)].shape == result.shape
    torch.testing.assert_close(result, whole[plain(index)], atol=1e-6, rtol=0)


@pytest.mark.parametrize("index", [(..., 2), (0, 1, [4, 0, 4], [1, 2, 1])], ids=repr)
def test_gradient_of_a_selection(index: Any) -> None:
    """What is selected block by block has the gradient that it has in the whole tensor."""
    q, k = (2 * random(B, H, Q, D)).requires_grad_(), (2 * random(B, H, K, D)).requires_grad_()
    attention = AttentionMap.from_qk(q, k)
    expected = torch.autograd.grad(attention.tensor()[index].square().sum(), (q, k))
    found = torch.autograd.grad(attention[index].square().sum(), (q, k))
    assert min(gradient.abs().max() for gradient in expected) > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("index", BACKWARDS, ids=repr)
@pytest.mark.parametrize("name", MAPS)
def test_slices_may_run_backwards(name: str, index: Any) -> None:
    """Slices with a negative step, which torch lacks, behave as in NumPy."""
    expected = np.asarray(MAPS[name])[index]
    np.testing.assert_allclose(MAPS[name][index].numpy(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("array", [np.array([0, 3]), np.array([True, False, False, True])], ids=repr)
def test_read_only_array_is_an_index(array: np.ndarray[Any, Any]) -> None:
    """A read-only array is accepted without a warning."""
    assert torch.equal(MAPS["weights"][:, ::3], MAPS["weights"][:, read_only(array)])


@pytest.mark.parametrize(
    ("index", "match"),
    [
        (3, "Batch index 3 is out of range: there are 3"),
        ((0, -5), "Head index -5 is out of range: there are 4"),
        ((slice(None), slice(None), 5), "Query index 5 is out of range: there are 5"),
        ((..., 6), "Key index 6 is out of range: there are 6"),
        ((slice(None), [0, 4]), "Head index 4 is out of range"),
        (([0, 1], [0, -9]), "Head index -9 is out of range"),
        ((0, 0, 0, 0, 0), "too long for a map, whose axes are batch, head, query, key"),
        ((..., 0, ...), "too long"),
        ((0, torch.ones(H, Q, 2, dtype=torch.bool)), r"bool index of shape \(4, 5, 2\) does not fit the head axis"),
        ([True, False], r"bool index of shape \(2,\) does not fit the batch axis"),
        ("cls", "A map cannot be indexed by 'cls'; use integers"),
        (1.0, "A map cannot be indexed by 1.0"),
        ((0, [0.5]), r"A map cannot be indexed by \[0.5\]"),
        (torch.tensor([0.5]), "A map cannot be indexed by"),
        ([[0, 1], [2]], "A map cannot be indexed by"),
        ((slice(None), [0, 1, 2], [0, 1]), r"Arrays of shapes \(3,\), \(2,\) do not broadcast to one shape"),
    ],
)
@pytest.mark.parametrize("name", ["weights", "plain"])
def test_index_that_does_not_fit_is_refused(name: str, index: Any, match: str) -> None:
    """An index beyond the map raises an IndexError that names the axis."""
    with pytest.raises(PositionError, match=match) as caught:
        MAPS[name][index]
    assert isinstance(caught.value, IndexError)


def test_map_is_a_sequence_of_samples() -> None:
    """Iterating ends after the last sample, and each is that sample's map."""
    samples = list(MAPS["plain"])
    assert B == len(MAPS["plain"]) == len(samples)
    torch.testing.assert_close(torch.stack(samples), MAPS["plain"].tensor())
