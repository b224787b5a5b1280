"""Libraries that read a function's code to run it elsewhere get its own code, while functions are captured.

cloudpickle, with its copies in other packages, and dill pickle functions by value, for processes that have no capture;
numba compiles them.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from anylocal._engine.own import own_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CLOUDPICKLES: Final = (
    "cloudpickle.cloudpickle",
    "joblib.externals.cloudpickle.cloudpickle",
    "ray.cloudpickle.cloudpickle",
    "pyspark.cloudpickle.cloudpickle",
)
_DILL: Final = "dill._dill"
_NUMBA: Final = ("numba.core.bytecode", "numba.core.dispatcher")
_LIBRARIES: Final = frozenset({*_CLOUDPICKLES, _DILL, *_NUMBA})


class _Reader(NamedTuple):
    """A function in a table of a library, and what replaces it."""

    table: dict[Any, Any]
    key: object
    original: Callable[..., Any]
    replacement: Callable[..., Any]


_replaced: Final[list[_Reader]] = []


def code_changed(*, captured: bool) -> None:
    """Give the libraries that are imported the own code of functions, or no longer, as nothing is captured any more."""
    if captured and not sys.modules.keys().isdisjoint(_LIBRARIES):
        ours = {id(reader.replacement) for reader in _replaced}
        for reader in _readers():
            if id(reader.original) not in ours:
                _replaced.append(reader)
                reader.table[reader.key] = reader.replacement
    while not captured and _replaced:
        reader = _replaced[-1]
        if reader.table.get(reader.key) is reader.replacement:
            reader.table[reader.key] = reader.original
        _replaced.pop()


def _readers() -> Iterator[_Reader]:
    for name in filter(sys.modules.__contains__, _CLOUDPICKLES):
        pickler = getattr(sys.modules[name], "CloudPickler", None)
        yield from _reader(getattr(pickler, "_dispatch_table", None), types.CodeType, _given_own)
    pickler = getattr(sys.modules.get(_DILL), "Pickler", None)
    yield from _reader(getattr(pickler, "dispatch", None), types.CodeType, _given_own)
    for name in filter(sys.modules.__contains__, _NUMBA):
        yield from _reader(getattr(sys.modules[name], "__dict__", None), "get_code_object", _returning_own)


def _reader(table: Any, key: object, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[_Reader]:
    original = table.get(key) if isinstance(table, dict) else None
    if original is not None:
        yield _Reader(table, key, original, wrap(original))


def _given_own(original: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(*arguments: Any) -> Any:
        # The code comes last, after the pickler where there is one.
        return original(*arguments[:-1], own_of(arguments[-1]))

    return reduce


def _returning_own(original: Callable[..., Any]) -> Callable[..., Any]:
    def read(function: object) -> Any:
        return own_of(original(function))

    return read
