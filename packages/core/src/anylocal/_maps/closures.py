"""What a function depends on beside its arguments: tensors and numbers that may change after it was given away."""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal._engine.containers import CONTAINERS, PLAIN, parts
from anylocal._engine.tensors import version

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIBRARY: Final = "torch"


class State:
    """The tensors and numbers that some values depend on, as they are now."""

    def __init__(self, *values: Any) -> None:
        self._values = values
        # Held, because the id of a freed one may be used again.
        self._leaves = list(_leaves_of(values))
        self._marks = self._now(self._leaves)

    def has_changed(self) -> bool:
        """Return whether one of them is another one now, or was changed in place."""
        return self._now(self._leaves) != self._marks or self._now(list(_leaves_of(self._values))) != self._marks

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors among them."""
        return [leaf for leaf in self._leaves if isinstance(leaf, torch.Tensor)]

    @staticmethod
    def _now(leaves: list[Any]) -> list[Any]:
        return [(id(leaf), version(leaf)) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def _leaves_of(values: tuple[Any, ...]) -> Iterator[Any]:
    seen: set[int] = set()
    waiting: list[tuple[Any, frozenset[str]]] = [(value, frozenset()) for value in reversed(values)]
    while waiting:
        value, names = waiting.pop()
        if isinstance(value, torch.Tensor) or type(value) in PLAIN:
            yield value
        elif id(value) not in seen and not isinstance(value, (type, types.ModuleType)):
            seen.add(id(value))
            waiting += _parts(value, names)


def _parts(value: Any, names: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """Yield what a value consists of, as far as code uses it, each with the names that the code uses."""
    if isinstance(value, types.FunctionType):
        if value.__module__ is not None and value.__module__.partition(".")[0] == _LIBRARY:
            # The functions of torch that compose others hold them in cells.
            yield from ((cell, frozenset()) for cell in _cells(value))
            return
        used = frozenset(_names_in(value.__code__))
        held = [*_cells(value), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        held += [value.__globals__[name] for name in sorted(used) if name in value.__globals__]
        yield from ((each, used) for each in held)
    elif isinstance(value, types.MethodType):
        yield value.__func__, names
        yield value.__self__, frozenset(_names_in(getattr(value.__func__, "__code__", None)))
    elif isinstance(value, functools.partial):
        yield from ((each, names) for each in (value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, CONTAINERS):
        yield from ((each, names) for each, _ in parts(value, whole=True))
    else:
        for method in ("__call__", "forward"):
            names |= {*_names_in(getattr(getattr(type(value), method, None), "__code__", None))}
        own = getattr(value, "__dict__", {})
        tables = [own, *(own.get(table) or {} for table in ("_parameters", "_buffers", "_modules"))]
        yield from ((table[name], names) for table in tables for name in sorted(names) if name in table)


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is empty still
            continue


def _names_in(code: types.CodeType | None) -> Iterator[str]:
    if code is not None:
        yield from code.co_names
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                yield from _names_in(inner)
