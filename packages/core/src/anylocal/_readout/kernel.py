"""The arguments with which an attention function calls the fused kernel, read from its source."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

from anylocal._readout.expressions import VIEWS, stored_names
from anylocal._readout.reading import Operand
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

KERNEL: Final = "scaled_dot_product_attention"

# The kernel's signature, for arguments given by position.
_PARAMETERS: Final = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
# The arguments that decide the map; the value, dropout and the layout of grouped heads (seen from the shapes) do not.
_DECISIVE: Final[tuple[str, ...]] = ("query", "key", "attn_mask", "is_causal", "scale")
_HARMLESS: Final = {"enable_gqa", "dropout_p"}


def why_unbound(function: types.FunctionType) -> str:
    """Return why a function that can run the fused kernel never made its map; empty for any other function."""
    if KERNEL not in function.__code__.co_names:
        return ""
    return (
        f"it ran the fused kernel {KERNEL}, which never makes the map. capture_attention of anylocal_vit or"
        ' anylocal_bert computes it from what the kernel was given; capture(…, "q", "k") takes that'
    )


def _arguments(call: ast.Call) -> dict[str, ast.expr]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    return dict(zip(_PARAMETERS, call.args, strict=False)) | keywords


def written_arguments(call: ast.Call) -> str:
    """Return the source of the arguments that decide the map."""
    given = _arguments(call)
    return ", ".join(f"{name}={ast.unparse(given[name])}" for name in _DECISIVE if name in given)


def operands_of(call: ast.Call, definition: ast.AST, where: str) -> dict[str, Operand]:
    given = _arguments(call)
    unknown = set(given) - set(_PARAMETERS)
    for keyword in call.keywords:
        if keyword.arg is None:
            unknown |= _keys(keyword.value, definition) - _HARMLESS
    if unknown or len(call.args) > len(_PARAMETERS):
        raise UnsupportedError(f"{where} calls {KERNEL} in an unknown way: {ast.unparse(call)}.")
    operands = {name: _operand(given[name], where) for name in _DECISIVE if name in given}
    taken = {o.local for o in operands.values() if o.local}
    later = list(_later(call, definition))
    rebound = taken & {name for node in later for name in stored_names(node)}
    if rebound:
        raise UnsupportedError(f"{where} rebinds {', '.join(sorted(rebound))} after passing it to {KERNEL}.")
    changed = taken & {name for node in later for name in _changed(node)}
    if changed:
        raise UnsupportedError(f"{where} changes {', '.join(sorted(changed))} in place after passing it to {KERNEL}.")
    return operands


def _keys(unpacked: ast.expr, definition: ast.AST) -> set[str]:
    """Return the keys that a dict of further arguments can have; an empty name stands for unknown ones."""
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
    """Return whether a name is the target of the assignment of a dict display."""
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
        # Names that begin with two underscores are mangled.
        case ast.Attribute(value=ast.Name(id="self" | "module"), attr=attribute) if attribute[:2] != "__":
            return Operand(attribute=attribute)
        case ast.Call(func=ast.Attribute(value=inner, attr=method), args=arguments, keywords=[]) if method in VIEWS:
            viewed = _operand(inner, where)
            if viewed.local is not None and all(_is_constant(argument) for argument in arguments):
                step = (method, tuple(ast.literal_eval(argument) for argument in arguments))
                return Operand(local=viewed.local, views=(*viewed.views, step))
    raise UnsupportedError(f"{where} passes {KERNEL} an expression, {ast.unparse(node)}, which no local holds.")


def _is_constant(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _later(call: ast.Call, definition: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements that can run after a call; those of the other branch of an `if` cannot."""
    for parent in ast.walk(definition):
        for field in ("body", "orelse", "finalbody", "handlers"):
            block = getattr(parent, field, None)
            if not isinstance(block, list):
                continue
            place = next((i for i, node in enumerate(block) if any(n is call for n in ast.walk(node))), None)
            if place is None:
                continue
            yield from block[place + 1 :]
            if isinstance(parent, (ast.For, ast.AsyncFor, ast.While)):
                yield parent
            if isinstance(parent, ast.Try) and field == "body":
                yield from (*parent.orelse, *parent.finalbody, *parent.handlers)


def _changed(tree: ast.AST) -> Iterator[str]:
    """Yield the names whose tensors are changed in place: by an assignment to a part, or a method such as ``mul_``."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store()):
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if (
                method.endswith("_") and not method.startswith("_") and method != "requires_grad_"
            ):
                yield name
            case ast.keyword(arg="out", value=ast.Name(id=name)):
                yield name
