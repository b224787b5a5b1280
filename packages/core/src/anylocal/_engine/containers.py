"""The parts of nested lists, tuples and dicts, and copies of these with other parts.

A value may be any object of the user's, so none of its own code runs: containers are read and made by the built-in
classes themselves, and other objects are left alone.

`optree` (0.20) walks a small container in a third of the time, and is no substitute: it compares a dict's keys, which
runs their code, takes subclasses of dicts and lists for leaves, raises RecursionError at a list that holds itself, and
walks all of a list of a million, for a second, of which the first thousand items are enough here.
"""

from __future__ import annotations

import collections
import itertools
import operator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAIN: Final = frozenset({type(None), bool, int, float, complex, str, bytes})
"""Types that hold nothing and never change; most items of long containers are of these."""

CONTAINERS: Final = (tuple, list, dict)

# How many items are read of one container, and in all of a value: a function may often be called with a long list.
_MOST_OF_ONE: Final = 1_000
_MOST_IN_ALL: Final = 10_000


def parts(value: Any, *, whole: bool = False, containers: bool = False) -> Iterator[tuple[Any, float]]:
    """Yield the parts of a value at any depth of its lists, tuples and dicts, and how many each stands for.

    A value that is not a container is its own only part; with `containers`, these are parts too. The first items of a
    long container stand for all of it, unless the `whole` is to be read; numbers and texts in one are left out.
    """
    waiting = [(value, 1.0, _MOST_IN_ALL)]
    entered: set[int] = set()
    while waiting:
        item, weight, allowed = waiting.pop()
        count, items = _items(item)
        if count is None:
            yield item, weight
        elif id(item) not in entered:
            entered.add(id(item))
            if containers:
                yield item, weight
            try:
                sample = list(itertools.islice(items, None if whole else min(_MOST_OF_ONE, allowed)))
            except RuntimeError:  # another thread has changed a dict meanwhile
                continue
            if not PLAIN.issuperset(map(type, sample)):
                each, rest = weight * count / len(sample), max(1, allowed // len(sample))
                waiting += [(part, each, rest) for part in sample if type(part) not in PLAIN]


def first_items(value: Any, most: int) -> tuple[int, list[Any]]:
    """Return how many items a list, tuple, set or deque has, or values a dict, and the first of them."""
    kind = type(value)
    count, items = _items(value)
    for built_in in (set, frozenset, collections.deque):
        if issubclass(kind, built_in):
            count, items = built_in.__len__(value), built_in.__iter__(value)
    try:
        return count or 0, list(itertools.islice(items, most))
    except RuntimeError:  # another thread has changed it meanwhile
        return 0, []


def _items(value: Any) -> tuple[int | None, Iterator[Any]]:
    """Return how many items a container has, and the items; None for any other value."""
    kind = type(value)
    # The methods of the built-in classes: those of subclasses may do anything.
    if issubclass(kind, tuple):
        return tuple.__len__(value), tuple.__iter__(value)
    if issubclass(kind, list):
        return list.__len__(value), list.__iter__(value)
    if issubclass(kind, dict):
        return dict.__len__(value), iter(dict.values(value))
    return None, iter(())


class Copy:
    """A copy of nested containers in which some parts are others.

    Containers are made by built-in constructors alone: lists, tuples, dicts, and of their subclasses named tuples,
    `OrderedDict`, `defaultdict` and ordered dicts that are dataclasses, as transformers' `ModelOutput` is. Others stay
    as they are, with all their items; and so do containers of numbers and texts only. `function` makes a new part of
    each old one of the `kinds`, beyond the first items of long containers only if the `whole` is to be read.
    """

    def __init__(self, function: Callable[[Any], Any], kinds: tuple[type, ...], *, whole: bool) -> None:
        self._function = function
        self._kinds = kinds
        self._most = None if whole else _MOST_OF_ONE
        # Containers that are made and not filled yet: a list or a dict can hold itself.
        self._waiting: list[tuple[Callable[[list[Any]], object], list[Any]]] = []
        self._filled = 0
        self._made: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        """Return the copy of a value."""
        made = self._of(value)
        # Each may add more of them. They stay in the list, because an id is an object's only as long as it lives.
        while self._filled < len(self._waiting):
            fill, items = self._waiting[self._filled]
            self._filled += 1
            fill([self._of(item) for item in items])
        return made

    def _of(self, value: Any) -> Any:
        """Return the copy, whose lists and dicts are filled later; tuples are made after all their items."""
        made, stack = self._made, [value]
        while stack:
            item = stack[-1]
            if type(item) in PLAIN or id(item) in made:
                stack.pop()
            elif not _is_copied_tuple(item):
                made[id(stack.pop())] = self._replaced(item)
            else:
                items = list(tuple.__iter__(item))
                missing = [part for part in items if type(part) not in PLAIN and id(part) not in made]
                stack += missing
                if not missing:
                    made[id(stack.pop())] = _tuple(item, [made.get(id(part), part) for part in items])
        return made.get(id(value), value)

    def _replaced(self, value: Any) -> Any:
        kind = type(value)
        if issubclass(kind, self._kinds):
            return self._function(value)
        _, items = _items(value)
        if PLAIN.issuperset(map(type, itertools.islice(items, self._most))):
            return value
        if kind is list:
            made: list[Any] = []
            self._waiting.append((made.extend, list(value)))
            return made
        return self._dict(value) if issubclass(kind, dict) else value

    def _dict(self, value: dict[Any, Any]) -> Any:
        kind: type[Any] = type(value)
        attributes: dict[str, Any] = {}
        made: dict[Any, Any]
        if kind is dict:
            made, base = {}, dict
        elif kind is collections.defaultdict:
            made, base = collections.defaultdict(getattr(value, "default_factory", None)), dict
        elif issubclass(kind, collections.OrderedDict) and _is_plain_ordered(kind):
            base = collections.OrderedDict
            made = base.__new__(kind)
            attributes = object.__getattribute__(value, "__dict__")
        else:
            return value
        keys, names = list(base.keys(value)), list(attributes)
        items = [*base.values(value), *attributes.values()]

        def fill(items: list[Any]) -> None:
            for key, item in zip(keys, items, strict=False):
                base.__setitem__(made, key, item)
            if names:
                object.__getattribute__(made, "__dict__").update(zip(names, items[len(keys) :], strict=True))

        self._waiting.append((fill, items))
        return made


def _is_plain_ordered(kind: type) -> bool:
    return kind is collections.OrderedDict or _declares(kind, "__dataclass_fields__")


def _is_copied_tuple(value: object) -> bool:
    kind = type(value)
    if not issubclass(kind, tuple) or kind is tuple:
        return kind is tuple
    # A named tuple without attributes besides, or a struct sequence, as the results of torch's functions are.
    has_attributes = kind.__dictoffset__ and object.__getattribute__(value, "__dict__")
    return (_declares(kind, "_fields") and not has_attributes) or _is_struct(kind)


def _is_struct(kind: type) -> bool:
    return kind.__base__ is tuple and "n_sequence_fields" in vars(kind)


def _tuple(value: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    """Return a tuple of the same type with the items; the very same tuple where all of them are the same."""
    kind = type(value)
    if all(map(operator.is_, items, value)):
        return value
    return kind(items) if _is_struct(kind) else tuple.__new__(kind, items)


def _declares(kind: type, name: str) -> bool:
    return any(name in vars(base) for base in kind.__mro__)
