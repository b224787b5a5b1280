"""What is known of a model, kept while its modules, their attributes and classes, and the code are the same."""

from __future__ import annotations

import functools
import gc
import weakref
from itertools import chain, compress, islice
from operator import attrgetter, call, is_, itemgetter
from typing import TYPE_CHECKING, Any, Final

from anylocal._engine import tensors
from anylocal._engine.bases import bases_of
from anylocal._engine.functions import package_of
from anylocal._engine.model import global_names, put_onto
from anylocal._engine.own import own_of

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterable, Sequence

    from anylocal._engine.spec import Match

_code_of: Final = attrgetter("__code__")
_attributes_of: Final = attrgetter("__dict__")
_children_of: Final = itemgetter("_modules")
_parameters_of: Final = itemgetter("_parameters")
_values_of: Final = dict.values
_flat: Final = chain.from_iterable


class KnownModel:
    """The functions that were found in a model, and what else was `derived` from it.

    It holds no module, so that a model is freed as soon as its user lets go of it; nothing derived may hold one.

    Whether it still holds is asked at each opening of a capture, so without a loop in Python. Objects that can be held
    are compared as they are; of others the numbers are, and then the types, for another object may get the number of
    one that is gone.
    """

    def __init__(self, label: str, named: Sequence[tuple[str, Any]], matches: tuple[Match, ...]) -> None:
        self.label = label
        self.matches = matches
        self.derived: dict[Any, Any] = {}
        self._names, modules = zip(*named, strict=True)
        self._references = list(map(weakref.ref, modules))
        self._kinds = list(map(type, modules))
        self._remember_modules(modules)
        self._remember_classes()
        self._remember_functions()

    def modules(self) -> dict[str, Any] | None:
        """Return the modules by name; None if anything has changed by which the functions were found."""
        modules = list(map(call, self._references))
        # A module that is gone is of another type.
        is_same = (
            all(map(is_, map(type, modules), self._kinds))
            and self._have_same_attributes(modules)
            and self._have_same_classes()
            and self._have_same_functions()
        )
        return dict(zip(self._names, modules, strict=True)) if is_same else None

    # The attributes of modules

    def _remember_modules(self, modules: Sequence[Any]) -> None:
        attributes = list(map(_attributes_of, modules))
        self._lengths = list(map(len, attributes))
        # Whatever the attributes of a layer of torch's without parts hold, it runs torch's code.
        has_code = [bool(_children_of(vars(module))) or package_of(type(module)) != "torch" for module in modules]
        self._of_code = _picker([place for place, each in enumerate(has_code) if each])
        self._of_others = _picker([place for place, each in enumerate(has_code) if not each])
        of_code = self._of_code(attributes)
        # Every module has the first ones, and needs them to run.
        own_names = [tuple(each)[len(_of_every_module()) :] for each in of_code]
        self._with_own = _picker([place for place, names in enumerate(own_names) if names])
        pickers = {names: _picker(names) for names in own_names if names}
        self._pickers = [pickers[names] for names in own_names if names]
        values = self._own_values_in(of_code)
        self._is_held = [not gc.is_tracked(value) and type(value) is not dict for value in values]
        self._is_numbered = [not is_held for is_held in self._is_held]
        self._held_values = list(compress(values, self._is_held))
        self._numbers, self._types = self._numbers_in(values)
        children = list(map(_children_of, of_code))
        self._child_counts, self._child_names = list(map(len, children)), list(_flat(children))
        places = {id(module): place for place, module in enumerate(modules)} | {id(None): len(modules)}
        self._children = _picker([places[id(child)] for each in children for child in each.values()])
        parameters = list(map(_parameters_of, of_code))
        self._parameter_counts, self._parameter_names = list(map(len, parameters)), list(_flat(parameters))

    def _have_same_attributes(self, modules: list[Any]) -> bool:
        attributes = list(map(_attributes_of, modules))
        if list(map(len, attributes)) != self._lengths or any(map(_children_of, self._of_others(attributes))):
            return False
        of_code = self._of_code(attributes)
        children = list(map(_children_of, of_code))
        parameters = list(map(_parameters_of, of_code))
        if not (
            list(map(len, children)) == self._child_counts
            and list(map(len, parameters)) == self._parameter_counts
            and list(_flat(children)) == self._child_names
            and list(_flat(parameters)) == self._parameter_names
            and all(map(is_, _flat(map(_values_of, children)), self._children([*modules, None])))
        ):
            return False
        try:
            values = self._own_values_in(of_code)
        except KeyError:
            return False
        return all(map(is_, compress(values, self._is_held), self._held_values)) and (
            self._numbers_in(values) == (self._numbers, self._types)
        )

    def _own_values_in(self, attributes: Sequence[dict[str, Any]]) -> list[Any]:
        """Return what modules hold in attributes that not every module has; there are as many as before."""
        return list(_flat(map(call, self._pickers, self._with_own(attributes))))

    def _numbers_in(self, values: Sequence[Any]) -> tuple[list[int], list[int]]:
        numbered = list(compress(values, self._is_numbered))
        return list(map(id, numbered)), list(map(id, map(type, numbered)))

    # Classes

    def _remember_classes(self) -> None:
        self._distinct_kinds = list(dict.fromkeys(self._kinds))
        self._bases = list(map(bases_of, self._distinct_kinds))
        classes = [cls for cls in dict.fromkeys(_flat(self._bases)) if cls not in {object, tensors.module_base()}]
        # They follow what is set and deleted.
        self._in_classes = [vars(cls).keys() for cls in classes]
        self._values_in_classes = [vars(cls).values() for cls in classes]
        self._class_counts, self._class_names = list(map(len, self._in_classes)), list(_flat(self._in_classes))
        self._class_values = list(_flat(self._values_in_classes))

    def _have_same_classes(self) -> bool:
        return (
            all(map(is_, map(bases_of, self._distinct_kinds), self._bases))
            and list(map(len, self._in_classes)) == self._class_counts
            and list(_flat(self._in_classes)) == self._class_names
            and all(map(is_, _flat(self._values_in_classes), self._class_values))
        )

    # Functions, and what they name

    def _remember_functions(self) -> None:
        self._functions = [match.function for match in self.matches]
        self._codes = self._own_codes()
        named_in: dict[int, tuple[dict[str, Any], set[str]]] = {}
        for function, code in zip(self._functions, self._codes, strict=True):
            named_in.setdefault(id(function.__globals__), (function.__globals__, set()))[1].update(global_names(code))
        self._scopes = [scope for scope, _ in named_in.values()]
        self._look_ups = [_picker(sorted(names & scope.keys())) for scope, names in named_in.values()]
        self._looked_up = self._look_up()
        self._missing = [(scope.keys(), frozenset(names - scope.keys())) for scope, names in named_in.values()]

    def _have_same_functions(self) -> bool:
        codes = map(_code_of, self._functions)
        if not (all(map(is_, codes, self._codes)) or all(map(is_, self._own_codes(), self._codes))):
            return False
        for names, missing in self._missing:
            if not names.isdisjoint(missing):
                return False
        try:
            return self._look_up() == self._looked_up
        except KeyError:
            return False

    def _own_codes(self) -> list[types.CodeType]:
        return list(map(own_of, map(_code_of, self._functions)))

    def _look_up(self) -> list[int]:
        return list(map(id, _flat(map(call, self._look_ups, self._scopes))))


def _picker(places: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what picks the items at some places; of one place, twice the item, for it must be a tuple."""
    if not places:
        return _nothing
    return itemgetter(*places) if len(places) > 1 else itemgetter(*places, *places)


def _nothing(_: object) -> tuple[()]:
    return ()


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


def may_be_remembered(modules: Sequence[Any], matches: Iterable[Match]) -> bool:
    """Return whether a change in modules and functions would be seen.

    A model may hide some of its parts. Functions that a module itself holds may hold the model in turn. Those for
    other types of a `singledispatch` come without a trace.
    """
    numbers = {id(None), *map(id, modules)}
    return (
        all(tuple(islice(vars(module), len(_of_every_module()))) == _of_every_module() for module in modules)
        and all(isinstance(vars(module)["_modules"], dict) for module in modules)
        and all(numbers.issuperset(map(id, vars(module)["_modules"].values())) for module in modules)
        and not any(True for _ in put_onto(modules))
        and not any("registry" in vars(match.function) for match in matches)
    )
