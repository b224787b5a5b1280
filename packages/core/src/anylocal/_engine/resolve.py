"""Target -> the functions it stands for, and whose calls of them count.

A target may be a function, a method, anything that wraps one, a class, an object, a Python module, a model, or the
dotted name of any of these. Attributes are looked up without binding them: what a descriptor gives is not always
what it holds.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import itertools
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from anylocal._engine import tensors
from anylocal._engine.frames import is_recording_code
from anylocal._engine.patch import own_code
from anylocal._engine.rewrite import Flow, owner_name
from anylocal._engine.spec import Filter, Match
from anylocal.errors import TargetError


class IdentityFilter:
    """Filter some objects, each as itself.

    Parameters
    ----------
    objects : iterable
        The objects.
    """

    def __init__(self, objects: Iterable[object]) -> None:
        kept = list(objects)
        self._ids = {id(item): item for item in kept}
        # To look an object up in a set is faster than its `id`, but asks the object.
        plain = all(type(item).__hash__ is object.__hash__ for item in kept)
        self.members = frozenset(kept) if plain else None

    def __call__(self, owner: object) -> bool:
        """Return whether it is one of them."""
        return id(owner) in self._ids


# The parts of a wrapper that may hold a Python function, in the order in which they are tried.
_INSIDE: Final = ("__func__", "func", "__wrapped__", "fget", "fset", "fdel")


@dataclass(frozen=True)
class Resolution:
    """What a target stands for.

    Parameters
    ----------
    label : str
        The target as a message names it.
    matches : tuple of Match
        Its functions, each once.
    modules : mapping of str to nn.Module
        The submodules of a model by name; empty for other targets.
    """

    label: str
    matches: tuple[Match, ...]
    modules: Mapping[str, Any] = field(default_factory=dict)


@functools.lru_cache(maxsize=4096)
def _flow_names(code: types.CodeType) -> tuple[str, ...]:
    return Flow(code).assigned()


def bound_names(function: types.FunctionType) -> tuple[str, ...]:
    """Return the names that a function binds, arguments first."""
    return _flow_names(own_code(function))


def local_names(function: types.FunctionType) -> tuple[str, ...]:
    """Return the names that a function binds, and those it takes from the functions around it."""
    free = (name for name in own_code(function).co_freevars if name != "__class__")
    return tuple(dict.fromkeys((*bound_names(function), *free)))


def owner_of(function: types.FunctionType) -> str | None:
    """Return the argument of a function that names on whose behalf it runs."""
    return owner_name(own_code(function))


def resolve(target: object) -> Resolution:
    """Return the functions that a target stands for.

    Raises
    ------
    TargetError
        If there is no Python code behind the target.
    """
    if isinstance(target, str):
        target = _imported(target)
    label = _label(target)
    if tensors.is_scripted(target):
        msg = (
            f"{label} was compiled by TorchScript: it runs without Python, so there are no locals to capture."
            " Capture the module that it was scripted from."
        )
        raise TargetError(msg)
    modules: Mapping[str, Any] = {}
    if tensors.is_module(target):
        modules = dict(tensors.module_names(target))
        found = list(in_model(modules))
    elif isinstance(target, types.ModuleType):
        found = list(_in_python_module(target))
    elif isinstance(target, type):
        found = list(_in_class(target))
    else:
        found = list(_in_callable(target))
        # functools' own wrappers have methods too, which nobody means; a user's object may hold a function by chance.
        if not found or _package(type(target)) not in sys.stdlib_module_names:
            found += _in_object(target)
    if not found:
        raise TargetError(_no_code(target, label))
    # What runs at each recorded call would record itself without end.
    found = [item for item in found if not is_recording_code(own_code(item.function))]
    if not found:
        msg = f"{label} is a part of what records calls: a capture of it would run in circles. Use a debugger."
        raise TargetError(msg)
    return Resolution(label, tuple(_once(found)), modules)


def _label(target: object) -> str:
    name = getattr(target, "__qualname__", None) or getattr(target, "__name__", None)
    return name if isinstance(name, str) else type(target).__qualname__


def _no_code(target: object, label: str) -> str:
    if isinstance(target, (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)):
        return (
            f"{label} is implemented in C: it has no Python code and no locals."
            " Point at the Python function that calls it."
        )
    return (
        f"{label} ({type(target).__name__}) holds no Python function. A target is a function, a method, a class, an"
        ' nn.Module, a Python module, or a dotted name such as "package.module:Class.method".'
    )


# Dotted names


def _imported(dotted: str) -> object:
    module_name, _, path = dotted.partition(":")
    if not path and not _importable(module_name):
        # "package.module.Class.method" without a colon: the longest importable part is the module.
        while "." in module_name and not _importable(module_name):
            module_name, _, last = module_name.rpartition(".")
            path = f"{last}.{path}" if path else last
    target = _module(module_name, dotted)
    for part in filter(None, path.split(".")):
        target = _attribute(target, part, dotted)
    return target


def _module(name: str, dotted: str) -> object:
    missing = name or dotted
    try:
        if name:
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
    msg = f'There is no module {missing!r} for the target {dotted!r}. Write "package.module:Class.method".'
    raise TargetError(msg)


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _attribute(owner: object, name: str, dotted: str) -> object:
    try:
        return inspect.getattr_static(owner, name)
    except AttributeError:
        pass
    try:
        return getattr(owner, name)  # a lazily importing module makes its attributes in __getattr__
    except AttributeError as error:
        nearest = get_close_matches(name, dir(owner), n=1)
        suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
        msg = f"{_label(owner)} has no attribute {name!r} (target {dotted!r}).{suggestion}"
        raise TargetError(msg) from error


# Functions, and what wraps them


def functions_in(wrapper: object) -> Iterator[types.FunctionType]:
    """Yield the Python functions behind a function, method, descriptor, partial or decorator, innermost first."""
    seen: set[int] = set()

    def inside(value: object) -> Iterator[types.FunctionType]:
        if id(value) in seen or value is None or isinstance(value, type):
            return
        seen.add(id(value))
        # Most are plain functions: nothing can be inside of one but what it was given as attributes.
        if type(value) is types.FunctionType:
            own = vars(value)
            for attribute in _INSIDE if own else ():
                if _may_hold_code(part := own.get(attribute)):
                    yield from inside(part)
            # Of `functools.singledispatch`, the functions for other types of the argument.
            registry = own.get("registry") if "dispatch" in own else None
            for part in registry.values() if isinstance(registry, types.MappingProxyType) else ():
                yield from inside(part)
            yield value
            return
        for attribute in _INSIDE:
            try:
                part = inspect.getattr_static(value, attribute)
                # Slots and getters of wrapper types show themselves as descriptors; their value is what counts.
                part = getattr(value, attribute) if hasattr(type(part), "__get__") else part
            except AttributeError:
                continue
            if _may_hold_code(part):
                yield from inside(part)

    yield from inside(wrapper)


def _may_hold_code(part: object) -> bool:
    return callable(part) or isinstance(part, (staticmethod, classmethod, functools.partialmethod))


def _in_callable(target: object) -> Iterator[Match]:
    owner = getattr(target, "__self__", None) if isinstance(target, types.MethodType) else None
    if isinstance(target, functools.partial) and isinstance(target.func, types.MethodType):
        owner = target.func.__self__

    def accepts(called: object) -> bool:
        return called is owner

    for function in functions_in(target):
        yield Match(function, accepts if owner is not None and _takes_owner(function) else None)


def _takes_owner(function: types.FunctionType) -> bool:
    return owner_of(function) is not None


# Classes and objects


def _methods(cls: type, stop: tuple[type, ...]) -> Iterator[tuple[types.FunctionType, str]]:
    """Yield the functions in a class and its bases, each with what it is bound to: "self", "class", or "static"."""
    for base in cls.__mro__:
        if base in stop:
            continue
        for value in vars(base).values():
            kind = (
                "static" if isinstance(value, staticmethod) else "class" if isinstance(value, classmethod) else "self"
            )
            for function in functions_in(value):
                # Where the object is somewhere in `*args`, whose call it is cannot be told.
                yield function, kind if _takes_owner(function) else "static"


def _in_class(cls: type) -> Iterator[Match]:
    if cls.__module__ == "builtins":
        return

    def accepts(owner: object) -> bool:
        return isinstance(owner, cls) or (isinstance(owner, type) and issubclass(owner, cls))

    for function, kind in _methods(cls, (object, tensors.module_base() or object)):
        yield Match(function, None if kind == "static" else accepts)


def _in_object(target: object) -> Iterator[Match]:
    cls = type(target)
    if cls.__module__ == "builtins" or isinstance(target, (types.BuiltinFunctionType, types.ModuleType)):
        return

    def accepts(owner: object) -> bool:
        return owner is target

    for function, kind in _methods(cls, (object,)):
        yield Match(function, {"static": None, "class": lambda owner: owner is cls}.get(kind, accepts))


def _in_python_module(module: types.ModuleType) -> Iterator[Match]:
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, type):
            foreign = tuple(base for base in value.__mro__ if base.__module__ != module.__name__)
            yield from (Match(function) for function, _ in _methods(value, foreign))
        else:
            yield from (Match(function) for function in functions_in(value))


# Models


def in_model(modules: Mapping[str, Any], *, alone: bool = False) -> Iterator[Match]:
    """Yield the methods of all submodules, and the functions of their Python modules that they name.

    `alone` leaves out what may as well run for other modules than these.
    """
    accepts = IdentityFilter(modules.values())
    classes = {type(module) for module in modules.values()}
    base = tensors.module_base() or object

    def accepts_class(owner: object) -> bool:
        return owner in classes

    accepting: dict[str, Filter] = {"self": accepts, "class": accepts_class, "static": None}
    methods = {
        function: accepting[kind]
        for cls in sorted(classes, key=lambda c: c.__qualname__)
        for function, kind in _methods(cls, (object, base))
        # The model is built: no __init__ of it can run any more.
        if function.__name__ != "__init__" and not (alone and kind == "static")
    }
    methods |= {function: accepts if is_theirs else None for function, is_theirs in _put_onto(modules.values())}
    helpers = {function: accepts if _works_for_module(function) else None for function in _named_by(methods)}
    for function, accepts_owner in methods.items():
        yield Match(function, accepts_owner)
    for function, accepts_owner in helpers.items():
        if accepts_owner is not None or not alone:
            yield Match(function, accepts_owner)


def _put_onto(modules: Iterable[object]) -> Iterator[tuple[types.FunctionType, bool]]:
    """Yield the functions that forks put onto modules themselves, and whether they take the module."""
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, (types.MethodType, types.FunctionType, functools.partial)):
                takes_module = _takes_owner if isinstance(value, types.MethodType) else _works_for_module
                yield from ((f, takes_module(f)) for f in functions_in(value) if not _is_foundation(f))


def _works_for_module(function: types.FunctionType) -> bool:
    """Return whether a function that is no method says by its arguments on behalf of which module it runs."""
    return owner_of(function) in {"self", "module"}


def _named_by(functions: Mapping[types.FunctionType, object]) -> Iterator[types.FunctionType]:
    """Yield the plain functions that some functions name as globals, and those that these name in turn."""
    pending, seen = list(functions), set(functions)
    while pending:
        function = pending.pop()
        for name in _global_names(own_code(function)):
            named = function.__globals__.get(name)
            if not isinstance(named, types.FunctionType) or _is_foundation(named):
                continue
            for inner in functions_in(named):
                if inner not in seen:
                    seen.add(inner)
                    pending.append(inner)
                    yield inner


@functools.lru_cache(maxsize=4096)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    inner = [_global_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return tuple(dict.fromkeys((*code.co_names, *itertools.chain(*inner))))


def _is_foundation(function: types.FunctionType) -> bool:
    """Return whether a function belongs to torch or Python itself: their insides are not the model's."""
    package = _package(function)
    return package == "torch" or package in sys.stdlib_module_names


def _package(defined: type | types.FunctionType) -> str:
    return (defined.__module__ or "").partition(".")[0]


def _once(found: list[Match]) -> Iterator[Match]:
    """Yield each function once; where it was reached in several ways, the widest counts."""
    widest: dict[types.FunctionType, Filter] = {}
    for item in found:
        if item.function not in widest or item.filter is None:
            widest[item.function] = item.filter
    for function, accepts in widest.items():
        yield Match(function, accepts)
