"""What reading costs: the size of the tensors that are created."""

from __future__ import annotations

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

    def dispatch(_mode: object, func: Any, _types: object, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        own = {storage(x) for x in tensors([*args, *(kwargs or {}).values()])}
        sizes.extend(x.numel() for x in tensors([result]) if storage(x) not in own)
        return result

    # Made by `type`, because torch's class has no types and a class statement would need them.
    with type("Mode", (TorchDispatchMode,), {"__torch_dispatch__": dispatch})():
        read()
    return sizes


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def tensors(items: Iterable[Any]) -> Iterable[torch.Tensor]:
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, list | tuple):
            yield from tensors(item)
