"""What reading costs: the size of the tensors that are created."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def largest(read: Callable[[], object]) -> int:
    """Return the size of the largest tensor created while reading, not counting views."""
    return max(created(read), default=0)


def created(read: Callable[[], object]) -> list[int]:
    """Return the sizes of the tensors created while reading, not counting views."""
    sizes: list[int] = []
    each_made(read, lambda tensor: sizes.append(tensor.numel()))
    return sizes


def most_alive(read: Callable[[], object]) -> int:
    """Return how many of the tensors created while reading, not counting views, are in memory at a time."""
    counts = [0]
    made: list[weakref.ref[torch.UntypedStorage]] = []

    def count(tensor: torch.Tensor) -> None:
        made[:] = [each for each in made if each() is not None] + [weakref.ref(tensor.untyped_storage())]
        counts.append(len(made))

    each_made(read, count)
    return max(counts)


def each_made(read: Callable[[], object], seen: Callable[[torch.Tensor], object]) -> None:
    """Call a function with each tensor created while reading, without views."""

    def dispatch(_mode: object, func: Any, _types: object, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        own = {storage(x) for x in tensors([*args, *(kwargs or {}).values()])}
        for tensor in tensors([result]):
            if storage(tensor) not in own:
                seen(tensor)
        return result

    # Made by `type`, because torch's class has no types and a class statement would need them.
    with type("Mode", (TorchDispatchMode,), {"__torch_dispatch__": dispatch})():
        read()


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def tensors(items: Iterable[Any]) -> Iterable[torch.Tensor]:
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, list | tuple):
            yield from tensors(item)
