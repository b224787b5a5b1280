"""Only the rows asked for are computed: what a map costs, counted in elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from anylocal.attention import AttentionMap, rollout

from .sizes import created, largest, most_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


N = 600
LARGE: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "bool": {"mask": torch.ones(N, N, dtype=torch.bool).tril()},
    "bias": {"mask": torch.zeros(1, 2, N, N)},
    "bool per key": {"mask": torch.ones(2, 1, 1, N, dtype=torch.bool)},
}


def large(name: str) -> AttentionMap:
    return AttentionMap.from_qk(torch.ones(2, 2, N, 4).bfloat16(), torch.ones(2, 1, N, 4).bfloat16(), **LARGE[name])


def test_making_a_map_computes_nothing() -> None:
    """A map that is never read costs nothing, and its operands are not copied."""
    q, mask = torch.ones(2, 2, N, 4), torch.ones(N, dtype=torch.bool)
    assert 0 == largest(lambda: AttentionMap.from_qk(q, q, mask=mask, causal=True))


@pytest.mark.parametrize(
    "index", [(..., 0, slice(None)), (0, 1, [3, 500]), (..., slice(0, N, 100), slice(None)), (..., 5, 5)], ids=repr
)
@pytest.mark.parametrize("name", LARGE)
def test_rows_cost_rows(name: str, index: Any) -> None:
    """For some rows, no tensor reaches query × key elements, even over all samples and heads."""
    attention = large(name)
    assert largest(lambda: attention[index]) < N * N / 10


@pytest.mark.parametrize("name", LARGE)
def test_a_head_costs_a_head(name: str) -> None:
    """For one head of one sample, nothing is computed for the others."""
    attention = large(name)
    assert N * N == largest(lambda: attention[1, 1])


def test_the_softmax_takes_the_place_of_the_scores() -> None:
    """Of the size of the map, one tensor is made."""
    attention = large("plain")
    assert created(lambda: attention[1, 1]).count(N * N) == 1


def test_a_mask_takes_no_memory_of_the_size_of_the_map() -> None:
    """Rows that a mask hides completely are found and set to zero without another tensor of the map's size."""
    attention = large("bias")
    assert created(lambda: attention[1, 1]).count(N * N) == 1


@pytest.mark.parametrize("index", [(..., 0, slice(None)), (...,)], ids=repr)
def test_views_of_a_buffer_are_read_where_they_are(index: Any) -> None:
    """Query and key in one buffer, sample by sample, are not copied to be multiplied."""
    q, k = torch.randn(2, N, 2, 4, 64).permute(2, 0, 3, 1, 4)
    attention = AttentionMap.from_qk(q, k)
    assert k.numel() not in created(lambda: attention[index])


def test_long_keys_are_converted_head_by_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a row, keys in half precision are not all converted at once."""
    q, k = (torch.randn(1, heads, N, 16).bfloat16() for heads in (8, 4))
    attention = AttentionMap.from_qk(q, k)
    expected = attention[0, :, 3]
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", 2 * N * 16)
    assert largest(lambda: attention[0, :, 3]) <= N * 16
    torch.testing.assert_close(attention[0, :, 3], expected)


def test_grouped_keys_are_not_repeated() -> None:
    """Keys shared by several heads are not repeated."""
    attention = AttentionMap.from_qk(torch.ones(1, 8, 2, 64), torch.ones(1, 2, N, 64))
    assert 8 * 2 * N == largest(attention.tensor)


def test_head_mean_costs_no_map() -> None:
    """The mean over heads of all queries never holds the whole map."""
    q = torch.ones(1, 32, N, 4)
    attention = AttentionMap.from_qk(q, q, causal=True)
    assert largest(attention.head_mean) < 32 * N * N / 2


def test_head_mean_of_rows_costs_rows() -> None:
    """For one query, it makes nothing of size query × key."""
    attention = large("bias")
    assert largest(lambda: attention.head_mean(3)) < N * N / 10


def test_rollout_of_rows_never_makes_a_matrix() -> None:
    """The rollout of two queries through three layers makes nothing of size query × key."""
    length = 2400
    q = torch.ones(1, 2, length, 2)
    layers = [AttentionMap.from_qk(q, q, causal=True) for _ in range(3)]
    assert 0 < largest(lambda: rollout(layers, queries=[0, -1])) < length * length


LONG = 2400
FEW = torch.tensor([5, 2000, 7])
SELECTIONS: dict[str, Any] = {
    "a column": (..., 7),
    "columns": (0, slice(None), slice(None), [3, 2399]),
    "a block": (..., slice(0, 2300, 2), slice(100, 200)),
    "columns backwards": (..., slice(50, None, -1)),
    "columns of two heads": (0, [1, 0], slice(None), 3),
    "columns of other heads": (0, [0, 1], slice(None), [3, 4]),
    "pairs": (0, 1, FEW, FEW.flip(0)),
    "pairs of all queries": (0, 1, torch.arange(LONG), torch.arange(LONG).flip(0)),
    "flags and a column": (0, 0, torch.arange(LONG) % 3 == 0, 5),
    "a matrix of columns": (0, 0, slice(None), [[1, 2], [3, 4]]),
}


def operands() -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(1, 2, LONG, 2, generator=generator) for _ in "qk")


def long(factor: float = 1.0) -> AttentionMap:
    q, k = operands()
    return AttentionMap.from_qk(factor * q, k, causal=True)


@pytest.mark.parametrize("name", SELECTIONS)
def test_no_selection_makes_a_matrix(name: str) -> None:
    """For columns, blocks and pairs, nothing of size query × key exists."""
    attention = long()
    assert 0 < largest(lambda: attention[SELECTIONS[name]]) < LONG * LONG


@pytest.mark.parametrize("name", SELECTIONS)
def test_selections_of_long_maps_are_exact(name: str) -> None:
    """What is selected block by block is what the float64 softmax has there."""
    attention = long()
    q, k = (each.double() for each in operands())
    scores = (q @ k.mT / 2**0.5).masked_fill(torch.ones(LONG, LONG).triu(1) > 0, -torch.inf)
    index = SELECTIONS[name]
    backwards = name == "columns backwards"
    expected = scores.softmax(-1)[(..., torch.arange(50, -1, -1)) if backwards else index]
    assert expected.std() > 1e-4
    torch.testing.assert_close(attention[index].double(), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("block", [2**10, 2**22])
def test_a_column_keeps_nothing_else(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """The memory of a column is that of its own values."""
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", block)
    column = large("plain")[..., 3]
    assert column.numel() * 4 == column.untyped_storage().nbytes()


REDUCTIONS: dict[str, Callable[[AttentionMap], object]] = {
    "sum of columns": lambda map_: map_.sum(-2),
    "sum": lambda map_: map_.sum(),
    "mean": lambda map_: map_.mean((-2, -1)),
    "max of rows": lambda map_: map_.max(-1),
    "max of columns": lambda map_: map_.max(-2),
    "place of the max": lambda map_: map_.argmax(),
    "place in columns": lambda map_: map_.argmax(-2),
    "strongest": lambda map_: map_.topk(64, (-2, -1)),
    "strongest of columns": lambda map_: map_.topk(3, -2),
    "strongest of rows": lambda map_: map_.topk(3),
    "change": lambda map_: (map_ - long(0.5)).abs().max(),
    "rows of a change": lambda map_: (map_ - long(0.5))[0, 0, :3],
    "columns of a change": lambda map_: (map_ - 2 * long(0.5))[..., 3],
    "share": lambda map_: (map_ > 0.1).mean(-1),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_no_reduction_makes_a_matrix(name: str) -> None:
    """Sums, maxima, the strongest weights and differences never hold anything of size query × key."""
    attention = long()
    assert 0 < largest(lambda: REDUCTIONS[name](attention)) < LONG * LONG


@pytest.mark.parametrize("read", [lambda a: a[..., 5], lambda a: a[0, 0, [1, 9], [5, 5]], *REDUCTIONS.values()])
def test_blocks_go_as_they_come(monkeypatch: pytest.MonkeyPatch, read: Callable[[AttentionMap], object]) -> None:
    """Of 48 blocks neither those before the one at hand stay in memory, nor a small part of each between the others."""
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", 2 * 50 * LONG)
    attention = long()
    assert most_alive(lambda: read(attention)) < 30


def test_long_rows_of_many_heads_are_read_head_by_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a block has no room for some rows of all heads, products stay those of many rows."""
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", 64 * N)
    heights = []

    def products(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        heights.append(q.shape[2])
        return q @ k.mT

    monkeypatch.setattr("anylocal._maps.rows._products", products)
    attention = AttentionMap.from_qk(torch.ones(1, 8, N, 4), torch.ones(1, 8, N, 4))
    for read in (lambda: attention.sum(-2), lambda: attention.topk(3, (-2, -1)), lambda: attention[..., 5]):
        heights.clear()
        read()
        assert sorted(heights)[len(heights) // 8] >= 32
