"""Where an attention function makes its softmax, read from its source.

A softmax is one of attention if it is of a product of matrices, along the last axis: others gate, pool or classify. A
function in which it cannot be told which variable holds the map is refused, because its map might not be exact.
"""

from __future__ import annotations

import ast
import functools
import types
from itertools import combinations
from typing import TYPE_CHECKING, Final

from anylocal._engine.patch import own_code
from anylocal._engine.spec import Assignment
from anylocal._readout.expressions import (
    CASTS,
    LAYOUTS,
    PAIRS,
    axis_of,
    called_name,
    is_along_last,
    is_of_pair,
    is_out_of_order,
    statements,
    stored_names,
    target,
    without_casts,
    without_layouts,
)
from anylocal._readout.fused import FLEX, SDPA
from anylocal._readout.kernels import called_kernels
from anylocal._readout.reading import Reading
from anylocal._readout.source import WithoutAnnotations, definition_of, is_source_of, softmax_modules
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SOFTMAX: Final = "softmax"
_MODULE: Final = "Softmax"

# Parts of the names of maps.
_MAP_NAMES: Final = ("att", "dots")
_PRODUCTS: Final = {"matmul", "bmm", "baddbmm", "einsum", "mm"}
# Names that are in too many assignments to identify one.
_UNSPECIFIC: Final = {"self", "torch", "nn", "F", "functional"} | LAYOUTS | CASTS


def reading_of(function: types.FunctionType, known: frozenset[str] = frozenset()) -> Reading | None:
    """Return how the map is read off the calls of a function, or None where it computes no attention.

    Parameters
    ----------
    function : types.FunctionType
        The function.
    known : frozenset of str
        The zoo's names for maps: a softmax that is assigned to such a name is one, also where another function makes
        the product.

    Raises
    ------
    UnsupportedError
        If it computes attention in a way that cannot be read exactly.
    """
    names = set(function.__code__.co_names)
    softmaxes = frozenset({SOFTMAX, _MODULE, *(softmax_modules(function) & names)})
    found = _read(own_code(function), function, softmaxes, known) if names & softmaxes else None
    return Reading() if found is None and called_kernels(function) else found


@functools.lru_cache(maxsize=4096)
def why_overlooked(function: types.FunctionType) -> str | None:
    """Return how a function without a `Reading` seems to make a map all the same; None where it does not."""
    names = set(_names_in(own_code(function)))
    kernel = next((kernel for kernel in (SDPA, FLEX) if kernel in names), None)
    if kernel is not None:
        return f"it calls {kernel} in another function"
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


@functools.lru_cache(maxsize=1024)
def _read(
    code: types.CodeType, function: types.FunctionType, softmaxes: frozenset[str], known: frozenset[str]
) -> Reading | None:
    definition = definition_of(function)
    if definition is None:
        return None
    if not is_source_of(definition, code, function.__qualname__):
        raise UnsupportedError(
            f"The file of {function.__qualname__} ({code.co_filename}) is not the source of the code that runs: it was"
            " changed after the import. Reload it, or restart Python."
        )
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
        made = list(self._softmaxed())
        if not made:
            return None
        results = [_result(node, self._callee(node)) for node in made]
        # A call runs one of the branches that exclude each other, under whatever name.
        others = tuple(
            {r.name: r._replace(label=results[0].key) for r in results if r.name != results[0].name}.values()
        )
        mixed = [found for name in {r.name: None for r in results} if (found := self._mixed(made, name)) is not None]
        axes = {axis for node in made if (axis := axis_of(without_casts(node.value))) is not None and axis >= 0}
        if any(self._swaps_axes(node) for node in made) or len(axes) > 1:
            msg = f"{self.where} orders the axes of its map in another way than (batch, head, query, key)."
            raise UnsupportedError(msg)
        if self._several(made) or len(mixed) > 1:
            msg = f"{self.where} makes several maps, which are not known apart. Capture its locals by name."
            raise UnsupportedError(msg)
        return Reading(
            results[0],
            mixed[0] if mixed else None,
            otherwise=others,
            axis=axes.pop() if axes else -1,
        )

    def _softmaxed(self) -> Iterator[ast.Assign]:
        """Yield the assignments of the results of softmax, where they are attention."""
        has_pair = self._has_pair()
        for node in ast.walk(self.definition):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)]) if self._callee(node) is not None:
                    call = without_casts(node.value)
                    seems_attention = has_pair or any(part in name for part in _MAP_NAMES)
                    if not is_along_last(call):
                        continue
                    if name in self.known or (seems_attention and self._is_product(call, node.lineno)):
                        yield node

    def _has_pair(self) -> bool:
        """Return whether the function has variables for query and key."""
        own = {argument.arg for argument in ast.walk(self.definition) if isinstance(argument, ast.arg)}
        own |= set(stored_names(self.definition))
        return any(pair <= own for pair in PAIRS)

    def has_unnamed(self) -> bool:
        """Return whether the function makes a softmax of query and key anywhere."""
        return self._has_pair() and any(
            isinstance(node, ast.Call)
            and called_name(node) in self.softmaxes
            and is_along_last(node)
            and self._is_product(node, node.lineno)
            for node in ast.walk(self.definition)
        )

    def _callee(self, node: ast.Assign) -> str | None:
        """Return the name by which an assignment calls softmax; for ``nn.Softmax(dim=-1)(x)``, that of the module."""
        call = without_casts(node.value)
        made = call.func if isinstance(call, ast.Call) and isinstance(call.func, ast.Call) else call
        called = called_name(made)
        return called if called in self.softmaxes and (made is not call or called != _MODULE) else None

    def _is_product(self, expression: ast.AST, line: int, known: frozenset[str] = frozenset()) -> bool:
        """Return whether a value comes from a product of matrices, by the assignments above a line."""
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
        seen: set[str] = set()
        while waiting:
            for part in ast.walk(waiting.pop()):
                if isinstance(part, ast.Call) and called_name(part) == "einsum" and is_of_pair(part):
                    if is_out_of_order(part.args[0]):
                        return True
                elif isinstance(part, ast.Name) and part.id not in seen:
                    seen.add(part.id)
                    waiting += [value for at, value in self._assigned(part.id) if at <= node.lineno]
        return False

    def _assigned(self, name: str) -> list[tuple[int, ast.AST]]:
        """Return the lines that assign a name, with the values."""
        return self._assignments.get(name, [])

    @functools.cached_property
    def _assignments(self) -> dict[str, list[tuple[int, ast.AST]]]:
        found: dict[str, list[tuple[int, ast.AST]]] = {}
        for node in ast.walk(self.definition):
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in {name for target in targets for name in stored_names(target)}:
                    found.setdefault(name, []).append((node.lineno, node.value))
        return found

    def _several(self, nodes: Sequence[ast.AST]) -> bool:
        """Return whether more than one of these can run in one call."""
        loops = [node for node in ast.walk(self.definition) if isinstance(node, (ast.For, ast.AsyncFor, ast.While))]
        if any(node in ast.walk(loop) for loop in loops for node in nodes):
            return True
        return not all(self._exclude(*pair) for pair in combinations(nodes, 2))

    def _exclude(self, one: ast.AST, other: ast.AST) -> bool:
        """Return whether two nodes are in different branches of one `if`."""
        for node in ast.walk(self.definition):
            if isinstance(node, ast.If):
                body, orelse = (list(_walk(branch)) for branch in (node.body, node.orelse))
                if (one in body and other in orelse) or (one in orelse and other in body):
                    return True
        return False

    def _mixed(self, made: Sequence[ast.Assign], name: str) -> Assignment | None:
        """Return the last assignment that makes something else of the softmax under its own name.

        Dropout does not count, nor does another precision or layout.
        """
        line = max(node.lineno for node in made)
        found: Assignment | None = None
        for node in sorted(statements(self.definition), key=lambda node: node.lineno):
            if node.lineno <= line or target(node) != name:
                continue
            value = without_layouts(node.value)
            uses = [n.attr for n in ast.walk(value) if isinstance(n, ast.Attribute)]
            uses += [n.id for n in ast.walk(value) if isinstance(n, ast.Name) and n.id != name]
            uses = [use for use in uses if use not in _UNSPECIFIC]
            callee = called_name(value)
            kept = callee is not None and "drop" in callee
            made_of_it = isinstance(node, ast.AugAssign) or name in {
                n.id for n in ast.walk(value) if isinstance(n, ast.Name)
            }
            if uses and not kept and made_of_it and not self._is_product(value, 0):
                found = Assignment(name, uses[0], f"{name} = {ast.unparse(node.value)}")
        return found


def _result(node: ast.Assign, callee: str | None) -> Assignment:
    name = target(node)
    assert name is not None
    assert callee is not None
    return Assignment(name, callee, f"{name} = {callee}(…)")


def _walk(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        yield from ast.walk(node)
