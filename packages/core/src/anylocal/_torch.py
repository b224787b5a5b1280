"""All that core knows of torch.

Nothing here imports it. A user's value can only be a tensor once somebody else has imported torch, so it is looked up
among the imported modules each time it matters.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard

from anylocal._parts import CONTAINERS, PLAIN, Copy, parts

if TYPE_CHECKING:
    import torch

KEEPS: Final = ("detach", "graph", "clone", "cpu")


# Under which attribute torch's own wrappers hold the user's module.
_WRAPPED: Final = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def _loaded(name: str) -> Any:
    torch_module = sys.modules.get("torch")
    # While torch itself is being imported it is listed, but has no Tensor yet.
    return None if torch_module is None else getattr(torch_module, name, None)


def is_loaded() -> bool:
    """Say whether torch was imported, and functions may be compiled."""
    return _loaded("Tensor") is not None


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Say whether a value is a tensor, without asking the value, which may be anything."""
    tensor_class = _loaded("Tensor")
    # isinstance would run the `__class__` of a proxy, which raises where there is nothing behind it.
    return tensor_class is not None and issubclass(type(value), tensor_class)


def is_module(value: object) -> TypeGuard[torch.nn.Module]:
    """Say whether a value is an ``nn.Module``."""
    nn = _loaded("nn")
    module_class = getattr(nn, "Module", None)
    return module_class is not None and isinstance(value, module_class)


def is_scripted(value: object) -> bool:
    """Say whether TorchScript has compiled a module, method or function, so that no Python code of it runs."""
    jit = _loaded("jit")
    kinds = tuple(
        kind for name in ("ScriptModule", "ScriptFunction") if isinstance(kind := getattr(jit, name, None), type)
    )
    method = getattr(_loaded("_C"), "ScriptMethod", None)
    return isinstance(value, (*kinds, method) if isinstance(method, type) else kinds)


def module_base() -> type | None:
    """Return ``nn.Module``, if torch is imported."""
    base = getattr(_loaded("nn"), "Module", None)
    return base if isinstance(base, type) else None


def module_names(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Give every submodule with the name that the user knows it by.

    ``torch.compile`` and data parallelism put the user's model into a module of their own, whose attribute would
    stand in every name.
    """
    parallel = _loaded("nn").parallel
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
    if type(value) is _loaded("Tensor"):
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
    tensor_class = _loaded("Tensor")
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
    is_tracing = getattr(_loaded("compiler"), "is_dynamo_compiling", None)
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
    kind = _loaded("Tensor")
    return kind if isinstance(kind, type) else None


class Compiler(NamedTuple):
    """What we need of dynamo: a function that it knows, and a way to keep it away from a code and what that calls."""

    is_tracing: Callable[[], bool]
    skip: Callable[[types.CodeType], None]


def compiler() -> Compiler | None:
    """Return what we need of dynamo, if torch is imported; dynamo itself need not be."""
    is_tracing = getattr(_loaded("compiler"), "is_dynamo_compiling", None)
    if is_tracing is None:
        return None
    frames = _loaded("_C")._dynamo.eval_frame
    action = frames._FrameAction.SKIP  # noqa: SLF001  # there is no public way that does not import dynamo
    strategy = frames._FrameExecStrategy(action, action)  # noqa: SLF001  # as above
    return Compiler(is_tracing, lambda code: frames.set_code_exec_strategy(code, strategy))


def is_exporting() -> bool:
    """Say whether torch.export is writing a model down."""
    # Not the public function: where dynamo traces, torch 2.9 takes it to be true whatever is being done.
    return bool(getattr(_loaded("compiler"), "_is_exporting_flag", False))


def refuse_to_retain_gradient(value: object, message: Callable[[], Exception]) -> None:
    """Have a tensor that has left a compiled graph refuse to wait for a gradient that will never come."""
    grad_fn = value.grad_fn if is_tensor(value) else None
    if grad_fn is None or grad_fn.name() != "CompiledFunctionBackward":
        return

    def retain_grad() -> None:
        raise message()

    value.retain_grad = retain_grad  # type: ignore[attr-defined]  # of this one tensor


NO_TASK: Final = -1


def task_function() -> Callable[[], int]:
    """Return the function that gives the number of the backward pass that runs in this thread, or `NO_TASK`."""
    current: Callable[[], int] | None = getattr(_loaded("_C"), "_current_graph_task_id", None)
    return current or (lambda: NO_TASK)


def is_recomputing() -> bool:
    """Say whether activation checkpointing is running a forward once more, for a backward pass.

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
        if type(value) is _loaded("Tensor"):
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
    context: contextlib.AbstractContextManager[Any] = _loaded("_C").DisableTorchFunctionSubclass()
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
        free, _ = _loaded("cuda").mem_get_info()
    except Exception:  # noqa: BLE001  # a device in trouble, of which the model is to tell
        return None
    return int(free)


def to_numpy(value: Any) -> Any:
    """Return a tensor as a NumPy array on the CPU (bfloat16 as float32, which NumPy lacks), the rest as it is."""
    if not is_tensor(value):
        return value
    tensor = value.detach()
    if tensor.dtype == _loaded("bfloat16"):
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
    return _loaded("stack")(values)


def code_changed(*, captured: bool, variants: int = 0) -> None:
    """Make compiled models notice that the code of a function is another now.

    dynamo does not guard on the code of functions that it has inlined, so what it compiled is dropped.

    Parameters
    ----------
    captured : bool
        Whether any function is captured now.
    variants : int
        For how many modules one function may have to be compiled, each by itself.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return
    settings = vars(_settings(dynamo.config, variants)) if captured else {}
    for name in set(_before) - set(settings):
        setattr(dynamo.config, name, _before.pop(name))
    for name, value in settings.items():
        _before.setdefault(name, getattr(dynamo.config, name))
        setattr(dynamo.config, name, value)
    if _has_compiled():
        dynamo.reset()


# dynamo's settings as they were before a capture was opened.
_before: Final[dict[str, Any]] = {}


def _settings(config: Any, variants: int) -> types.SimpleNamespace:
    """Return how dynamo is to be set while functions are captured."""
    settings = types.SimpleNamespace()
    # dynamo does not compile a checkpoint that records, unless it records in the forward and not when that is
    # recomputed: as an eager one does.
    if hasattr(config, "skip_fwd_side_effects_in_bwd_under_checkpoint"):
        settings.skip_fwd_side_effects_in_bwd_under_checkpoint = True
    if variants and hasattr(config, "recompile_limit"):
        settings.recompile_limit = _before.get("recompile_limit", config.recompile_limit) + variants
    return settings


def _has_compiled() -> bool:
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    return bool(counters.get("frames") or counters.get("stats"))
