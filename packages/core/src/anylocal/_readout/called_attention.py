"""Which modules are called attention, and why one of them may run without a map that can be read."""

from __future__ import annotations

import functools
import re
import types
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal._engine import tensors
from anylocal._engine.functions import functions_in
from anylocal._engine.patch import own_code
from anylocal._readout.library import other

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLASS: Final = re.compile(r"[Aa]tt(?:entio)?n|MHA|Multi_?[Hh]ead")
_NAME: Final = re.compile(r"(?:.*_)?(?:attn|attention|mha)_?\d*")
_QUERY: Final = re.compile(r"(?:.*_)?(?:[wx]?q|qs|w?qkv|query|queries|qk|c_attn)(?:_.*|\d*)", re.IGNORECASE)
_FOREIGN: Final = re.compile(
    r"flash_?attn_(?:\w+_)?(?:func|with_kvcache)|_?scaled_dot_product_(?:flash|efficient|cudnn|fused)_attention\w*"
    r"|_?(?:flash|efficient)_attention_forward|memory_efficient_attention\w*|sageattn\w*|npu_\w*_attention\w*"
    r"|paged_attention\w*"
)
"""Kernels that expose no map, by the names of their functions."""


def is_called_attention(name: str, module: Any) -> bool:
    """Return whether a module's class, or the attribute that holds it, is called attention; torch's own is known."""
    if isinstance(module, torch.nn.MultiheadAttention):
        return False
    return is_class_called_attention(module) or _NAME.fullmatch(name.rpartition(".")[2]) is not None


def is_class_called_attention(module: object) -> bool:
    """Return whether a module's class is called attention."""
    return _CLASS.search(type(module).__name__) is not None


def is_scripted_attention(module: Any) -> bool:
    """Return whether TorchScript compiled a module whose class is called attention."""
    return tensors.is_scripted(module) and _CLASS.search(str(getattr(module, "original_name", ""))) is not None


def has_query(module: torch.nn.Module) -> bool:
    """Return whether a module has parts, weights or variables that are called query."""
    # By name, without what runs for a parametrized weight.
    held = (*module._modules, *module._parameters)  # noqa: SLF001
    names = {name for f in forwards_of(module) for name in (*own_code(f).co_varnames, *own_code(f).co_names)}
    return any(_QUERY.fullmatch(name) for name in (*held, *names))


def forwards_of(module: object) -> Iterator[types.FunctionType]:
    """Yield the functions behind a module's forward, its own or that of its class."""
    yield from functions_in(vars(module).get("forward", getattr(type(module), "forward", None)))


def why_mapless(module: torch.nn.Module, zoo: str) -> str:
    """Return why a module that ran may have made no map that can be read."""
    cls = type(module)
    if tensors.is_scripted(module):
        return "TorchScript compiled it, and runs it without Python"
    helper = next(helpers_of(module), None)
    if helper is not None:
        return f"{cls.__qualname__} leaves attention to its {helper.__qualname__}, which is not a module"
    if foreign := foreign_kernel_of(module):
        return f"{cls.__qualname__} ran without a map that can be read, as where it runs {foreign}"
    return f"{cls.__qualname__} ran without a kernel or a softmax of query and key that can be read{other(cls, zoo)}"


def helpers_of(module: object) -> Iterator[type]:
    """Yield the classes of objects called attention that a module holds and may call, and that are not modules."""
    yield from dict.fromkeys(type(part) for part in vars(module).values() if _is_helper(part))


def _is_helper(part: object) -> bool:
    cls = type(part)
    is_code = issubclass(cls, (torch.nn.Module, type, types.FunctionType, types.MethodType))
    return not is_code and _CLASS.search(cls.__name__) is not None and callable(part)


def _methods(cls: type) -> Iterator[types.FunctionType]:
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] != "torch":
            yield from (function for value in vars(base).values() for function in functions_in(value))


def foreign_kernel_of(module: torch.nn.Module) -> str:
    """Return the kernel without a map that a method of a module names, empty without one."""
    return next(filter(None, map(foreign_kernel, _methods(type(module)))), "")


def foreign_kernel(function: types.FunctionType) -> str:
    """Return the kernel without a map that a function names, empty without one."""
    return _foreign_in(own_code(function))


@functools.lru_cache(maxsize=4096)
def _foreign_in(code: types.CodeType) -> str:
    return next((name for name in code.co_names if _FOREIGN.fullmatch(name)), "")
