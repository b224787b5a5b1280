"""A target -> the functions that it selects, each with the filter of its calls.

A target may be a function, a method, anything that wraps one, a class, an object, a Python module, a model, or the
dotted name of any of these.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
import typing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from anylocal._engine import tensors
from anylocal._engine.bases import is_a
from anylocal._engine.frames import is_recording_code
from anylocal._engine.functions import (
    dispatching_method,
    functions_in,
    is_compiled,
    methods_of,
    package_of,
    takes_owner,
)
from anylocal._engine.known import known, may_be_remembered, remember
from anylocal._engine.model import in_model
from anylocal._engine.patch import own_code
from anylocal._engine.spec import Filter, Match
from anylocal.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

T = TypeVar("T")

_MOST_DERIVED: Final = 64


class Resolution:
    """The functions that a target selects.

    Parameters
    ----------
    label : str
        The target as a message names it.
    matches : tuple of Match
        Its functions, each once.
    modules : mapping of str to nn.Module
        The submodules of a model by name; empty for other targets.
    derived : dict
        What was derived from it, kept for the next one of the same model as long as that does not change.
    """

    def __init__(
        self,
        label: str,
        matches: tuple[Match, ...],
        modules: Mapping[str, Any] = MappingProxyType({}),
        derived: dict[Any, Any] | None = None,
    ) -> None:
        self.label = label
        self.matches = matches
        self.modules = modules
        self.derived = {} if derived is None else derived

    def derive(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what a function makes of it, made once; it may hold no module of a model."""
        made: T | None = self.derived.get(key)
        if made is None:
            # Of names and modules that differ each time, the last ones are enough.
            if len(self.derived) >= _MOST_DERIVED:
                self.derived.clear()
            made = self.derived[key] = make()
        return made


def resolve(target: object) -> Resolution:
    """Return the functions that a target selects.

    Raises
    ------
    TargetError
        If the target holds no Python code.
    """
    if isinstance(target, str):
        target = imported(target)
    target = _without_arguments(target)
    return _resolved_before(target) or _resolved(target)


def _resolved_before(target: object) -> Resolution | None:
    """Return what a model's earlier resolution was, unless the model has changed since."""
    kept = known(target)
    modules = None if kept is None else kept.modules()
    return None if kept is None or modules is None else Resolution(kept.label, kept.matches, modules, kept.derived)


def _resolved(target: object) -> Resolution:
    label = _label(target)
    if is_compiled(target):
        raise TargetError(
            f"{label} was compiled by numba: it runs without Python and has no locals to capture. Capture the function"
            " that it was compiled from (its py_func), where that is called from Python."
        )
    if tensors.is_scripted(target):
        raise TargetError(
            f"{label} was compiled by TorchScript: it runs without Python and has no locals to capture."
            " Capture the module that it was scripted from."
        )
    named: list[tuple[str, Any]] = []
    modules: Mapping[str, Any] = {}
    if tensors.is_module(target):
        named = list(tensors.module_names(target))
        modules = dict(named)
        found = list(in_model(modules))
    elif isinstance(target, types.ModuleType):
        found = list(_in_python_module(target))
    elif is_a(type(target), type):
        found = list(_in_class(cast("type", target)))
    else:
        found = list(_in_callable(target))
        # The methods of functools' own wrappers are not meant; those of a user's object that holds a function are.
        if not found or package_of(type(target)) not in sys.stdlib_module_names:
            found += _in_object(target)
    if not found:
        raise TargetError(_no_code(target, label))
    # A capture of code that runs at each recorded call would record itself without end.
    found = [item for item in found if not is_recording_code(own_code(item.function))]
    if not found:
        msg = f"{label} is a part of what records calls: a capture of it would run in circles. Use a debugger."
        raise TargetError(msg)
    matches = tuple(_once(found))
    if named and may_be_remembered([module for _, module in named], matches):
        return Resolution(label, matches, modules, remember(target, label, named, matches).derived)
    return Resolution(label, matches, modules)


def _without_arguments(target: object) -> object:
    """Return the class of a generic alias, as ``Stack[int]`` is, and any other target as it is."""
    if type(target).__module__ in {"typing", "types"}:
        origin = typing.get_origin(target)
        return origin if isinstance(origin, type) else target
    return target


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


# Kinds of targets


def _in_callable(target: object) -> Iterator[Match]:
    owner = getattr(target, "__self__", None) if isinstance(target, types.MethodType) else None
    if isinstance(target, functools.partial) and isinstance(target.func, types.MethodType):
        owner = target.func.__self__
    if owner is None:
        _, owner = dispatching_method(target)

    def is_owner(called: object) -> bool:
        return called is owner

    for function in functions_in(target):
        yield Match(function, is_owner if owner is not None and takes_owner(function) else None)


def _in_class(cls: type) -> Iterator[Match]:
    def is_instance(owner: object) -> bool:
        kind = type(owner)
        return kind is cls or is_a(kind, cls) or (is_a(kind, type) and is_a(cast("type", owner), cls))

    for function, kind in methods_of(cls, (object, tensors.module_base() or object)):
        yield Match(function, None if kind == "static" else is_instance)


def _in_object(target: object) -> Iterator[Match]:
    cls = type(target)

    def is_target(owner: object) -> bool:
        return owner is target

    for function, kind in methods_of(cls, (object,)):
        yield Match(function, {"static": None, "class": lambda owner: owner is cls}.get(kind, is_target))


def _in_python_module(module: types.ModuleType) -> Iterator[Match]:
    for value in vars(module).values():
        if _module_of(value) != module.__name__:
            continue
        if is_a(type(value), type):
            foreign = tuple(base for base in value.__mro__ if base.__module__ != module.__name__)
            yield from (Match(function) for function, _ in methods_of(value, foreign))
        else:
            yield from (Match(function) for function in functions_in(value))


def _module_of(value: object) -> str:
    """Return the Python module that defines a value; not by getattr, which may run the code of a proxy."""
    from inspect import getattr_static

    name = value.__module__ if type(value) is types.FunctionType else getattr_static(value, "__module__", None)
    return name if type(name) is str else ""


def _once(found: list[Match]) -> Iterator[Match]:
    """Yield each function once; no filter takes precedence over the first one."""
    widest: dict[types.FunctionType, Filter] = {}
    for item in found:
        if item.function not in widest or item.filter is None:
            widest[item.function] = item.filter
    for function, filter_ in widest.items():
        yield Match(function, filter_)


# Dotted names


def imported(dotted: str) -> object:
    """Return what a dotted name means, and import its module.

    Raises
    ------
    TargetError
        If the name leads nowhere.
    """
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
    msg = f'No module {missing!r} for the target {dotted!r}. Write "package.module:Class.method".'
    raise TargetError(msg)


def _importable(name: str) -> bool:
    try:
        from importlib.util import find_spec

        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _attribute(owner: object, name: str, dotted: str) -> object:
    from inspect import getattr_static

    try:
        return getattr_static(owner, name)
    except AttributeError:
        pass
    try:
        return getattr(owner, name)  # a lazily importing module makes its attributes in __getattr__
    except AttributeError as error:
        from difflib import get_close_matches

        nearest = get_close_matches(name, dir(owner), n=1)
        suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
        msg = f"{_label(owner)} has no attribute {name!r} (target {dotted!r}).{suggestion}"
        raise TargetError(msg) from error
