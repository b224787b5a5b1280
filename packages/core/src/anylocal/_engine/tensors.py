"""Questions about tensors and modules, without importing torch.

A value can only be a tensor once the user has imported torch, so torch is looked up in `sys.modules` each time.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from anylocal._engine.containers import CONTAINERS, parts

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

    import torch


# Attributes under which torch's own wrappers hold the user's module.
_WRAPPED: Final = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def from_torch(name: str) -> Any:
    torch_module = sys.modules.get("torch")
    # While torch itself is being imported it is listed, but has no Tensor yet.
    return None if torch_module is None else getattr(torch_module, name, None)


def is_loaded() -> bool:
    """Return whether torch is imported."""
    return from_torch("Tensor") is not None


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Return whether a value is a tensor, without running any code of the value."""
    tensor_class = from_torch("Tensor")
    # isinstance would run the `__class__` of a proxy, which may raise.
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
    # At each record, so without further calls.
    base = getattr(getattr(sys.modules.get("torch"), "nn", None), "Module", None)
    return base if isinstance(base, type) else None


def module_names(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield every submodule with its name in the user's own model.

    ``torch.compile`` and data parallelism put the user's model into a module of their own, whose attribute would be in
    every name.
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


def tensor_type() -> type | None:
    """Return the class of tensors, if torch is imported."""
    kind = from_torch("Tensor")
    return kind if isinstance(kind, type) else None


NO_TASK: Final = -1


def task_function() -> Callable[[], int]:
    """Return the function that returns the number of the backward pass that runs in this thread, or `NO_TASK`."""
    current: Callable[[], int] | None = getattr(from_torch("_C"), "_current_graph_task_id", None)
    return current or (lambda: NO_TASK)


def is_recomputing() -> bool:
    """Return whether activation checkpointing is running a forward pass once more, for a backward pass.

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
    """Return how often a tensor, or those in a container, were changed in place; None where torch does not count it.

    Inference tensors have no counter.
    """
    kind = type(value)
    if not issubclass(kind, CONTAINERS):
        return _count(value)
    versions = [count for part, _ in parts(value) if (count := _count(part)) is not None]
    # A counter only grows, so that the sum changes with each of them.
    return sum(versions) if versions else None


def _count(value: object) -> int | None:
    if not is_tensor(value):
        return None
    try:
        if type(value) is from_torch("Tensor"):
            return None if value.is_inference() else value._version
        with _without_overrides():
            return None if value.is_inference() else int(value._version)
    except Exception:  # noqa: BLE001  # a subclass of tensors may run any code
        return None


def storages(tensor: torch.Tensor) -> list[tuple[str, int, int]]:
    """Return device, address and size in bytes of each storage of a tensor, where they are known."""
    try:
        with _without_overrides():
            return [_storage(part) for part in _stored(tensor)]
    except Exception:  # noqa: BLE001  # as above
        return []


def storage(value: object) -> tuple[str, int, int] | None:
    """Return device, address and size in bytes of a dense tensor's storage; None for any other value."""
    if type(value) is not tensor_type():
        return None
    tensor: Any = value
    try:
        return _storage(tensor) if tensor.layout is from_torch("strided") else None
    except Exception:  # noqa: BLE001  # as above
        return None


def _without_overrides() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which subclasses of tensors do not override torch's functions."""
    context: contextlib.AbstractContextManager[Any] = from_torch("_C").DisableTorchFunctionSubclass()
    return context


# The tensors that a sparse one consists of, by its layout.
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
    except (NotImplementedError, RuntimeError):  # fake and functional tensors have no storage
        return tensor.device.type, id(tensor), tensor.numel() * tensor.element_size()


def free_memory(device: str) -> int | None:
    """Return the bytes free on an accelerator, or None where torch cannot tell."""
    if device != "cuda":
        return None
    try:
        free, _ = from_torch("cuda").mem_get_info()
    except Exception:  # noqa: BLE001  # a failing device, which the model itself will report
        return None
    return int(free)


def to_numpy(value: Any) -> Any:
    """Return a tensor as a NumPy array on the CPU (bfloat16, unknown to NumPy, as float32), the rest as it is."""
    if not is_tensor(value):
        return value
    tensor = value.detach()
    if tensor.dtype == from_torch("bfloat16"):
        tensor = tensor.float()
    return tensor.cpu().resolve_conj().resolve_neg().numpy()


def rank() -> int | None:
    """Return the rank of this process in torch.distributed, if that is initialized."""
    # Missing while torch is being imported, or where torch was built without.
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return int(distributed.get_rank())


def stack(values: list[Any]) -> Any:
    """Return tensors of one shape as one, with a first axis for the calls."""
    return from_torch("stack")(values)
