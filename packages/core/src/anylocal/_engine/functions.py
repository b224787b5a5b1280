"""The Python functions behind wrappers and classes, and the names that they bind.

Attributes are looked up without binding them: a descriptor's result is not always the function that it holds.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import TYPE_CHECKING, Final

from anylocal._engine.patch import own_code
from anylocal._engine.rewrite import Flow, owner_name

if TYPE_CHECKING:
    from collections.abc import Iterator

# Attributes of a wrapper that may hold a Python function, in the order in which they are tried.
_INSIDE: Final = ("__func__", "func", "__wrapped__", "fget", "fset", "fdel")


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
    """Return the name of the argument on whose behalf a function runs."""
    return owner_name(own_code(function))


def takes_owner(function: types.FunctionType) -> bool:
    """Return whether a function has an argument on whose behalf it runs."""
    return owner_of(function) is not None


# Wrappers and classes


def functions_in(wrapper: object) -> Iterator[types.FunctionType]:
    """Yield the Python functions behind a function, method, descriptor, partial or decorator, innermost first."""
    seen: set[int] = set()

    def inside(value: object) -> Iterator[types.FunctionType]:
        if id(value) in seen or value is None or isinstance(value, type):
            return
        seen.add(id(value))
        # Most are plain functions, which hold others only as attributes of their own.
        if type(value) is types.FunctionType:
            own = vars(value)
            for attribute in _INSIDE if own else ():
                if _may_hold_code(part := own.get(attribute)):
                    yield from inside(part)
            # The functions of a `functools.singledispatch` for other types of the argument.
            registry = own.get("registry") if "dispatch" in own else None
            for part in registry.values() if isinstance(registry, types.MappingProxyType) else ():
                yield from inside(part)
            yield value
            return
        for attribute in _INSIDE:
            try:
                part = inspect.getattr_static(value, attribute)
                # Slots and getters of wrapper types are descriptors here; their value may hold the function.
                part = getattr(value, attribute) if hasattr(type(part), "__get__") else part
            except AttributeError:
                continue
            if _may_hold_code(part):
                yield from inside(part)

    yield from inside(wrapper)


def _may_hold_code(part: object) -> bool:
    return callable(part) or isinstance(part, (staticmethod, classmethod, functools.partialmethod))


def methods_of(cls: type, stop: tuple[type, ...]) -> Iterator[tuple[types.FunctionType, str]]:
    """Yield the functions in a class and its bases, each with what it is bound to: "self", "class", or "static"."""
    for base in cls.__mro__:
        if base in stop:
            continue
        for value in vars(base).values():
            kind = (
                "static" if isinstance(value, staticmethod) else "class" if isinstance(value, classmethod) else "self"
            )
            for function in functions_in(value):
                # Where the object is somewhere in `*args`, the owner of a call is unknown.
                yield function, kind if takes_owner(function) else "static"


def package_of(defined: type | types.FunctionType) -> str:
    """Return the top-level package that defines a class or a function."""
    return (defined.__module__ or "").partition(".")[0]
