"""All that core knows of torch.

Nothing here imports it. A user's value can only be a tensor once somebody else has imported torch, so it is looked up
among the imported modules each time it matters.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from anylocal._engine.containers import CONTAINERS, PLAIN, Copy, parts

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

    import torch


KEEPS: Final = ("detach", "graph", "clone", "cpu")


# Under which attribute torch's own wrappers hold the user's module.
_WRAPPED: Final = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def from_torch(name: str) -> Any:
    torch_module = sys.modules.get("torch")
    # While torch itself is being imported it is listed, but has no Tensor yet.
    return None if torch_module is None else getattr(torch_module, name, None)


def is_loaded() -> bool:
    """Return whether torch was imported, and functions may be compiled."""
    return from_torch("Tensor") is not None


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Return whether a value is a tensor, without asking the value, which may be anything."""
    tensor_class = from_torch("Tensor")
    # isinstance would run the `__class__` of a proxy, which raises where there is nothing behind it.
    return tensor_class is not None and issubclass(type(value), tensor_class)


def is_module(value: object) -> TypeGuard[torch.nn.Module]:
    """Return whether a value is an ``nn.Module``."""
    nn = from_torch("nn")
    module_class = getattr(nn, "Module", None)
    return module_class is not None and isinstance(value, module_class)


def is_scripted(value: object) -> bool:
    """Return whether TorchScript has compiled a module, method or function, so that no Python code of it runs."""
    jit = from_torch("jit")
    kinds = tuple(
        kind for name in ("ScriptModule", "ScriptFunction") if isinstance(kind := getattr(jit, name, None), type)
    )
    method = getattr(from_torch("_C"), "ScriptMethod", None)
    return isinstance(value, (*kinds, method) if isinstance(method, type) else kinds)


def module_base() -> type | None:
    """Return ``nn.Module``, if torch is imported."""
    base = getattr(from_torch("nn"), "Module", None)
    return base if isinstance(base, type) else None


def module_names(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield every submodule with the name that the user knows it by.

    ``torch.compile`` and data parallelism put the user's model into a module of their own, whose attribute would
    stand in every name.
    """
    parallel = from_torch("nn").parallel
    wrappers = parallel.DataParallel, parallel.DistributedDataParallel
    modules, shown = {}, {"": ""}
    for name, module in model.named_modules():
        modules[name] = module
        outer, _, own = name.rpartition(".")
        if name and own not in _WRAPPED and not (own == "module" and isinstance(modules[outer], wrappers)):
            shown[name] = f"{shown[outer]}.{own}".removeprefix(".")
        else:
            shown[name] = shown[outer]
        yield shown[name], module


def keeper(keep: str | Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the function that makes of a value what is recorded of it."""
    if callable(keep):
        return keep
    return {"detach": detached, "graph": as_is, "clone": _cloned, "cpu": _on_cpu}[keep]


def as_is(value: Any) -> Any:
    """Return a value as it is, a tensor with its graph."""
    return value


def detached(value: Any) -> Any:
    """Return a tensor, or those in a container, without the graph."""
    if type(value) is from_torch("Tensor"):
        return value.detach()
    return _map_parts(_detach, value, arrays=False)


def _cloned(value: Any) -> Any:
    return _map_parts(_clone, value, arrays=True)


def _on_cpu(value: Any) -> Any:
    return _map_parts(_copy_to_cpu, value, arrays=True)


def _detach(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach()


def _clone(value: Any) -> Any:
    return value.detach().clone() if is_tensor(value) else value.copy()


def _copy_to_cpu(value: Any) -> Any:
    # A tensor that is on the CPU already is copied too: what is kept must not change afterwards.
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
    # A copy is a promise, and costs as much as there is; what is shared is looked at for a bounded time.
    found = parts(value, whole=arrays) if issubclass(type(value), CONTAINERS) else ()
    if not any(issubclass(type(part), kinds) for part, _ in found):
        return value
    try:
        return Copy(functools.partial(_tried, function), kinds, whole=arrays).of(value)
    except Exception:  # noqa: BLE001  # the keys of a dict are somebody else's objects, and so is their hash
        return value


def _tried(function: Callable[[Any], Any], value: Any) -> Any:
    # What has no data can be neither detached nor copied. The model goes on, and versions tell of a change.
    for attempt in (function, _detach):
        with contextlib.suppress(Exception):
            return attempt(value)
    return value


def _is_tracing() -> bool:
    is_tracing = getattr(from_torch("compiler"), "is_dynamo_compiling", None)
    return is_tracing is not None and is_tracing()


def _map_traced(function: Callable[[Any], Any], value: Any, tensor_class: type[Any]) -> Any:
    """Do the same where dynamo traces, which knows what it traces and follows simple code only."""
    if isinstance(value, tensor_class):
        return function(value)
    kind = type(value)
    kinds = (tensor_class, tuple, list, dict)
    if kind in (tuple, list) and any(isinstance(item, kinds) for item in value):
        return kind([_map_traced(function, item, tensor_class) for item in value])
    if kind is dict and any(isinstance(item, kinds) for item in value.values()):
        return {key: _map_traced(function, item, tensor_class) for key, item in value.items()}
    return value


def tensor_type() -> type | None:
    """Return the class of tensors, if torch is imported."""
    kind = from_torch("Tensor")
    return kind if isinstance(kind, type) else None


NO_TASK: Final = -1


def task_function() -> Callable[[], int]:
    """Return the function that gives the number of the backward pass that runs in this thread, or `NO_TASK`."""
    current: Callable[[], int] | None = getattr(from_torch("_C"), "_current_graph_task_id", None)
    return current or (lambda: NO_TASK)


def is_recomputing() -> bool:
    """Return whether activation checkpointing is running a forward once more, for a backward pass.

    A backward pass may run Python code for other reasons too; that code is called for the first time.
    """
    checkpoint = sys.modules.get("torch.utils.checkpoint")
    if checkpoint is None or task_function()() == NO_TASK:
        return False
    frame: types.FrameType | None = sys._getframe()  # noqa: SLF001  # the fast way to a frame
    while frame is not None:
        if frame.f_globals is vars(checkpoint):
            return True
        frame = frame.f_back
    return False


def version(value: object) -> int | None:
    """Return how often a tensor, or those in a container, were changed in place, or None where torch does not count it.

    Inference tensors have no counter.
    """
    kind = type(value)
    if not issubclass(kind, CONTAINERS):
        return _count(value)
    versions = [count for part, _ in parts(value) if (count := _count(part)) is not None]
    # A counter only ever grows, so that the sum tells of each change.
    return sum(versions) if versions else None


def _count(value: object) -> int | None:
    if not is_tensor(value):
        return None
    try:
        if type(value) is from_torch("Tensor"):
            return None if value.is_inference() else value._version
        with _without_overrides():
            return None if value.is_inference() else int(value._version)
    except Exception:  # noqa: BLE001  # a tensor of somebody's own kind, which may do anything when asked
        return None


def storages(tensor: torch.Tensor) -> list[tuple[str, int, int]]:
    """Return device, address and size in bytes of the memory behind a tensor, as far as it is known."""
    try:
        with _without_overrides():
            return [_storage(part) for part in _stored(tensor)]
    except Exception:  # noqa: BLE001  # as above
        return []


def _without_overrides() -> contextlib.AbstractContextManager[Any]:
    """Keep out of a block what subclasses of tensors make of torch's functions."""
    context: contextlib.AbstractContextManager[Any] = from_torch("_C").DisableTorchFunctionSubclass()
    return context


# Which tensors a sparse one is made of, by its layout.
_SPARSE: Final = {
    "torch.sparse_coo": ("_indices", "_values"),
    "torch.sparse_csr": ("crow_indices", "col_indices", "values"),
    "torch.sparse_bsr": ("crow_indices", "col_indices", "values"),
    "torch.sparse_csc": ("ccol_indices", "row_indices", "values"),
    "torch.sparse_bsc": ("ccol_indices", "row_indices", "values"),
}


def _stored(tensor: Any) -> list[Any]:
    names = _SPARSE.get(str(tensor.layout))
    return [tensor] if names is None else [getattr(tensor.detach(), name)() for name in names]


def _storage(tensor: Any) -> tuple[str, int, int]:
    try:
        storage = tensor.untyped_storage()
        return tensor.device.type, storage.data_ptr(), storage.nbytes()
    except (
        NotImplementedError,
        RuntimeError,
    ):  # fake and functional tensors have no storage to measure
        return tensor.device.type, id(tensor), tensor.numel() * tensor.element_size()


def free_memory(device: str) -> int | None:
    """Return the bytes free on an accelerator, or None where torch cannot tell."""
    if device != "cuda":
        return None
    try:
        free, _ = from_torch("cuda").mem_get_info()
    except Exception:  # noqa: BLE001  # a device in trouble, of which the model is to tell
        return None
    return int(free)


def to_numpy(value: Any) -> Any:
    """Return a tensor as a NumPy array on the CPU (bfloat16 as float32, which NumPy lacks), the rest as it is."""
    if not is_tensor(value):
        return value
    tensor = value.detach()
    if tensor.dtype == from_torch("bfloat16"):
        tensor = tensor.float()
    return tensor.cpu().resolve_conj().resolve_neg().numpy()


def rank() -> int | None:
    """Return the number of this process among those of torch.distributed, if it is one of them."""
    # While torch is being imported, or where it was built without, there is no such module.
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return int(distributed.get_rank())


def stack(values: list[Any]) -> Any:
    """Return tensors of one shape as one, with a first axis for the calls."""
    return from_torch("stack")(values)
