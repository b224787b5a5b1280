"""What lies in a value: the parts of nested lists, tuples and dicts, and copies of these with other parts.

A value may be anything of the user's, so none of its own code runs: containers are read and made by the built-in
classes themselves, and what is no container is not asked for anything.
"""

from __future__ import annotations

import collections
import itertools
import operator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAIN: Final = frozenset({type(None), bool, int, float, complex, str, bytes})
"""What holds nothing and never changes, and is most of what lies in long containers."""

CONTAINERS: Final = (tuple, list, dict)

# How many items are looked at of one container, and in all of a value: a function that takes a list of millions may be
# called often.
_MOST_OF_ONE: Final = 1_000
_MOST_IN_ALL: Final = 10_000


def parts(value: Any, *, whole: bool = False) -> Iterator[tuple[Any, float]]:
    """Yield what lies in a value, at any depth of its lists, tuples and dicts, and for how many things each stands.

    A value that is no container is its own only part. Of a long container the first items stand for all, unless it is
    to be looked at as a `whole`; numbers and texts are left out. None of the user's own code runs.
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
            try:
                looked_at = list(itertools.islice(items, None if whole else min(_MOST_OF_ONE, allowed)))
            except RuntimeError:  # another thread has changed a dict meanwhile
                continue
            if not PLAIN.issuperset(map(type, looked_at)):
                each, rest = weight * count / len(looked_at), max(1, allowed // len(looked_at))
                waiting += [(part, each, rest) for part in looked_at if type(part) not in PLAIN]


def _items(value: Any) -> tuple[int | None, Iterator[Any]]:
    """Return how many items a container has, and those; None for what is no container."""
    kind = type(value)
    # Of the built-in classes themselves: subclasses may do anything when asked.
    if issubclass(kind, tuple):
        return tuple.__len__(value), tuple.__iter__(value)
    if issubclass(kind, list):
        return list.__len__(value), list.__iter__(value)
    if issubclass(kind, dict):
        return dict.__len__(value), iter(dict.values(value))
    return None, iter(())


class Copy:
    """A copy of nested containers in which some parts are others.

    Containers are made by built-in constructors alone, so that none of the user's code runs: lists, tuples, dicts, and
    of their subclasses named tuples, `OrderedDict`, `defaultdict` and ordered dicts that are dataclasses, as
    transformers' `ModelOutput` is. Others stay as they are, with all that is in them; and so do containers of numbers
    and texts only.

    Parameters
    ----------
    function : callable
        What a part is replaced by.
    kinds : tuple of type
        The types of the parts to replace.
    whole : bool
        Whether to look for them behind the first items of long containers, too.
    """

    def __init__(self, function: Callable[[Any], Any], kinds: tuple[type, ...], *, whole: bool) -> None:
        self._function = function
        self._kinds = kinds
        self._most = None if whole else _MOST_OF_ONE
        # Containers that exist, but wait for their items: a list or a dict can be in itself.
        self._waiting: list[tuple[Callable[[list[Any]], object], list[Any]]] = []
        self._made: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        """Return the copy of a value."""
        made = self._of(value)
        # Each may bring more of them. What waited stays there, for a number is an object's only as long as it lives.
        for fill, items in self._waiting:
            fill([self._of(item) for item in items])
        return made

    def _of(self, value: Any) -> Any:
        """Return what stands for a value; tuples, which cannot wait for their items, are made after those."""
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
    # Named by Python, without attributes besides, or by C, as the results of torch's functions are.
    has_attributes = kind.__dictoffset__ and object.__getattribute__(value, "__dict__")
    return (_declares(kind, "_fields") and not has_attributes) or _is_struct(kind)


def _is_struct(kind: type) -> bool:
    return kind.__base__ is tuple and "n_sequence_fields" in vars(kind)


def _tuple(value: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    """Return a tuple of the same type with other items; where none is another, the very one."""
    kind = type(value)
    if all(map(operator.is_, items, value)):
        return value
    return kind(items) if _is_struct(kind) else tuple.__new__(kind, items)


def _declares(kind: type, name: str) -> bool:
    return any(name in vars(base) for base in kind.__mro__)
