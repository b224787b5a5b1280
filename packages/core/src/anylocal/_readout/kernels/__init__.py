"""The fused kernels whose calls are recorded, and what is recorded of each.

A kernel is known by identity, whatever name a function has for it. Its arguments are bound as Python binds those of a
function with the same signature; one that is not known is recorded by its name, so that the map can be refused.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal._engine import dynamo
from anylocal._engine.patch import own_code
from anylocal._engine.rewrite import callee_names
from anylocal._readout.fused import FLASH, FLEX, FUNCTIONS, SDPA, XFORMERS
from anylocal._readout.kernels.flash import OF_FLASH, is_flash, of_arguments, of_function
from anylocal._readout.kernels.of_torch import OF_FLEX, OF_SDPA, of_flex, of_sdpa
from anylocal._readout.kernels.xformers import OF_XFORMERS, is_xformers, of_xformers
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anylocal._readout.kernels.kernel import Kernel, Recorded

KERNELS: Final[Mapping[str, Kernel]] = {SDPA: OF_SDPA, FLEX: OF_FLEX, FLASH: OF_FLASH, XFORMERS: OF_XFORMERS}

OPERANDS: Final = frozenset(name for kernel in KERNELS.values() for name in kernel.names)
"""The names under which operands are recorded: each is that of the kernel, a dot, and that of the parameter."""

MASKS: Final = frozenset({f"{SDPA}.attn_mask", f"{FLASH}.padding_mask", f"{XFORMERS}.bias"})
"""Those of them that the layers of a model share."""

# Functions of libraries that hand their arguments on to a kernel, perhaps compiled, and what binds them.
_stand_ins: Final[list[tuple[Any, Callable[..., Recorded]]]] = []


def stands_for_flex(function: object) -> None:
    """Take a function of a zoo for `flex_attention`, to which it hands on all its arguments.

    Examples
    --------
    >>> from torch.nn.attention.flex_attention import flex_attention
    >>> from anylocal.adapter import stands_for_flex
    >>> def attend(query, key, value, **options):
    ...     return flex_attention(query, key, value, **options)
    >>> stands_for_flex(attend)
    """
    _stand_ins.append((function, of_flex))


def stands_for_flash(function: object, arguments: Callable[..., Mapping[str, Any]]) -> None:
    """Take a function of a zoo for one of flash-attn's, which it calls.

    Parameters
    ----------
    function : callable
        The function.
    arguments : callable
        From the arguments of a call of it to those of flash-attn, by their names there. There may also be a
        ``padding_mask``, (batch, key), by which the function takes padding out of query and key and puts it back in,
        ``position_ids`` that begin again with each packed sequence, and the ``dtype`` to which both are cast.

    Examples
    --------
    >>> from anylocal.adapter import stands_for_flash
    >>> def attend(query, key, value, is_causal):
    ...     from flash_attn import flash_attn_func
    ...     return flash_attn_func(query, key, value, causal=is_causal)
    >>> stands_for_flash(attend, lambda query, key, value, is_causal: {"q": query, "k": key, "causal": is_causal})
    """
    _stand_ins.append((function, lambda *args, **kwargs: of_arguments(arguments(*args, **kwargs))))


def binder(function: Any) -> Callable[..., Recorded] | None:
    """Return what binds the arguments of a kernel, None for any other function."""
    if function is torch.nn.functional.scaled_dot_product_attention:
        return of_sdpa
    if not dynamo.tracing() and type(function) is types.FunctionType:
        # The function that torch.compile was given.
        function = vars(function).get("_torchdynamo_orig_callable", function)
    flex = sys.modules.get("torch.nn.attention.flex_attention")
    if flex is not None and function is flex.flex_attention:
        return of_flex
    for other, bind in _stand_ins:
        if function is other:
            return bind
    if is_flash(function):
        return functools.partial(of_function, function)
    return of_xformers if is_xformers(function) else None


_UNKNOWN: Final = object()

# By function, each with the code that was looked into; weakly, for its globals and cells may hold whole models.
_called: Final[weakref.WeakKeyDictionary[types.FunctionType, tuple[types.CodeType, frozenset[str]]]] = (
    weakref.WeakKeyDictionary()
)


def called_kernels(function: types.FunctionType) -> frozenset[str]:
    """Return the names by which a function calls what may be a kernel."""
    code = own_code(function)
    known, names = _called.get(function, (None, frozenset()))
    if known is not code:
        # Few functions call one, and to take code apart takes a thousand times as long as to look at its names.
        callees = callee_names(code) if _names_kernel(code) or _reaches_kernel(code, function) else ()
        names = frozenset(name for name in callees if _may_be_kernel(name, code, function))
        _called[function] = code, names
    return names


def _may_be_kernel(name: str, code: types.CodeType, function: types.FunctionType) -> bool:
    first, *attributes = name.split(".")
    is_local = first in {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    found = _UNKNOWN if is_local else function.__globals__.get(first, _UNKNOWN)
    for attribute in attributes:
        # Without the module's own code, which may import others.
        found = vars(found).get(attribute, _UNKNOWN) if isinstance(found, types.ModuleType) else _UNKNOWN
    if found is not _UNKNOWN:
        return binder(found) is not None
    # A local may be any of the functions that the code names.
    return name.rpartition(".")[2] in FUNCTIONS or (is_local and not attributes and _names_kernel(code))


def _names_kernel(code: types.CodeType) -> bool:
    return not set(FUNCTIONS).isdisjoint(code.co_names)


def _reaches_kernel(code: types.CodeType, function: types.FunctionType) -> bool:
    """Return whether a name of the code may be a kernel's: of a global, or an attribute of a module, at any depth."""
    scopes = [function.__globals__]
    # Grows in the loop.
    for scope in scopes:
        values = [scope[name] for name in code.co_names if name in scope]
        if any(binder(value) is not None for value in values):
            return True
        inner = [vars(value) for value in values if isinstance(value, types.ModuleType)]
        scopes += [each for each in inner if not any(each is known for known in scopes)]
    return False


def operands_in(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the kernel that a call ran, and its operands by the names of its parameters.

    Raises
    ------
    UnsupportedError
        If it was called with arguments that are not known.
    """
    name = next(kernel for kernel, known in KERNELS.items() if known.names[0] in values)
    given = {each.rpartition(".")[2]: values[each] for each in KERNELS[name].names}
    unknown = given.pop("unknown")
    # Where several calls are gathered, there is a tuple of each.
    unknown = ", ".join(filter(None, (unknown,) if isinstance(unknown, str) else unknown))
    if unknown:
        raise UnsupportedError(
            f"{name} was called with an argument that is not known: {unknown}. Its map might not be exact."
        )
    return name, given
