"""Only the rows asked for are computed: what a map costs, counted in elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anylocal.attention import AttentionMap, rollout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def largest(read: Callable[[], object]) -> int:
    """Return the size of the largest tensor created while reading, not counting views."""
    sizes = [0]

    def dispatch(_mode: object, func: Any, _types: object, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        own = {storage(x) for x in tensors([*args, *(kwargs or {}).values()])}
        sizes.extend(x.numel() for x in tensors([result]) if storage(x) not in own)
        return result

    # Made by `type`, because torch's class has no types and a class statement would need them.
    with type("Mode", (TorchDispatchMode,), {"__torch_dispatch__": dispatch})():
        read()
    return max(sizes)


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def tensors(items: Iterable[Any]) -> Iterable[torch.Tensor]:
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, list | tuple):
            yield from tensors(item)


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
