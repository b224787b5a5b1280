"""Questions about the expressions of an attention function."""

from __future__ import annotations

import ast
import builtins
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Variables of query and key; without them, a softmax is an attention map if its own name says so.
PAIRS: Final = ({"q", "k"}, {"query", "key"}, {"query_layer", "key_layer"}, {"query_states", "key_states"})
# Methods of a tensor that only move its values, without any change of precision.
VIEWS: Final = {"transpose", "permute", "contiguous", "unsqueeze", "squeeze", "flatten", "unflatten"}
# Methods of a tensor that leave its values as they are, but for precision.
CASTS: Final = {"to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous"}
LAYOUTS: Final = VIEWS | {"view", "reshape", "expand"}
# The last axis of a stack of matrices, or of a batch of such stacks; the tensor of a call shows which.
_LAST: Final = {-1, 2, 3}


def called_name(node: ast.AST) -> str | None:
    """Return the last part of the name of a called function or method."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name
    return None


def stored_names(tree: ast.AST) -> Iterator[str]:
    """Yield the variables that are assigned or deleted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            yield node.id


def statements(tree: ast.AST) -> Iterator[ast.Assign | ast.AugAssign]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            yield node


def target(node: ast.AST) -> str | None:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AugAssign(target=ast.Name(id=name)):
            return name
    return None


def without_casts(value: ast.AST) -> ast.AST:
    """Return an expression without casts, and without a slice that leaves out keys, such as a sink."""
    while True:
        match value:
            case ast.Call(func=ast.Attribute(value=inner)) if called_name(value) in CASTS:
                value = inner
            case ast.Subscript(value=inner, slice=ast.Tuple(elts=[ast.Constant(value=builtins.Ellipsis), ast.Slice()])):
                value = inner
            case _:
                return value


def without_layouts(value: ast.expr) -> ast.expr:
    while (
        isinstance(value, ast.Call) and called_name(value) in CASTS | LAYOUTS and isinstance(value.func, ast.Attribute)
    ):
        value = value.func.value
    return value


def is_along_last(call: ast.AST) -> bool:
    """Return whether a softmax may be along the last axis, by its own arguments."""
    axis = axis_of(call)
    return axis is None or axis in _LAST


def axis_of(call: ast.AST) -> int | None:
    """Return the axis of a softmax, None where its own arguments do not show it."""
    assert isinstance(call, ast.Call)
    if isinstance(call.func, ast.Call):
        call = call.func
    given = [keyword.value for keyword in call.keywords if keyword.arg == "dim"] or call.args[-1:]
    for value in given:
        try:
            axis = ast.literal_eval(value)
        except (ValueError, TypeError):
            continue
        return axis if isinstance(axis, int) else None
    return None


def is_of_pair(call: ast.Call) -> bool:
    """Return whether a product is of queries and keys themselves, and not of positions."""
    names = [{n.id for n in ast.walk(given) if isinstance(n, ast.Name)} for given in call.args[1:]]
    return len(names) == 2 and any(all(pair & each for each in names) for pair in PAIRS)  # noqa: PLR2004  # a pair


def is_out_of_order(pattern: ast.expr) -> bool:
    """Return whether the result of an einsum of two matrices does not end with a row of one and a row of the other."""
    if not isinstance(pattern, ast.Constant) or not isinstance(pattern.value, str) or "->" not in pattern.value:
        return False
    given, _, made = pattern.value.partition("->")
    # Axes have names of one letter or, in einops, words.
    one, *others = (part.split() if " " in made.strip() else [*part.strip()] for part in given.split(","))
    result = made.split() if " " in made.strip() else [*made.strip()]
    if len(others) != 1:
        return False
    other = others[0]
    of_one = [axis for axis in result if axis in one and axis not in other]
    of_other = [axis for axis in result if axis in other and axis not in one]
    return len(of_one) == len(of_other) == 1 and {*result[-2:]} != {*of_one, *of_other}
