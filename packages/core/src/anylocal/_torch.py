"""All that core knows of torch.

Nothing here imports it. A user's value can only be a tensor once somebody else has imported torch, so it is looked up
among the imported modules each time it matters.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import operator
import sys
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard

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
    found = parts(value, whole=arrays) if issubclass(type(value), _CONTAINERS) else ()
    if not any(issubclass(type(part), kinds) for part, _ in found):
        return value
    try:
        return _Copy(functools.partial(_tried, function), kinds, whole=arrays).of(value)
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


PLAIN: Final = frozenset({type(None), bool, int, float, complex, str, bytes})
"""What holds nothing and never changes, and is most of what lies in long containers."""

_CONTAINERS: Final = (tuple, list, dict)

# How many items are looked at of one container, and in all of a value: a function that takes a list of millions may be
# called often.
_MOST_OF_ONE: Final = 1_000
_MOST_IN_ALL: Final = 10_000


def parts(value: Any, *, whole: bool = False) -> Iterator[tuple[Any, float]]:
    """Give what lies in a value, at any depth of its lists, tuples and dicts, and for how many things each stands.

    A value that is no container is its own only part. Of a long container the first items stand for all, unless it is
    to be looked at as a `whole`; numbers and texts are left out. None of the user's own code runs.
    """
    waiting = [(value, 1.0, _MOST_IN_ALL)]
    entered: set[int] = set()
    while waiting:
        item, weight, allowed = waiting.pop()
        count, items = _items(item)
        if count is None:
            yield item, weight
        elif id(item) not in entered:
            entered.add(id(item))
            try:
                looked_at = list(itertools.islice(items, None if whole else min(_MOST_OF_ONE, allowed)))
            except RuntimeError:  # another thread has changed a dict meanwhile
                continue
            if not PLAIN.issuperset(map(type, looked_at)):
                each, rest = weight * count / len(looked_at), max(1, allowed // len(looked_at))
                waiting += [(part, each, rest) for part in looked_at if type(part) not in PLAIN]


def _items(value: Any) -> tuple[int | None, Iterator[Any]]:
    """Return how many items a container has, and those; None for what is no container."""
    kind = type(value)
    # Of the built-in classes themselves: subclasses may do anything when asked.
    if issubclass(kind, tuple):
        return tuple.__len__(value), tuple.__iter__(value)
    if issubclass(kind, list):
        return list.__len__(value), list.__iter__(value)
    if issubclass(kind, dict):
        return dict.__len__(value), iter(dict.values(value))
    return None, iter(())


class _Copy:
    """A copy of nested containers in which some parts are others.

    Containers are made by built-in constructors alone, so that none of the user's code runs: lists, tuples, dicts, and
    of their subclasses named tuples, `OrderedDict`, `defaultdict` and ordered dicts that are dataclasses, as
    transformers' `ModelOutput` is. Others stay as they are, with all that is in them; and so do containers of numbers
    and texts only.

    Parameters
    ----------
    function : callable
        What a part is replaced by.
    kinds : tuple of type
        The types of the parts to replace.
    whole : bool
        Whether to look for them behind the first items of long containers, too.
    """

    def __init__(self, function: Callable[[Any], Any], kinds: tuple[type, ...], *, whole: bool) -> None:
        self._function = function
        self._kinds = kinds
        self._most = None if whole else _MOST_OF_ONE
        # Containers that exist, but wait for their items: a list or a dict can be in itself.
        self._waiting: list[tuple[Callable[[list[Any]], object], list[Any]]] = []
        self._made: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        """Return the copy of a value."""
        made = self._of(value)
        # Each may bring more of them. What waited stays there, for a number is an object's only as long as it lives.
        for fill, items in self._waiting:
            fill([self._of(item) for item in items])
        return made

    def _of(self, value: Any) -> Any:
        """Return what stands for a value; tuples, which cannot wait for their items, are made after those."""
        made, stack = self._made, [value]
        while stack:
            item = stack[-1]
            if type(item) in PLAIN or id(item) in made:
                stack.pop()
            elif not _is_copied_tuple(item):
                made[id(stack.pop())] = self._replaced(item)
            else:
                items = list(tuple.__iter__(item))
                missing = [part for part in items if type(part) not in PLAIN and id(part) not in made]
                stack += missing
                if not missing:
                    made[id(stack.pop())] = _tuple(item, [made.get(id(part), part) for part in items])
        return made.get(id(value), value)

    def _replaced(self, value: Any) -> Any:
        kind = type(value)
        if issubclass(kind, self._kinds):
            return self._function(value)
        _, items = _items(value)
        if PLAIN.issuperset(map(type, itertools.islice(items, self._most))):
            return value
        if kind is list:
            made: list[Any] = []
            self._waiting.append((made.extend, list(value)))
            return made
        return self._dict(value) if issubclass(kind, dict) else value

    def _dict(self, value: dict[Any, Any]) -> Any:
        kind: type[Any] = type(value)
        attributes: dict[str, Any] = {}
        made: dict[Any, Any]
        if kind is dict:
            made, base = {}, dict
        elif kind is collections.defaultdict:
            made, base = collections.defaultdict(getattr(value, "default_factory", None)), dict
        elif issubclass(kind, collections.OrderedDict) and _is_plain_ordered(kind):
            base = collections.OrderedDict
            made = base.__new__(kind)
            attributes = object.__getattribute__(value, "__dict__")
        else:
            return value
        keys, names = list(base.keys(value)), list(attributes)
        items = [*base.values(value), *attributes.values()]

        def fill(items: list[Any]) -> None:
            for key, item in zip(keys, items, strict=False):
                base.__setitem__(made, key, item)
            if names:
                object.__getattribute__(made, "__dict__").update(zip(names, items[len(keys) :], strict=True))

        self._waiting.append((fill, items))
        return made


def _is_plain_ordered(kind: type) -> bool:
    return kind is collections.OrderedDict or _declares(kind, "__dataclass_fields__")


def _is_copied_tuple(value: object) -> bool:
    kind = type(value)
    if not issubclass(kind, tuple) or kind is tuple:
        return kind is tuple
    # Named by Python, without attributes besides, or by C, as the results of torch's functions are.
    has_attributes = kind.__dictoffset__ and object.__getattribute__(value, "__dict__")
    return (_declares(kind, "_fields") and not has_attributes) or _is_struct(kind)


def _is_struct(kind: type) -> bool:
    return kind.__base__ is tuple and "n_sequence_fields" in vars(kind)


def _tuple(value: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    """Return a tuple of the same type with other items; where none is another, the very one."""
    kind = type(value)
    if all(map(operator.is_, items, value)):
        return value
    return kind(items) if _is_struct(kind) else tuple.__new__(kind, items)


def _declares(kind: type, name: str) -> bool:
    return any(name in vars(base) for base in kind.__mro__)


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
    if not issubclass(kind, _CONTAINERS):
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
