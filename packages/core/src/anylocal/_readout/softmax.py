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
import types
from itertools import combinations
from typing import TYPE_CHECKING, Final

from anylocal._engine.patch import own_code
from anylocal._engine.spec import Assignment
from anylocal._readout.kernel import KERNEL, VIEWS, operands_of, stored_names, written_arguments
from anylocal._readout.reading import Reading
from anylocal._readout.source import WithoutAnnotations, called_name, definition_of, is_source_of, softmax_modules
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SOFTMAX: Final = "softmax"
_MODULE: Final = "Softmax"

# What query and key are called; without them, a softmax is an attention map if its own name says so.
_PAIRS: Final = ({"q", "k"}, {"query", "key"}, {"query_layer", "key_layer"}, {"query_states", "key_states"})
_NAMED_SO: Final = ("att", "dots")
_PRODUCTS: Final = {"matmul", "bmm", "baddbmm", "einsum", "mm"}
# Methods of a tensor that leave its values as they are, up to precision.
_CASTS: Final = {"to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous"}
_LAYOUTS: Final = VIEWS | {"view", "reshape", "expand"}
# Names that stand in too many assignments to know one by.
_SAY_NOTHING: Final = {"self", "torch", "nn", "F", "functional"} | _LAYOUTS | _CASTS
# Axes that are the last one of a stack of matrices, and of a batch of such stacks; which, a call's tensor tells.
_LAST: Final = {-1, 2, 3}


def reading_of(function: types.FunctionType, known: frozenset[str] = frozenset()) -> Reading | None:
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
    softmaxes = frozenset({SOFTMAX, _MODULE, *(softmax_modules(function) & names)})
    if KERNEL not in names and not names & softmaxes:
        return None
    return _read(own_code(function), function, softmaxes, known)


@functools.lru_cache(maxsize=4096)
def why_overlooked(function: types.FunctionType) -> str | None:
    """Return how a function in which `read` finds no map seems to make one all the same; None where it does not."""
    names = set(_names_in(own_code(function)))
    if KERNEL in names or _kernel_by_another_name(function, names):
        return f"it calls {KERNEL} inside of another function, or by another name"
    if SOFTMAX not in names:
        return None
    definition = definition_of(function)
    softmaxes = frozenset({SOFTMAX})
    unnamed = definition is not None and _Reader(function, definition, softmaxes, frozenset()).has_unnamed()
    return "it makes a softmax of a product of q and k that no variable holds" if unnamed else None


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names_in(inner)


def _kernel_by_another_name(function: types.FunctionType, names: Iterable[str]) -> bool:
    known = function.__globals__
    return any(getattr(known.get(name), "__name__", None) == KERNEL for name in names)


@functools.lru_cache(maxsize=1024)
def _read(
    code: types.CodeType, function: types.FunctionType, softmaxes: frozenset[str], known: frozenset[str]
) -> Reading | None:
    definition = definition_of(function)
    if definition is None:
        return None
    if not is_source_of(definition, code, function.__qualname__):
        msg = (
            f"The file of {function.__qualname__} ({code.co_filename}) is not that of the code which runs, so it does"
            " not tell what that computes: it was changed after the import. Reload it, or start Python anew."
        )
        raise UnsupportedError(msg)
    return _Reader(function, WithoutAnnotations().visit(definition), softmaxes, known).reading()


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
        calls = [
            node for node in ast.walk(self.definition) if isinstance(node, ast.Call) and called_name(node) == KERNEL
        ]
        made = list(self._softmaxed())
        if not calls and not made:
            return None
        results = [_result(node, self._callee(node)) for node in made]
        # Of branches that exclude each other, a call makes one, whatever it calls it.
        others = tuple(
            {r.name: r._replace(label=results[0].key) for r in results if r.name != results[0].name}.values()
        )
        mixed = [found for name in {r.name: None for r in results} if (found := self._mixed(made, name)) is not None]
        axes = {axis for node in made if (axis := _axis(_without_casts(node.value))) is not None and axis >= 0}
        if any(self._swaps_axes(node) for node in made) or len(axes) > 1:
            msg = f"{self.where} orders the axes of its map in another way than (batch, head, query, key)."
            raise UnsupportedError(msg)
        if self._several(made) or self._several(calls, map(written_arguments, calls)) or len(mixed) > 1:
            msg = f"{self.where} makes several maps, which are not known apart. Capture its locals by name."
            raise UnsupportedError(msg)
        return Reading(
            operands_of(calls[0], self.definition, self.where) if calls else None,
            results[0] if results else None,
            mixed[0] if mixed else None,
            otherwise=others,
            axis=axes.pop() if axes else -1,
        )

    def _softmaxed(self) -> Iterator[ast.Assign]:
        """Yield the assignments of what a call of softmax returns, where it is attention."""
        has_pair = self._has_pair()
        for node in ast.walk(self.definition):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)]) if self._callee(node) is not None:
                    call = _without_casts(node.value)
                    said = has_pair or any(part in name for part in _NAMED_SO)
                    if not _is_along_last(call):
                        continue
                    if name in self.known or (said and self._is_product(call, node.lineno)):
                        yield node

    def _has_pair(self) -> bool:
        """Return whether the function has variables that are called query and key."""
        own = {argument.arg for argument in ast.walk(self.definition) if isinstance(argument, ast.arg)}
        own |= set(stored_names(self.definition))
        return any(pair <= own for pair in _PAIRS)

    def has_unnamed(self) -> bool:
        """Return whether a softmax of query and key is made anywhere."""
        return self._has_pair() and any(
            isinstance(node, ast.Call)
            and called_name(node) in self.softmaxes
            and _is_along_last(node)
            and self._is_product(node, node.lineno)
            for node in ast.walk(self.definition)
        )

    def _callee(self, node: ast.Assign) -> str | None:
        """Return by which name an assignment calls softmax; of ``nn.Softmax(dim=-1)(x)``, that of the module."""
        call = _without_casts(node.value)
        made = call.func if isinstance(call, ast.Call) and isinstance(call.func, ast.Call) else call
        called = called_name(made)
        return called if called in self.softmaxes and (made is not call or called != _MODULE) else None

    def _is_product(self, expression: ast.AST, line: int, known: frozenset[str] = frozenset()) -> bool:
        """Return whether a value comes of a product of matrices, by what was assigned above a line."""
        for node in ast.walk(expression):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
                return True
            if isinstance(node, ast.Call) and called_name(node) in _PRODUCTS:
                return True
            if isinstance(node, ast.Name) and node.id not in known:
                above = [value for at, value in self._assigned(node.id) if at < line]
                if any(self._is_product(value, line, known | {node.id}) for value in above):
                    return True
        return False

    def _swaps_axes(self, node: ast.Assign) -> bool:
        """Return whether an einsum makes the product of queries and keys with its axes in another order."""
        waiting: list[ast.AST] = [node.value]
        asked: set[str] = set()
        while waiting:
            for part in ast.walk(waiting.pop()):
                if isinstance(part, ast.Call) and called_name(part) == "einsum" and _is_of_pair(part):
                    if _is_out_of_order(part.args[0]):
                        return True
                elif isinstance(part, ast.Name) and part.id not in asked:
                    asked.add(part.id)
                    waiting += [value for at, value in self._assigned(part.id) if at <= node.lineno]
        return False

    def _assigned(self, name: str) -> Iterator[tuple[int, ast.AST]]:
        for node in ast.walk(self.definition):
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(name in stored_names(target) for target in targets):
                    yield node.lineno, node.value

    def _several(self, nodes: Sequence[ast.AST], kinds: Iterable[str] = ()) -> bool:
        """Return whether more than one of these can come about in one call, or are not the same."""
        if len(nodes) > 1 and len(set(kinds)) > 1:
            return True
        loops = [node for node in ast.walk(self.definition) if isinstance(node, (ast.For, ast.AsyncFor, ast.While))]
        if any(node in ast.walk(loop) for loop in loops for node in nodes):
            return True
        return not all(self._exclude(*pair) for pair in combinations(nodes, 2))

    def _exclude(self, one: ast.AST, other: ast.AST) -> bool:
        """Return whether two places stand in different branches of one `if`."""
        for node in ast.walk(self.definition):
            if isinstance(node, ast.If):
                body, orelse = (list(_walk(branch)) for branch in (node.body, node.orelse))
                if (one in body and other in orelse) or (one in orelse and other in body):
                    return True
        return False

    def _mixed(self, made: Sequence[ast.Assign], name: str) -> Assignment | None:
        """Return the last assignment that makes something else of the softmax under its own name.

        Dropout is no such thing, nor is another precision or layout.
        """
        line = max(node.lineno for node in made)
        found: Assignment | None = None
        for node in sorted(_statements(self.definition), key=lambda node: node.lineno):
            if node.lineno <= line or _target(node) != name:
                continue
            value = _without_layouts(node.value)
            uses = [n.attr for n in ast.walk(value) if isinstance(n, ast.Attribute)]
            uses += [n.id for n in ast.walk(value) if isinstance(n, ast.Name) and n.id != name]
            uses = [use for use in uses if use not in _SAY_NOTHING]
            callee = called_name(value)
            kept = callee is not None and "drop" in callee
            made_of_it = isinstance(node, ast.AugAssign) or name in {
                n.id for n in ast.walk(value) if isinstance(n, ast.Name)
            }
            if uses and not kept and made_of_it and not self._is_product(value, 0):
                found = Assignment(name, uses[0], f"{name} = {ast.unparse(node.value)}")
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


def _result(node: ast.Assign, callee: str | None) -> Assignment:
    name = _target(node)
    assert name is not None
    assert callee is not None
    return Assignment(name, callee, f"{name} = {callee}(…)")


def _without_casts(value: ast.AST) -> ast.AST:
    """Return what is cast, or of which some keys are left out, such as a column that stands for none."""
    while True:
        match value:
            case ast.Call(func=ast.Attribute(value=inner)) if called_name(value) in _CASTS:
                value = inner
            case ast.Subscript(value=inner, slice=ast.Tuple(elts=[ast.Constant(value=builtins.Ellipsis), ast.Slice()])):
                value = inner
            case _:
                return value


def _without_layouts(value: ast.expr) -> ast.expr:
    while (
        isinstance(value, ast.Call)
        and called_name(value) in _CASTS | _LAYOUTS
        and isinstance(value.func, ast.Attribute)
    ):
        value = value.func.value
    return value


def _is_along_last(call: ast.AST) -> bool:
    """Return whether a softmax is along the last axis, as far as its own arguments tell."""
    axis = _axis(call)
    return axis is None or axis in _LAST


def _axis(call: ast.AST) -> int | None:
    """Return the axis of a softmax, None where its own arguments do not tell."""
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


def _is_of_pair(call: ast.Call) -> bool:
    """Return whether a product is that of queries and keys themselves, and not of positions."""
    names = [{n.id for n in ast.walk(given) if isinstance(n, ast.Name)} for given in call.args[1:]]
    return len(names) == 2 and any(all(pair & each for each in names) for pair in _PAIRS)  # noqa: PLR2004  # a pair


def _is_out_of_order(pattern: ast.expr) -> bool:
    """Return whether the result of an einsum of two matrices does not end with a row of one and a row of the other."""
    if not isinstance(pattern, ast.Constant) or not isinstance(pattern.value, str) or "->" not in pattern.value:
        return False
    given, _, made = pattern.value.partition("->")
    # Axes have names of one letter, or, in einops', words.
    one, *others = (part.split() if " " in made.strip() else [*part.strip()] for part in given.split(","))
    result = made.split() if " " in made.strip() else [*made.strip()]
    if len(others) != 1:
        return False
    other = others[0]
    of_one = [axis for axis in result if axis in one and axis not in other]
    of_other = [axis for axis in result if axis in other and axis not in one]
    return len(of_one) == len(of_other) == 1 and {*result[-2:]} != {*of_one, *of_other}


def _walk(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        yield from ast.walk(node)
