"""What the cache of `get_local` makes of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from anylocal import get_local

if TYPE_CHECKING:
    from collections.abc import Callable


def kept(value: Any) -> Any:
    """Return what the cache has of a local variable with that value."""

    @get_local("item")
    def hold(item: Any) -> None:
        pass

    with get_local.active() as cache:
        hold(value)
    (result,) = cache[hold.__qualname__]
    return result


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, np.float32),
        (torch.float16, np.float16),
        (torch.bfloat16, np.float32),
        (torch.int64, np.int64),
        (torch.bool, np.bool_),
        (torch.complex64, np.complex64),
    ],
)
def test_tensors_become_arrays(dtype: torch.dtype, expected: Any) -> None:
    """Of the same type, where NumPy has it."""
    array = kept(torch.tensor([0, 1, 1]).to(dtype))
    assert (type(array), array.dtype, array.tolist()) == (np.ndarray, expected, [0, 1, 1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, requires_grad=True) * 2,
        lambda: torch.tensor([1 + 1j]).conj(),
        lambda: torch.ones(2, 3).T,
        lambda: torch.tensor([1 + 1j]).conj().imag,
    ],
    ids=["with a graph", "conjugate", "transposed", "negative"],
)
def test_tensors_of_every_kind_become_arrays(make: Callable[[], Tensor]) -> None:
    """Detached, with lazy views resolved."""
    tensor = make()
    assert np.array_equal(kept(tensor), tensor.detach().resolve_conj().resolve_neg().numpy())


def test_arrays_do_not_change_with_the_tensor() -> None:
    """They are copies."""

    @get_local("y")
    def fill(x: Tensor) -> Tensor:
        y = x + 1
        return y

    with get_local.active() as cache:
        fill(torch.zeros(2)).fill_(9)
    assert cache[fill.__qualname__][0].tolist() == [1, 1]


def test_inference_tensors_become_arrays() -> None:
    """They have no version, and are copied as any other."""
    with torch.inference_mode():
        tensor = torch.ones(2)
    assert kept(tensor).tolist() == [1, 1]
