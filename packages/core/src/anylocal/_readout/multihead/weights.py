"""The weights of torch's multi-head attention as they were in the calls."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import nn

from anylocal._engine import tensors
from anylocal._engine.subscription import Subscription

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anylocal._engine.resolve import IdentityFilter

# The fused paths


class _State(NamedTuple):
    """Which tensors the weights are, and how often they were changed in place."""

    marks: tuple[tuple[int, int | None, int | None], ...]
    # Held, for the id of one that is gone may come again.
    tensors: tuple[torch.Tensor, ...]


class RecordedWeights:
    """The weights as they were in the calls: the fused paths keep them to themselves."""

    def __init__(self) -> None:
        self._first: dict[int, _State] = {}
        self._differed: set[int] = set()

    def note(self, owner: object) -> None:
        """Take note of the weights with which a module runs."""
        state = _state(owner)
        if self._first.setdefault(id(owner), state).marks != state.marks:
            self._differed.add(id(owner))

    def have_changed(self, owner: object) -> bool:
        """Say whether a module has other weights now than in a call, or had different ones in different calls."""
        first = self._first.get(id(owner))
        return id(owner) in self._differed or (first is not None and first.marks != _state(owner).marks)

    def clear(self) -> None:
        """Forget all calls."""
        # Maps made before go on asking for what they were made with.
        self._first, self._differed = {}, set()

    def copy(self) -> RecordedWeights:
        """Return what is known now, which a later `clear` leaves alone."""
        copied = RecordedWeights()
        copied._first, copied._differed = self._first, self._differed
        return copied


class Watch:
    """Accepts some objects, and takes note of their weights each time one of them runs."""

    def __init__(self, among: IdentityFilter, weights: RecordedWeights) -> None:
        self._among = among
        self._weights = weights

    def __call__(self, owner: object) -> bool:
        """Say whether it is one of them."""
        is_one = self._among(owner)
        if is_one:
            self._weights.note(owner)
        return is_one


class WatchCompiled(Watch):
    """Accepts what compiled code has left only: elsewhere the operands themselves are taken, which need no weights."""

    def __call__(self, owner: object) -> bool:
        """Say whether compiled code ran for one of them."""
        return sys._getframe(2).f_code is _RECEIVE and super().__call__(owner)  # noqa: SLF001  # the fast way to a frame


_RECEIVE: Final = Subscription.receive.__code__


def _state(owner: object) -> _State:
    weights = tuple(_deciding(owner))
    return _State(tuple((id(each), _address(each), tensors.version(each)) for each in weights), weights)


def _deciding(owner: object) -> Iterator[torch.Tensor]:
    """Give the weights of a module that decide the map: those of the projection, or of the norm before it."""
    if isinstance(owner, nn.MultiheadAttention):
        # By the parameters, for a parametrized weight is another tensor each time.
        yield from (each for name, each in owner.named_parameters() if not name.startswith(("out_proj.", "bias_v")))
    elif getattr(owner, "norm_first", False):
        layer: Any = owner
        yield from layer.norm1.parameters()


def _address(tensor: torch.Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # fake and functional tensors lie nowhere
        return None
