"""The source of a function, and whether it is that of the code which runs."""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import sys
import textwrap
import types
from typing import TYPE_CHECKING, Any, Final

from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OF_NAMES: Final = frozenset({*dis.hasname, *dis.haslocal, *dis.hasfree})


def definition_of(function: types.FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError) as error:
        msg = f"The source of {function.__qualname__} cannot be read ({error}), so what it computes is not known."
        raise UnsupportedError(msg) from error
    definition = tree.body[0]
    return definition if isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)) else None


class WithoutAnnotations(ast.NodeTransformer):
    """Leaves out what makes no difference: the type that a variable is said to be of."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def is_source_of(definition: ast.FunctionDef | ast.AsyncFunctionDef, code: types.CodeType, qualname: str) -> bool:
    """Say whether code may be compiled from this source: whether they have the same names and constants."""
    # In a class, for its name is a part of those that begin with two underscores.
    around = qualname.split(".")[-2:-1]
    tree = ast.parse(f"class {around[0]}: ..." if around and around[0].isidentifier() else "if True: ...")
    tree.body[0].body = [definition]  # type: ignore[attr-defined]  # both have a body
    compiled = compile(ast.fix_missing_locations(tree), "", "exec", dont_inherit=True)
    made = next((inner for inner in _codes_in(compiled) if inner.co_name == definition.name), None)
    if made is None:
        return False
    expected, found = _content(made), _content(code)
    # What tests and type checkers put into the functions of a file as it is imported.
    if any(isinstance(name, str) and (name.startswith("@") or "beartype" in name) for name in found):
        return expected <= found
    # Alone, a function has no variables of another one around it: what is one there is a global variable here.
    return expected == found and (bool(code.co_freevars) or [*_steps(made)] == [*_steps(code)])


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _codes_in(inner)


def _steps(code: types.CodeType) -> Iterator[object]:
    """Give names, constants and operations in their order; how a method is called depends on imports above."""
    for step in dis.get_instructions(code):
        if step.opcode in _OF_NAMES or step.opname in {"BINARY_OP", "COMPARE_OP", "CONTAINS_OP", "IS_OP"}:
            yield step.argrepr if step.opname.endswith("_OP") else step.argval
        elif step.opcode in dis.hasconst and not isinstance(step.argval, types.CodeType | str):
            yield step.argval


def _content(code: types.CodeType) -> set[object]:
    names = {*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars} - {"__class__"}
    # Texts of several lines, which most are docstrings, stand further to the left here.
    kinds = (bool, int, float, complex, bytes, tuple)
    return names | {(type(part), repr(part)) for part in code.co_consts if isinstance(part, kinds)}


@functools.lru_cache(maxsize=1024)
def softmax_modules(function: types.FunctionType) -> frozenset[str]:
    """Return the attributes that the class of a method makes ``nn.Softmax``, whatever it calls them."""
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


def called_name(node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name
    return None
