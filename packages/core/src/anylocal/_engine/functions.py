"""The Python functions behind wrappers and classes, and the names that they bind.

Attributes are looked up without binding them: a descriptor's result is not always the function that it holds.
"""

from __future__ import annotations

import functools
import sys
import types
from typing import TYPE_CHECKING, Any, Final

from anylocal._engine.bases import bases_of, is_a
from anylocal._engine.patch import own_code

if TYPE_CHECKING:
    from collections.abc import Iterator

# Attributes of a wrapper that may hold a Python function, in the order in which they are tried.
_INSIDE: Final = ("__func__", "func", "dispatcher", "_unbound", "__wrapped__", "fget", "fset", "fdel")


@functools.lru_cache(maxsize=4096)
def _flow_names(code: types.CodeType) -> tuple[str, ...]:
    # Who only imports the library waits for no rewriter.
    from anylocal._engine.rewrite import Flow

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
    from anylocal._engine.rewrite import owner_name

    return owner_name(own_code(function))


def takes_owner(function: types.FunctionType) -> bool:
    """Return whether a function has an argument on whose behalf it runs."""
    return owner_of(function) is not None


def found_by_name(function: types.FunctionType) -> types.FunctionType | None:
    """Return the function to which the names of a function and its module lead now, if they lead to one."""
    place: object = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        if not issubclass(type(place), (type, types.ModuleType)):
            return None
        place = vars(place).get(name)
    if type(place) is types.FunctionType:
        return place
    if isinstance(place, (staticmethod, classmethod)):
        place = place.__func__
    return place if type(place) is types.FunctionType else None


def is_defined_again(function: types.FunctionType) -> bool:
    """Return whether a function, which its names led to, has a successor: a module or a cell was executed again."""
    found = found_by_name(function)
    return not (found is None or found is function) and own_code(found).co_name == own_code(function).co_name


# Wrappers and classes


def functions_in(wrapper: object) -> Iterator[types.FunctionType]:
    """Yield the Python functions behind a function, method, descriptor, partial or decorator, innermost first."""
    seen: set[int] = set()

    def inside(value: object) -> Iterator[types.FunctionType]:
        if id(value) in seen or value is None:
            return
        # Most are plain functions, which hold others only as attributes of their own.
        if type(value) is types.FunctionType:
            seen.add(id(value))
            if vars(value):
                for part in _held_by(value):
                    yield from inside(part)
            yield value
            return
        if is_a(type(value), type) or is_compiled(value):
            return
        seen.add(id(value))
        for part in _wrapped_by(value):
            yield from inside(part)

    yield from inside(wrapper)


def _wrapped_by(value: object) -> Iterator[object]:
    """Yield what may be a function among the attributes of a wrapper."""
    # Who only imports the library does not wait for it.
    from inspect import getattr_static

    yield dispatching_method(value)[0]
    for attribute in _INSIDE:
        try:
            part = getattr_static(value, attribute)
            # Slots and getters of wrapper types are descriptors here; their value may hold the function.
            part = getattr(value, attribute) if hasattr(type(part), "__get__") else part
        except Exception:  # noqa: BLE001, S112  # a descriptor of the user's
            continue
        if _may_hold_code(part):
            yield part


def _held_by(function: types.FunctionType) -> Iterator[object]:
    """Yield what may be a function among the attributes of one."""
    own = vars(function)
    yield from (part for attribute in _INSIDE if _may_hold_code(part := own.get(attribute)))
    # The functions of a `functools.singledispatch` for other types of the argument.
    registry = own.get("registry") if "dispatch" in own else None
    yield from registry.values() if type(registry) is types.MappingProxyType else ()
    yield dispatching_method(function)[0]


def _may_hold_code(part: object) -> bool:
    return callable(part) or issubclass(type(part), (staticmethod, classmethod, functools.partialmethod))


def dispatching_method(attribute: object) -> tuple[functools.singledispatchmethod[Any] | None, object]:
    """Return the `singledispatchmethod` that an attribute of a class or an object stands for, and that object.

    Until Python 3.13 such an attribute is a function with the two in its closure; later an object that holds them.
    """
    if type(attribute) is types.FunctionType:
        method = getattr(vars(attribute).get("register"), "__self__", None)
        cells = dict(zip(attribute.__code__.co_freevars, attribute.__closure__ or (), strict=True))
        bound = cells["obj"].cell_contents if "obj" in cells else None
    else:
        held = getattr(attribute, "__dict__", {}) if type(attribute).__module__ == "functools" else {}
        method, bound = held.get("_unbound"), held.get("_obj")
    return (method, bound) if type(method) is functools.singledispatchmethod else (None, None)


def is_compiled(value: object) -> bool:
    """Return whether numba has compiled a function, so that no Python code of it runs."""
    return package_of(type(value)) == "numba"


def methods_of(cls: type, stop: tuple[type, ...]) -> Iterator[tuple[types.FunctionType, str]]:
    """Yield the functions in a class and its bases, each with what it is bound to: "self", "class", or "static"."""
    for base in bases_of(cls):
        if any(base is foreign for foreign in stop):
            continue
        for value in tuple(vars(base).values()):
            wrapper = type(value)
            kind = "static" if is_a(wrapper, staticmethod) else "class" if is_a(wrapper, classmethod) else "self"
            for function in functions_in(value):
                # Where the object is somewhere in `*args`, the owner of a call is unknown.
                yield function, kind if takes_owner(function) else "static"


def package_of(defined: type | types.FunctionType) -> str:
    """Return the top-level package that defines a class or a function."""
    module = defined.__module__
    return module.partition(".")[0] if isinstance(module, str) else ""
