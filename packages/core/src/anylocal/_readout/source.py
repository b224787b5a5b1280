"""The source of a function: its syntax tree, whether it is that of the code which runs, and what it shows of heads."""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import re
import sys
import textwrap
import types
from typing import TYPE_CHECKING, Any, Final

from anylocal._readout.expressions import called_name
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OF_NAMES: Final = frozenset({*dis.hasname, *dis.haslocal, *dis.hasfree})


def _parsed(function: types.FunctionType) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def definition_of(function: types.FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    try:
        tree = _parsed(function)
    except (OSError, TypeError, SyntaxError) as error:
        msg = f"The source of {function.__qualname__} cannot be read ({error}), so what it computes is not known."
        raise UnsupportedError(msg) from error
    definition = tree.body[0]
    return definition if isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)) else None


class WithoutAnnotations(ast.NodeTransformer):
    """Turns annotated assignments into plain ones."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def is_source_of(definition: ast.FunctionDef | ast.AsyncFunctionDef, code: types.CodeType, qualname: str) -> bool:
    """Return whether code may be compiled from this source: whether both have the same names and constants."""
    # In a class, whose name is a part of names that begin with two underscores.
    around = qualname.split(".")[-2:-1]
    tree = ast.parse(f"class {around[0]}: ..." if around and around[0].isidentifier() else "if True: ...")
    tree.body[0].body = [definition]  # type: ignore[attr-defined]  # both have a body
    compiled = compile(ast.fix_missing_locations(tree), "", "exec", dont_inherit=True)
    made = next((inner for inner in _codes_in(compiled) if inner.co_name == definition.name), None)
    if made is None:
        return False
    expected, found = _content(made), _content(code)
    # Test tools and type checkers add names to the functions of a file as it is imported.
    if any(isinstance(name, str) and (name.startswith("@") or "beartype" in name) for name in found):
        return expected <= found
    # Compiled alone, a function has no enclosing one, whose variables become global ones here.
    return expected == found and (bool(code.co_freevars) or [*_steps(made)] == [*_steps(code)])


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _codes_in(inner)


def _steps(code: types.CodeType) -> Iterator[object]:
    """Yield names, constants and operations in their order; the way a method is called depends on imports above it."""
    for step in dis.get_instructions(code):
        if step.opcode in _OF_NAMES or step.opname in {"BINARY_OP", "COMPARE_OP", "CONTAINS_OP", "IS_OP"}:
            yield step.argrepr if step.opname.endswith("_OP") else step.argval
        elif step.opcode in dis.hasconst and not isinstance(step.argval, types.CodeType | str):
            yield step.argval


def _content(code: types.CodeType) -> set[object]:
    names = {*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars} - {"__class__"}
    # Not str: docstrings of several lines are dedented here.
    kinds = (bool, int, float, complex, bytes, tuple)
    return names | {(type(part), repr(part)) for part in code.co_consts if isinstance(part, kinds)}


@functools.lru_cache(maxsize=1024)
def softmax_modules(function: types.FunctionType) -> frozenset[str]:
    """Return the attributes to which the class of a method assigns an ``nn.Softmax``."""
    owner: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split(".")[:-1]:
        owner = getattr(owner, part, None)
    found: set[str] = set()
    for base in owner.__mro__ if isinstance(owner, type) else ():
        init = vars(base).get("__init__")
        if isinstance(init, types.FunctionType) and "Softmax" in init.__code__.co_names:
            for node in ast.walk(definition_of(init) or ast.Module([], [])):
                match node:
                    case ast.Assign(targets=[ast.Attribute(attr=attribute)], value=ast.Call() as call):
                        found |= {attribute} if called_name(call) == "Softmax" else set()
    return frozenset(found)


# Heads in the batch

_HEADS: Final = r"(?:n_?|num_?)?(?:h|heads?)"
_HEADS_LEAD: Final = re.compile(
    # (batch, position, head, feature), with the heads in front, as queries and as keys.
    r"permute\((?:[A-Za-z_][\w.]*(?:\([^()]*\))?, )?[(\[]?2, 0, (?:1, 3|3, 1)[)\]]"
    r"|(?:transpose|swapaxes)\(0, 1\)(?:\.contiguous\(\))?\.flatten\(0, 1\)"
    # In a pattern of einops.
    rf"|\({_HEADS} (?:b|bs|bsz|batch\w*)\)"
    # The parts of a tensor, put together along the first axis.
    r"|(?:cat|concat)\([^()]*(?:split|chunk)\((?:[^()]|\([^()]*\))*\)(?:, (?:dim=|axis=)?0)?\)"
    rf"|(?:cat|concat)\(\[.* in .*\b{_HEADS}\b.*\](?:, (?:dim=|axis=)?0)?\)"
)
"""Expressions that merge heads and batch so that all samples of the first head come first."""

_MAP: Final = re.compile(r"^(?! *(?:async )?def ).*(?:[Ss]oftmax|scaled_dot_product_attention|bmm)\(.*$", re.MULTILINE)
"""The line that makes the map: those after it may lay out other tensors."""


def heads_come_first(function: types.FunctionType) -> bool:
    """Return whether a function that makes heads a part of the batch has them in front of the samples."""
    return _HEADS_LEAD.search(source_up_to_softmax(function)) is not None


@functools.lru_cache(maxsize=1024)
def source_up_to_softmax(function: types.FunctionType) -> str:
    """Return the source of a function up to its map, without comments and in one style; nothing where it has none."""
    try:
        tree = _parsed(function)
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            # A docstring may name other layouts.
            node.value = ast.Constant(None)
    source = ast.unparse(tree)
    made = _MAP.search(source)
    return source if made is None else source[: made.end()]
