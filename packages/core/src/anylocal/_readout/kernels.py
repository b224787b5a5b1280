"""The fused kernels whose calls are recorded, and what is recorded of each.

A kernel is known by identity, whatever name a function has for it. Its arguments are bound as Python binds those of a
function with the same signature; one that is not known is recorded by its name, so that the map can be refused.
"""

from __future__ import annotations

import sys
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import torch

from anylocal._engine import dynamo
from anylocal._engine.patch import own_code
from anylocal._engine.rewrite import callee_names
from anylocal._maps.map import AttentionMap
from anylocal._maps.modified import ModifiedRows, state_of
from anylocal._readout.fused import FLEX, SDPA
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

Recorded: TypeAlias = tuple[tuple[str, ...], tuple[Any, ...]]


class Kernel(NamedTuple):
    """A kernel: from its arguments to what is recorded, the names of that, and from it to a map."""

    bind: Callable[..., Recorded]
    names: tuple[str, ...]
    map: Callable[..., AttentionMap]


def _names(kernel: str, *operands: str) -> tuple[str, ...]:
    return tuple(f"{kernel}.{operand}" for operand in (*operands, "unknown"))


# Constants of the module, because dynamo traces the functions that return them.
_SDPA_NAMES: Final = _names(SDPA, "query", "key", "attn_mask", "is_causal", "scale")


def _of_sdpa(  # noqa: PLR0917  # the kernel's own signature
    query: Any,
    key: Any,
    value: Any,  # noqa: ARG001  # neither it nor dropout decides the map; grouped heads are seen from the shapes
    attn_mask: Any = None,
    dropout_p: float = 0.0,  # noqa: ARG001  # as above
    is_causal: Any = False,  # noqa: FBT002  # as above
    *more: Any,
    scale: Any = None,
    enable_gqa: Any = False,  # noqa: ARG001  # as above
    **unknown: Any,
) -> Recorded:
    return _SDPA_NAMES, (query, key, attn_mask, is_causal, scale, _listed(unknown, more))


def _map_of_sdpa(given: Mapping[str, Any], **labels: Any) -> AttentionMap:
    return AttentionMap.from_qk(
        given["query"],
        given["key"],
        mask=given.get("attn_mask"),
        causal=bool(given.get("is_causal", False)),
        scale=given.get("scale"),
        **labels,
    )


_FLEX_NAMES: Final = _names(FLEX, "query", "key", "scale", "score_mod", "block_mask", "state")


def _of_flex(  # noqa: PLR0917  # the kernel's own signature
    query: Any,
    key: Any,
    value: Any,  # noqa: ARG001  # as above
    score_mod: Any = None,
    block_mask: Any = None,
    scale: Any = None,
    enable_gqa: Any = False,  # noqa: ARG001, FBT002  # as above
    return_lse: Any = False,  # noqa: ARG001, FBT002  # as above
    kernel_options: Any = None,  # noqa: ARG001  # how it is computed
    *more: Any,
    return_aux: Any = None,  # noqa: ARG001  # as above
    training: Any = False,  # noqa: ARG001  # of the function of transformers that compiles it
    **unknown: Any,
) -> Recorded:
    # What dynamo traces has no version to compare with.
    state = None if dynamo.tracing() else state_of(score_mod, block_mask)
    return _FLEX_NAMES, (query, key, scale, score_mod, block_mask, state, _listed(unknown, more))


def _listed(unknown: Mapping[str, Any], more: tuple[Any, ...]) -> str:
    return ", ".join([*unknown, *["more by position" for _ in more]])


def _map_of_flex(given: Mapping[str, Any], **labels: Any) -> AttentionMap:
    rows = ModifiedRows(*(given[name.rpartition(".")[2]] for name in _FLEX_NAMES[:-1]))
    return AttentionMap(rows, **labels)


KERNELS: Final = {SDPA: Kernel(_of_sdpa, _SDPA_NAMES, _map_of_sdpa), FLEX: Kernel(_of_flex, _FLEX_NAMES, _map_of_flex)}

OPERANDS: Final = frozenset(name for kernel in KERNELS.values() for name in kernel.names)
"""The names under which operands are recorded: each is that of the kernel, a dot, and that of the parameter."""


# Functions of libraries that hand all their arguments on to a kernel, perhaps compiled.
_stand_ins: Final[list[Any]] = []


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
    _stand_ins.append(function)


def binder(function: Any) -> Callable[..., Recorded] | None:
    """Return what binds the arguments of a kernel, None for any other function."""
    if function is torch.nn.functional.scaled_dot_product_attention:
        return _of_sdpa
    if not dynamo.tracing() and type(function) is types.FunctionType:
        # The function that torch.compile was given.
        function = vars(function).get("_torchdynamo_orig_callable", function)
    flex = sys.modules.get("torch.nn.attention.flex_attention")
    is_flex = flex is not None and function is flex.flex_attention
    return _of_flex if is_flex or any(function is other for other in _stand_ins) else None


# By function, each with the code that was looked into; weakly, for its globals and cells may hold whole models.
_called: Final[weakref.WeakKeyDictionary[types.FunctionType, tuple[types.CodeType, frozenset[str]]]] = (
    weakref.WeakKeyDictionary()
)


def called_kernels(function: types.FunctionType) -> frozenset[str]:
    """Return the names by which a function calls what may be a kernel."""
    code = own_code(function)
    known, names = _called.get(function, (None, frozenset()))
    if known is not code:
        names = frozenset(name for name in callee_names(code) if _may_be_kernel(name, code, function))
        _called[function] = code, names
    return names


def _may_be_kernel(name: str, code: types.CodeType, function: types.FunctionType) -> bool:
    first, *attributes = name.split(".")
    is_local = first in {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    found = None if is_local else function.__globals__.get(first)
    for attribute in attributes:
        # Without the module's own code, which may import others.
        found = vars(found).get(attribute) if isinstance(found, types.ModuleType) else None
    if found is not None:
        return binder(found) is not None
    # A local may be any of the functions that the code names.
    return name.rpartition(".")[2] in KERNELS or (is_local and not attributes and _names_kernel(code))


def _names_kernel(code: types.CodeType) -> bool:
    return not KERNELS.keys().isdisjoint(code.co_names)


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
