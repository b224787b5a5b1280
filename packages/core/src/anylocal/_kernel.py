"""What an attention function hands to the fused kernel, and where it makes the softmax itself, read from its source.

The operands are taken as locals when the function returns, so they must be plain names that nothing rebinds behind the
call; a function where that cannot be shown is refused, for its map would not be certain to be exact.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from anylocal._calls import Values
from anylocal._rewrite import Wants
from anylocal.errors import UnsupportedError

KERNEL: Final = "scaled_dot_product_attention"
SOFTMAX: Final = "softmax"

# The kernel's signature, for arguments given by position.
_PARAMETERS: Final = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
# What decides the map; the value, dropout and the layout of grouped heads (seen from the shapes) do not.
_DECISIVE: Final[tuple[str, ...]] = ("query", "key", "attn_mask", "is_causal", "scale")
_HARMLESS: Final = {"enable_gqa", "dropout_p"}

# What query and key are called where a softmax is an attention map: elsewhere it gates, pools or classifies.
_PAIRS: Final = ({"q", "k"}, {"query", "key"}, {"query_layer", "key_layer"}, {"query_states", "key_states"})
# Methods of a tensor that leave its values as they are, up to precision.
_CASTS: Final = {"to", "type_as", "float", "half", "bfloat16", "double", "contiguous"}


@dataclass(frozen=True)
class Operand:
    """One argument of the kernel: a local, an attribute of the module, or a constant."""

    local: str | None = None
    attribute: str | None = None
    constant: Any = None

    def of(self, module: object, values: Mapping[str, Any]) -> Any:
        """Return what it was in a call."""
        if self.local is not None:
            return values[self.local]
        return self.constant if self.attribute is None else getattr(module, self.attribute)


@dataclass(frozen=True)
class Reading:
    """How the map is read off a call of an attention function.

    Parameters
    ----------
    operands : mapping of str to Operand, or None
        The kernel's arguments that decide the map, where the function can run the kernel.
    weights : str or None
        The local that is assigned the softmax, where the function can make it itself.
    """

    operands: Mapping[str, Operand] | None
    weights: str | None

    @property
    def locals(self) -> tuple[str, ...]:
        """The locals that are needed as the function returns."""
        return tuple(dict.fromkeys(o.local for o in (self.operands or {}).values() if o.local is not None))

    @property
    def wants(self) -> Wants:
        """What is to be recorded."""
        softmaxes = frozenset() if self.weights is None else frozenset({(self.weights, SOFTMAX)})
        return Wants(self.locals, resulted=softmaxes)

    @property
    def joined(self) -> frozenset[str]:
        """The names that are recorded at their assignments."""
        return frozenset() if self.weights is None else frozenset({self.weights})

    def made_map(self, values: Values) -> bool:
        """Say whether a call came to the softmax or the kernel: it may have left the work to another function."""
        return not self.was_fused(values) or (self.operands is not None and set(self.locals) <= set(values))

    def was_fused(self, values: Values) -> bool:
        """Say whether a call ran the kernel."""
        return self.weights is None or self.weights not in values

    def arguments(self, module: object, values: Values) -> dict[str, Any]:
        """Return the kernel's arguments that decide the map, as they were in a call."""
        return {name: operand.of(module, values) for name, operand in (self.operands or {}).items()}


def read(function: types.FunctionType) -> Reading | None:
    """Return how the map is read off the calls of a function, or None where it computes no attention.

    Raises
    ------
    UnsupportedError
        If it does, but in a way that cannot be read exactly.
    """
    names = function.__code__.co_names
    if KERNEL not in names and SOFTMAX not in names:
        return None
    return _read(function.__code__.co_filename, function.__code__.co_firstlineno, function)


@functools.lru_cache(maxsize=1024)
def _read(file: str, line: int, function: types.FunctionType) -> Reading | None:  # the key of the cache
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError) as error:
        msg = f"The source of {function.__qualname__} cannot be read ({error}), so what it computes is not known."
        raise UnsupportedError(msg) from error
    definition = tree.body[0]
    if not isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return None
    calls = [node for node in ast.walk(definition) if isinstance(node, ast.Call) and _called(node) == KERNEL]
    weights = list(dict.fromkeys(_softmaxed(definition)))
    own = {argument.arg for argument in ast.walk(definition) if isinstance(argument, ast.arg)} | set(
        _stored(definition)
    )
    if not calls and not (weights and any(pair <= own for pair in _PAIRS)):
        return None
    where = f"{function.__qualname__} ({file}:{line})"
    if len(calls) > 1 or len(weights) > 1:
        raise UnsupportedError(f"{where} makes several maps, which are not known apart. Capture its locals by name.")
    operands = _operands(calls[0], definition, where) if calls else None
    return Reading(operands, weights[0] if weights else None)


def _called(call: ast.Call) -> str | None:
    function = call.func
    return (
        function.attr
        if isinstance(function, ast.Attribute)
        else function.id
        if isinstance(function, ast.Name)
        else None
    )


def _softmaxed(definition: ast.AST) -> Iterator[str]:
    """Give the names that are assigned what a call of softmax returns."""
    for node in ast.walk(definition):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value: ast.AST = node.value
            while isinstance(value, ast.Call) and _called(value) in _CASTS and isinstance(value.func, ast.Attribute):
                value = value.func.value
            if isinstance(value, ast.Call) and _called(value) == SOFTMAX:
                yield node.targets[0].id


def _stored(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            yield node.id


def _operands(call: ast.Call, definition: ast.AST, where: str) -> dict[str, Operand]:
    given = dict(zip(_PARAMETERS, call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    unknown = set(given) - set(_PARAMETERS)
    for keyword in call.keywords:
        if keyword.arg is None:
            unknown |= _keys(keyword.value, definition) - _HARMLESS
    if unknown or len(call.args) > len(_PARAMETERS):
        raise UnsupportedError(f"{where} calls {KERNEL} in a way that is not known: {ast.unparse(call)}.")
    operands = {name: _operand(given[name], where) for name in _DECISIVE if name in given}
    rebound = {o.local for o in operands.values() if o.local} & set(_stored_after(call, definition))
    if rebound:
        raise UnsupportedError(f"{where} rebinds {', '.join(sorted(rebound))} after it gave it to {KERNEL}.")
    return operands


def _keys(unpacked: ast.expr, definition: ast.AST) -> set[str]:
    """Return the keys that a dict of further arguments can have; an empty name stands for those that cannot be told."""
    if not isinstance(unpacked, ast.Name):
        return {""}
    keys: set[str] = set()
    for node in ast.walk(definition):
        match node:
            case ast.Assign(targets=[ast.Name(id=unpacked.id)], value=ast.Dict(keys=given)):
                keys |= {str(key.value) if isinstance(key, ast.Constant) else "" for key in given}
            case ast.Assign(
                targets=[ast.Subscript(value=ast.Name(id=unpacked.id), slice=ast.Constant(value=str(key)))]
            ):
                keys.add(key)
            case ast.Name(id=unpacked.id, ctx=ast.Store()) if not _is_assigned_dict(node, definition):
                keys.add("")
    return keys


def _is_assigned_dict(name: ast.Name, definition: ast.AST) -> bool:
    """Say whether a name is stored to by the assignment of a dict's display."""
    return any(
        isinstance(node, ast.Assign) and node.targets == [name] and isinstance(node.value, ast.Dict)
        for node in ast.walk(definition)
    )


def _operand(node: ast.expr, where: str) -> Operand:
    match node:
        case ast.Name(id=name):
            return Operand(local=name)
        case ast.Constant(value=value):
            return Operand(constant=value)
        case ast.Attribute(value=ast.Name(id="self" | "module"), attr=attribute):
            return Operand(attribute=attribute)
    raise UnsupportedError(f"{where} gives {KERNEL} an expression, {ast.unparse(node)}, which no local holds.")


def _stored_after(call: ast.Call, definition: ast.AST) -> Iterator[str]:
    """Give the names that may be bound behind a call, in what can run after it: not in the other branch of an `if`."""
    for parent in ast.walk(definition):
        for field in ("body", "orelse", "finalbody", "handlers"):
            block = getattr(parent, field, None)
            if not isinstance(block, list):
                continue
            place = next((i for i, node in enumerate(block) if any(n is call for n in ast.walk(node))), None)
            if place is None:
                continue
            for statement in block[place + 1 :]:
                yield from _stored(statement)
            if isinstance(parent, (ast.For, ast.AsyncFor, ast.While)):
                yield from _stored(parent)
            if isinstance(parent, ast.Try) and field == "body":
                for later in (*parent.orelse, *parent.finalbody, *parent.handlers):
                    yield from _stored(later)
