"""What is recorded of a value: the option ``keep``."""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import TYPE_CHECKING, Any, Final

from anylocal._engine.containers import CONTAINERS, PLAIN, Copy, parts
from anylocal._engine.tensors import from_torch, is_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

KEEPS: Final = ("detach", "graph", "clone", "cpu")


def keeper(keep: str | Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the function for an option `keep`, from a value to the recorded one."""
    if callable(keep):
        return keep
    return {"detach": detached, "graph": as_is, "clone": _cloned, "cpu": on_cpu}[keep]


def as_is(value: Any) -> Any:
    """Return a value as it is: a tensor with its graph."""
    return value


def detached(value: Any) -> Any:
    """Return a tensor, or those in a container, without the graph."""
    if type(value) is from_torch("Tensor"):
        return value.detach()
    return _map_parts(_detach, value, arrays=False)


def _cloned(value: Any) -> Any:
    return _map_parts(_clone, value, arrays=True)


def on_cpu(value: Any) -> Any:
    """Return a copy on the CPU of a tensor or an array, or of those in a container."""
    return _map_parts(_copy_to_cpu, value, arrays=True)


def _detach(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach()


def _clone(value: Any) -> Any:
    return value.detach().clone() if is_tensor(value) else value.copy()


def _copy_to_cpu(value: Any) -> Any:
    # A tensor that is on the CPU already is copied too, so that it cannot change afterwards.
    return value.detach().to("cpu", copy=True) if is_tensor(value) else value.copy()


def _map_parts(function: Callable[[Any], Any], value: Any, *, arrays: bool) -> Any:
    """Apply a function to a tensor, or to those in lists, tuples and dicts at any depth; leave the rest as it is."""
    tensor_class = from_torch("Tensor")
    if _is_tracing():
        return _map_traced(function, value, tensor_class)
    if type(value) in PLAIN:
        return value
    array_class = getattr(sys.modules.get("numpy"), "ndarray", None) if arrays else None
    kinds = tuple([kind for kind in (tensor_class, array_class) if kind is not None])
    if issubclass(type(value), kinds):
        return _tried(function, value)
    # A copy must be complete, however long it takes; shared containers are searched for a bounded time.
    found = parts(value, whole=arrays) if issubclass(type(value), CONTAINERS) else ()
    if not any(issubclass(type(part), kinds) for part, _ in found):
        return value
    try:
        return Copy(functools.partial(_tried, function), kinds, whole=arrays).of(value)
    except Exception:  # noqa: BLE001  # the hash of a dict's key is the user's own code
        return value


def _tried(function: Callable[[Any], Any], value: Any) -> Any:
    # A tensor without data can be neither detached nor copied. The model goes on, and versions show a change.
    for attempt in (function, _detach):
        with contextlib.suppress(Exception):
            return attempt(value)
    return value


def _is_tracing() -> bool:
    is_tracing = getattr(from_torch("compiler"), "is_dynamo_compiling", None)
    return is_tracing is not None and is_tracing()


def _map_traced(function: Callable[[Any], Any], value: Any, tensor_class: type[Any]) -> Any:
    """Do the same where dynamo traces, which knows the types of values and follows simple code only."""
    if isinstance(value, tensor_class):
        return function(value)
    kind = type(value)
    kinds = (tensor_class, tuple, list, dict)
    if kind in (tuple, list) and any(isinstance(item, kinds) for item in value):
        return kind([_map_traced(function, item, tensor_class) for item in value])
    if kind is dict and any(isinstance(item, kinds) for item in value.values()):
        return {key: _map_traced(function, item, tensor_class) for key, item in value.items()}
    return value
