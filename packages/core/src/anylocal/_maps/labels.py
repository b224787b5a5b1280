"""The labels of an attention map: everything it knows about itself besides its rows."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar

import torch

from anylocal._maps.placed import PlacedPatches
from anylocal._maps.positions import Axis
from anylocal._maps.tokens import Tokens
from anylocal.errors import ShapeError

if TYPE_CHECKING:
    from anylocal._maps.rows import Shape

Function = TypeVar("Function", bound=Callable[..., Any])
Mixed: TypeAlias = torch.Tensor | Callable[[], torch.Tensor] | None


class LabelOptions(TypedDict, total=False):
    """The fields of `Labels`, as keyword arguments."""

    name: str
    queries: Axis | None
    keys: Axis | None
    fused: bool
    forward: int
    windows: int
    mixed: Mixed
    rank: int | None


@dataclass(frozen=True)
class Labels:
    """The labels of one map; `AttentionMap` documents them."""

    name: str = ""
    queries: Axis | None = None
    keys: Axis | None = None
    fused: bool = False
    forward: int = 0
    windows: int = 1
    mixed: Mixed = None
    rank: int | None = None

    def __post_init__(self) -> None:
        # NumPy's integers cannot be written as JSON.
        object.__setattr__(self, "forward", operator.index(self.forward))
        object.__setattr__(self, "windows", operator.index(self.windows))

    def axes(self, shape: Shape) -> tuple[Axis, Axis]:
        """Return the axes of queries and keys, after a check that the labels fit the shape of the map."""
        batch, _, rows, columns = shape
        if self.windows < 1 or batch % self.windows:
            msg = f"{self.name!r} has a batch of {batch}, which is not images × {self.windows} windows."
            raise ShapeError(msg)
        return self._fitted(self.queries, "query", batch, rows), self._fitted(self.keys, "key", batch, columns)

    def _fitted(self, axis: Axis | None, kind: str, batch: int, length: int) -> Axis:
        if axis is None:
            return Axis(length)
        if len(axis) != length:
            msg = f"{self.name!r} has {length} {kind} positions, and {axis!r} has {len(axis)}."
            raise ShapeError(msg)
        images = batch // self.windows
        if isinstance(axis, Tokens) and len(axis.texts) not in {1, images}:
            msg = f"{self.name!r} has a batch of {images}, and its {kind} tokens are {len(axis.texts)} texts."
            raise ShapeError(msg)
        if isinstance(axis, PlacedPatches) and axis.windows not in {1, self.windows, batch}:
            msg = (
                f"{self.name!r} has a batch of {batch} with windows={self.windows}, and its {kind} patches are those of"
                f" {axis.windows} windows."
            )
            raise ShapeError(msg)
        return axis


def with_labels(function: Function) -> Function:
    """Write the labels out in the signature of a function that takes them as ``**labels``, for help() and editors."""
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    labels = [each.replace(kind=each.KEYWORD_ONLY) for each in inspect.signature(Labels).parameters.values()]
    vars(function)["__signature__"] = signature.replace(parameters=[*own, *labels])
    return function
