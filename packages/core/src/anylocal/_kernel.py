"""What an attention function hands to the fused kernel, and where it makes the softmax itself, read from its source.

The operands are taken as locals when the function returns, so they must be plain names (or views of plain names) that
nothing rebinds behind the call; a function where that cannot be shown is refused, for its map would not be certain to
be exact. A softmax is one of attention if what goes into it is a product of matrices, along its last axis: others
gate, pool or classify.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import sys
import textwrap
import types
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Final

from anylocal._reading import Operand, Reading
from anylocal._rewrite import Result
from anylocal.errors import UnsupportedError

KERNEL: Final = "scaled_dot_product_attention"
SOFTMAX: Final = "softmax"
_MODULE: Final = "Softmax"

# The kernel's signature, for arguments given by position.
_PARAMETERS: Final = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
# What decides the map; the value, dropout and the layout of grouped heads (seen from the shapes) do not.
_DECISIVE: Final[tuple[str, ...]] = ("query", "key", "attn_mask", "is_causal", "scale")
_HARMLESS: Final = {"enable_gqa", "dropout_p"}

# What query and key are called; without them, a softmax is an attention map if its own name says so.
_PAIRS: Final = ({"q", "k"}, {"query", "key"}, {"query_layer", "key_layer"}, {"query_states", "key_states"})
_NAMED_SO: Final = ("att", "dots")
_PRODUCTS: Final = {"matmul", "bmm", "baddbmm", "einsum", "mm"}
# Methods of a tensor that leave its values as they are, up to precision.
_CASTS: Final = {"to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous"}
# Those that leave even the precision, and only say where each value stands.
_VIEWS: Final = {"transpose", "permute", "contiguous", "unsqueeze", "squeeze", "flatten", "unflatten"}
_LAYOUTS: Final = _VIEWS | {"view", "reshape", "expand"}
# Names that stand in too many assignments to know one by.
_SAY_NOTHING: Final = {"self", "torch", "nn", "F", "functional"} | _LAYOUTS | _CASTS
# Axes that are the last one of a matrix, or of a stack of matrices.
_LAST: Final = {-1, 2, 3}


def read(function: types.FunctionType, known: frozenset[str] = frozenset()) -> Reading | None:
    """Return how the map is read off the calls of a function, or None where it computes no attention.

    Parameters
    ----------
    function : types.FunctionType
        The function.
    known : frozenset of str
        What a zoo calls its maps: a softmax that is assigned to such a name is one, also where it comes of a product
        that another function makes.

    Raises
    ------
    UnsupportedError
        If it does, but in a way that cannot be read exactly.
    """
    names = set(function.__code__.co_names)
    softmaxes = frozenset({SOFTMAX, _MODULE, *(_softmax_modules(function) & names)})
    if KERNEL not in names and not names & softmaxes:
        return None
    return _read(function.__code__, function, softmaxes, known)


@functools.lru_cache(maxsize=1024)
def _read(
    _code: types.CodeType, function: types.FunctionType, softmaxes: frozenset[str], known: frozenset[str]
) -> Reading | None:
    definition = _definition(function)
    return None if definition is None else _Reader(function, definition, softmaxes, known).reading()


def _definition(function: types.FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError) as error:
        msg = f"The source of {function.__qualname__} cannot be read ({error}), so what it computes is not known."
        raise UnsupportedError(msg) from error
    definition = tree.body[0]
    return definition if isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)) else None


@functools.lru_cache(maxsize=1024)
def _softmax_modules(function: types.FunctionType) -> frozenset[str]:
    """Return the attributes that the class of a method makes ``nn.Softmax``, whatever it calls them."""
    owner: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split(".")[:-1]:
        owner = getattr(owner, part, None)
    found: set[str] = set()
    for base in owner.__mro__ if isinstance(owner, type) else ():
        init = vars(base).get("__init__")
        if isinstance(init, types.FunctionType) and "Softmax" in init.__code__.co_names:
            for node in ast.walk(_definition(init) or ast.Module([], [])):
                match node:
                    case ast.Assign(targets=[ast.Attribute(attr=attribute)], value=ast.Call() as call):
                        found |= {attribute} if _called(call) == "Softmax" else set()
    return frozenset(found)


class _Reader:
    """Reads one function."""

    def __init__(
        self, function: types.FunctionType, definition: ast.AST, softmaxes: frozenset[str], known: frozenset[str]
    ) -> None:
        self.definition = definition
        self.softmaxes = softmaxes
        self.known = known
        self.where = f"{function.__qualname__} ({function.__code__.co_filename}:{function.__code__.co_firstlineno})"

    def reading(self) -> Reading | None:
        calls = [node for node in ast.walk(self.definition) if isinstance(node, ast.Call) and _called(node) == KERNEL]
        made = list(self._softmaxed())
        if not calls and not made:
            return None
        results = [_result(node, self._callee(node)) for node in made]
        # Of branches that exclude each other, a call makes one, whatever it calls it.
        others = tuple(
            {r.name: r._replace(label=results[0].key) for r in results if r.name != results[0].name}.values()
        )
        mixed = [found for name in {r.name: None for r in results} if (found := self._mixed(made, name)) is not None]
        if self._several(made) or self._several(calls, map(_given, calls)) or len(mixed) > 1:
            msg = f"{self.where} makes several maps, which are not known apart. Capture its locals by name."
            raise UnsupportedError(msg)
        return Reading(
            _operands(calls[0], self.definition, self.where) if calls else None,
            results[0] if results else None,
            mixed[0] if mixed else None,
            otherwise=others,
        )

    def _softmaxed(self) -> Iterator[ast.Assign]:
        """Give the assignments of what a call of softmax returns, where it is attention."""
        own = {argument.arg for argument in ast.walk(self.definition) if isinstance(argument, ast.arg)}
        own |= set(_stored(self.definition))
        has_pair = any(pair <= own for pair in _PAIRS)
        for node in ast.walk(self.definition):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)]) if self._callee(node) is not None:
                    call = _without_casts(node.value)
                    said = has_pair or any(part in name for part in _NAMED_SO)
                    if not _is_along_last(call):
                        continue
                    if name in self.known or (said and self._is_product(call, node.lineno)):
                        yield node

    def _callee(self, node: ast.Assign) -> str | None:
        """Return by which name an assignment calls softmax; of ``nn.Softmax(dim=-1)(x)``, that of the module."""
        call = _without_casts(node.value)
        made = call.func if isinstance(call, ast.Call) and isinstance(call.func, ast.Call) else call
        called = _called(made)
        return called if called in self.softmaxes and (made is not call or called != _MODULE) else None

    def _is_product(self, expression: ast.AST, line: int, known: frozenset[str] = frozenset()) -> bool:
        """Say whether a value comes of a product of matrices, by what was assigned above a line."""
        for node in ast.walk(expression):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
                return True
            if isinstance(node, ast.Call) and _called(node) in _PRODUCTS:
                return True
            if isinstance(node, ast.Name) and node.id not in known:
                above = [value for at, value in self._assigned(node.id) if at < line]
                if any(self._is_product(value, line, known | {node.id}) for value in above):
                    return True
        return False

    def _assigned(self, name: str) -> Iterator[tuple[int, ast.AST]]:
        for node in ast.walk(self.definition):
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(name in _stored(target) for target in targets):
                    yield node.lineno, node.value

    def _several(self, nodes: Sequence[ast.AST], kinds: Iterable[str] = ()) -> bool:
        """Say whether more than one of these can come about in one call, or are not the same."""
        if len(nodes) > 1 and len(set(kinds)) > 1:
            return True
        loops = [node for node in ast.walk(self.definition) if isinstance(node, (ast.For, ast.AsyncFor, ast.While))]
        if any(node in ast.walk(loop) for loop in loops for node in nodes):
            return True
        return not all(self._exclude(*pair) for pair in combinations(nodes, 2))

    def _exclude(self, one: ast.AST, other: ast.AST) -> bool:
        """Say whether two places stand in different branches of one `if`."""
        for node in ast.walk(self.definition):
            if isinstance(node, ast.If):
                body, orelse = (list(_walk(branch)) for branch in (node.body, node.orelse))
                if (one in body and other in orelse) or (one in orelse and other in body):
                    return True
        return False

    def _mixed(self, made: Sequence[ast.Assign], name: str) -> Result | None:
        """Return the last assignment that makes something else of the softmax under its own name.

        Dropout is no such thing, nor is another precision or layout.
        """
        line = max(node.lineno for node in made)
        found: Result | None = None
        for node in sorted(_statements(self.definition), key=lambda node: node.lineno):
            if node.lineno <= line or _target(node) != name:
                continue
            value = _without_layouts(node.value)
            uses = [n.attr for n in ast.walk(value) if isinstance(n, ast.Attribute)]
            uses += [n.id for n in ast.walk(value) if isinstance(n, ast.Name) and n.id != name]
            uses = [use for use in uses if use not in _SAY_NOTHING]
            callee = _called(value)
            kept = callee is not None and "drop" in callee
            made_of_it = isinstance(node, ast.AugAssign) or name in {
                n.id for n in ast.walk(value) if isinstance(n, ast.Name)
            }
            if uses and not kept and made_of_it and not self._is_product(value, 0):
                found = Result(name, uses[0], f"{name} = {ast.unparse(node.value)}")
        return found


def _statements(tree: ast.AST) -> Iterator[ast.Assign | ast.AugAssign]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            yield node


def _target(node: ast.AST) -> str | None:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AugAssign(target=ast.Name(id=name)):
            return name
    return None


def _result(node: ast.Assign, callee: str | None) -> Result:
    name = _target(node)
    assert name is not None
    assert callee is not None
    return Result(name, callee, f"{name} = {callee}(…)")


def _called(node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name
    return None


def _without_casts(value: ast.AST) -> ast.AST:
    """Return what is cast, or of which some keys are left out, such as a column that stands for none."""
    while True:
        match value:
            case ast.Call(func=ast.Attribute(value=inner)) if _called(value) in _CASTS:
                value = inner
            case ast.Subscript(value=inner, slice=ast.Tuple(elts=[ast.Constant(value=builtins.Ellipsis), ast.Slice()])):
                value = inner
            case _:
                return value


def _without_layouts(value: ast.expr) -> ast.expr:
    while isinstance(value, ast.Call) and _called(value) in _CASTS | _LAYOUTS and isinstance(value.func, ast.Attribute):
        value = value.func.value
    return value


def _is_along_last(call: ast.AST) -> bool:
    """Say whether a softmax is along the last axis, as far as its own arguments tell."""
    assert isinstance(call, ast.Call)
    if isinstance(call.func, ast.Call):
        call = call.func
    given = [keyword.value for keyword in call.keywords if keyword.arg == "dim"] or call.args[-1:]
    for value in given:
        try:
            axis = ast.literal_eval(value)
        except (ValueError, TypeError):
            continue
        return not isinstance(axis, int) or axis in _LAST
    return True


def _walk(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        yield from ast.walk(node)


def _stored(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            yield node.id


def _given(call: ast.Call) -> str:
    """Return what decides the map, as it is written."""
    given = dict(zip(_PARAMETERS, call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    return ", ".join(f"{name}={ast.unparse(given[name])}" for name in _DECISIVE if name in given)


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
        case ast.Call(func=ast.Attribute(value=inner, attr=method), args=arguments, keywords=[]) if method in _VIEWS:
            viewed = _operand(inner, where)
            if viewed.local is not None and all(_is_constant(argument) for argument in arguments):
                step = (method, tuple(ast.literal_eval(argument) for argument in arguments))
                return Operand(local=viewed.local, views=(*viewed.views, step))
    raise UnsupportedError(f"{where} gives {KERNEL} an expression, {ast.unparse(node)}, which no local holds.")


def _is_constant(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


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
