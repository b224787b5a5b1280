"""The functions of a model: methods of its submodules, and the plain functions that these name."""

from __future__ import annotations

import functools
import itertools
import sys
import types
from typing import TYPE_CHECKING, Any

from anylocal._engine import tensors
from anylocal._engine.bases import bases_of
from anylocal._engine.functions import functions_in, methods_of, owner_of, package_of, takes_owner
from anylocal._engine.patch import own_code
from anylocal._engine.spec import IdentityFilter, Match

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from anylocal._engine.spec import Filter


def in_model(modules: Mapping[str, Any], *, alone: bool = False) -> Iterator[Match]:
    """Yield the methods of all submodules, and the functions of their Python modules that they name.

    `alone` leaves out functions that may as well run for other modules than these.
    """
    is_part = IdentityFilter(modules.values())
    classes = {id(type(module)): type(module) for module in modules.values()}
    base = tensors.module_base() or object

    def is_class(owner: object) -> bool:
        return id(owner) in classes

    filters: dict[str, Filter] = {"self": is_part, "class": is_class, "static": None}
    methods = {
        function: filters[kind]
        for cls in sorted(classes.values(), key=lambda c: c.__qualname__)
        for function, kind in methods_of(cls, (object, base))
        # The model is built: no __init__ of it can run any more.
        if function.__name__ != "__init__" and not (alone and kind == "static")
    }
    methods |= {function: is_part if is_theirs else None for function, is_theirs in put_onto(modules.values())}
    named = _named_by(methods, _plumbing(classes))
    helpers = {function: is_part if _works_for_module(function) else None for function in named}
    for function, filter_ in methods.items():
        yield Match(function, filter_)
    for function, filter_ in helpers.items():
        if filter_ is not None or not alone:
            yield Match(function, filter_)


def put_onto(modules: Iterable[object]) -> Iterator[tuple[types.FunctionType, bool]]:
    """Yield the functions that are attributes of modules themselves, as in forks, and whether they take the module."""
    for module in modules:
        for value in vars(module).values():
            # Not by isinstance, which would run the `__class__` of a proxy.
            if issubclass(type(value), (types.MethodType, types.FunctionType, functools.partial)):
                takes_module = takes_owner if type(value) is types.MethodType else _works_for_module
                yield from ((f, takes_module(f)) for f in functions_in(value) if not _is_foundation(f))


def _works_for_module(function: types.FunctionType) -> bool:
    """Return whether a plain function takes the module on whose behalf it runs."""
    return owner_of(function) in {"self", "module"}


def _plumbing(classes: Mapping[int, type]) -> set[types.FunctionType]:
    """Return the methods of bases that no module is of and that have no forward, as a zoo's for loading and saving."""
    bases = {base for cls in classes.values() for base in bases_of(cls)}
    without = [base for base in bases if id(base) not in classes and "forward" not in vars(base)]
    return {function for base in without for value in tuple(vars(base).values()) for function in functions_in(value)}


def _named_by(
    functions: Mapping[types.FunctionType, object], plumbing: set[types.FunctionType]
) -> Iterator[types.FunctionType]:
    """Yield the plain functions that functions name as globals, and those that these name in turn.

    Those of the `plumbing` count only where others name them: all models of a zoo have them, and they name most of it.
    """
    pending, seen = [function for function in functions if function not in plumbing], set(functions)
    unnamed: dict[str, list[types.FunctionType]] = {}
    for function in plumbing.intersection(functions):
        unnamed.setdefault(function.__name__, []).append(function)
    while pending:
        function = pending.pop()
        for name in global_names(own_code(function)):
            pending += unnamed.pop(name, ())
            named = function.__globals__.get(name)
            if type(named) is not types.FunctionType or _is_foundation(named):
                continue
            for inner in functions_in(named):
                if inner not in seen:
                    seen.add(inner)
                    pending.append(inner)
                    yield inner


@functools.lru_cache(maxsize=4096)
def global_names(code: types.CodeType) -> tuple[str, ...]:
    inner = [global_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return tuple(dict.fromkeys((*code.co_names, *itertools.chain(*inner))))


def _is_foundation(function: types.FunctionType) -> bool:
    """Return whether a function belongs to torch or Python itself, and not to the model."""
    package = package_of(function)
    return package == "torch" or package in sys.stdlib_module_names
