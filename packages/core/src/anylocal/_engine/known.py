"""What is known of a model, kept while its modules, their attributes and classes, and the code are the same."""

from __future__ import annotations

import functools
import gc
import weakref
from itertools import chain, compress, islice, repeat
from operator import attrgetter, is_, itemgetter
from typing import TYPE_CHECKING, Any, Final

from anylocal._engine import tensors
from anylocal._engine.bases import bases_of
from anylocal._engine.functions import package_of
from anylocal._engine.model import global_names, put_onto
from anylocal._engine.own import own_of

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable, Iterator, Sequence

    from anylocal._engine.spec import Match

_code_of: Final = attrgetter("__code__")
_children_of: Final = itemgetter("_modules")
_parameters_of: Final = itemgetter("_parameters")


class KnownModel:
    """The functions that were found in a model, and what else was `derived` from it.

    It holds no module, so that a model is freed as soon as its user lets go of it; nothing derived may hold one.
    """

    def __init__(self, label: str, named: Sequence[tuple[str, Any]], matches: tuple[Match, ...]) -> None:
        self.label = label
        self.matches = matches
        self.derived: dict[Any, Any] = {}
        modules = [module for _, module in named]
        self._names = [name for name, _ in named]
        self._references = list(map(weakref.ref, modules))
        self._functions = [match.function for match in matches]
        self._codes = self._codes_now()
        named_in: dict[int, tuple[dict[str, Any], set[str]]] = {}
        for function, code in zip(self._functions, self._codes, strict=True):
            named_in.setdefault(id(function.__globals__), (function.__globals__, set()))[1].update(global_names(code))
        self._looked_up = [(scope.get, tuple(names & scope.keys())) for scope, names in named_in.values()]
        self._missing = [(scope.keys(), names - scope.keys()) for scope, names in named_in.values()]
        classes = dict.fromkeys(chain(*map(bases_of, map(type, modules))))
        self._classes = [cls for cls in classes if cls not in {object, tensors.module_base()}]
        # Whatever the attributes of a layer of torch's without parts hold, it runs torch's code.
        self._has_code = [bool(_children_of(vars(module))) or package_of(type(module)) != "torch" for module in modules]
        self._state = self._state_now(modules)
        # Another object may get the identity of one that is gone.
        self._held = [value for value in _own_values(map(vars, modules)) if not gc.is_tracked(value)]
        self._held += chain(*(vars(cls).values() for cls in self._classes))

    def modules(self) -> dict[str, Any] | None:
        """Return the modules by name; None if anything has changed by which the functions were found."""
        modules = [reference() for reference in self._references]
        is_same = (
            type(None) not in map(type, modules)
            and all(map(is_, self._codes_now(), self._codes))
            and all(names.isdisjoint(missing) for names, missing in self._missing)
            and self._state_now(modules) == self._state
        )
        return dict(zip(self._names, modules, strict=True)) if is_same else None

    def _codes_now(self) -> list[types.CodeType]:
        return list(map(own_of, map(_code_of, self._functions)))

    def _state_now(self, modules: Sequence[Any]) -> list[object]:
        """Return names, numbers and identities, which differ as soon as other functions may be found.

        At each opening of a capture, so without a loop in Python.
        """
        attributes = [module.__dict__ for module in modules]
        children = list(map(_children_of, attributes))
        of_code = list(compress(attributes, self._has_code))
        parameters = list(map(_parameters_of, of_code))
        in_classes = list(map(vars, self._classes))
        kinds = list(map(type, modules))
        values = list(_own_values(of_code))
        return [
            *map(len, chain(attributes, children, parameters, in_classes)),
            *chain(*children, *of_code, *parameters, *in_classes),
            *map(id, chain(kinds, *map(bases_of, dict.fromkeys(kinds)), values, map(type, values))),
            *map(id, chain(*map(dict.values, children), *(names.values() for names in in_classes))),
            *map(id, chain(*(map(get, names) for get, names in self._looked_up))),
        ]


def _own_values(attributes: Iterable[dict[str, Any]]) -> Iterator[Any]:
    """Yield what modules hold in attributes that not every module has."""
    return chain.from_iterable(map(islice, map(dict.values, attributes), repeat(len(_of_every_module())), repeat(None)))


@functools.cache
def _of_every_module() -> tuple[str, ...]:
    """Return the attributes that every module has, such as its hooks and whether it trains; they come first."""
    return tuple(vars((tensors.module_base() or object)()))


_known: Final[dict[int, KnownModel]] = {}


def known(model: object) -> KnownModel | None:
    """Return what is known of a model, which may have changed since."""
    return _known.get(id(model))


def remember(model: Any, label: str, named: Sequence[tuple[str, Any]], matches: tuple[Match, ...]) -> KnownModel:
    """Return what is known of a model from now on: as long as it lives, and is of the usual kind."""
    made = KnownModel(label, named, matches)
    if id(model) not in _known:
        weakref.finalize(model, _known.pop, id(model), None).atexit = False
    _known[id(model)] = made
    return made


def may_be_remembered(modules: Iterable[Any], matches: Iterable[Match]) -> bool:
    """Return whether a change in modules and functions would be seen.

    Functions that a module itself holds may hold the model in turn. Those for other types of a `singledispatch` come
    without a trace.
    """
    return (
        all(tuple(islice(vars(module), len(_of_every_module()))) == _of_every_module() for module in modules)
        and all(isinstance(vars(module)["_modules"], dict) for module in modules)
        and not any(True for _ in put_onto(modules))
        and not any("registry" in vars(match.function) for match in matches)
    )
