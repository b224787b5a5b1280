"""The weights of torch's multi-head attention as they were in the calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from anylocal._engine import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator


class _State(NamedTuple):
    """Which tensors the weights are, and how often they were changed in place."""

    marks: tuple[tuple[int, int | None, int | None], ...]
    # Held, because the id of a freed one may be used again.
    tensors: tuple[torch.Tensor, ...]


class RecordedWeights:
    """Which weights the fused paths used, which they keep to themselves."""

    def __init__(self) -> None:
        self._first: dict[int, _State] = {}
        self._differed: set[int] = set()

    def note(self, owner: object) -> None:
        """Note the weights with which a module runs."""
        state = _state(owner)
        if self._first.setdefault(id(owner), state).marks != state.marks:
            self._differed.add(id(owner))

    def have_changed(self, owner: object) -> bool:
        """Return whether a module's weights differ now from those of a call, or between calls."""
        first = self._first.get(id(owner))
        return id(owner) in self._differed or (first is not None and first.marks != _state(owner).marks)

    def clear(self) -> None:
        """Forget all calls."""
        # Maps made before keep their own.
        self._first, self._differed = {}, set()

    def copy(self) -> RecordedWeights:
        """Return a copy, which a later `clear` leaves alone."""
        copied = RecordedWeights()
        copied._first, copied._differed = self._first, self._differed
        return copied


def _state(owner: object) -> _State:
    weights = tuple(_deciding(owner))
    return _State(tuple((id(each), _address(each), tensors.version(each)) for each in weights), weights)


def _deciding(owner: object) -> Iterator[torch.Tensor]:
    """Yield the weights of a module that decide the map: of the projection, or of the norm before it."""
    if isinstance(owner, nn.MultiheadAttention):
        # By the parameters, because a parametrized weight is another tensor each time.
        yield from (each for name, each in owner.named_parameters() if not name.startswith(("out_proj.", "bias_v")))
    elif getattr(owner, "norm_first", False):
        layer: Any = owner
        yield from layer.norm1.parameters()


def _address(tensor: torch.Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # fake and functional tensors have no address
        return None
