"""Which assignments of a function an edit means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from anylocal._engine.patch import own_code
from anylocal._engine.spec import Assignment, EditOfLines
from anylocal.errors import OptionError

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from anylocal._engine.rewrite.assignments import Assigned

    Edit: TypeAlias = Callable[[Any], Any]
    # The type of a mapping's keys is invariant.
    Edits: TypeAlias = Mapping[str, Edit] | Mapping[Assignment, Edit] | Mapping[str | Assignment, Edit]

_MOST: Final = 8
"""How many assignments a message lists."""


def name_of(key: str | Assignment) -> str:
    """Return the name that is edited."""
    return key.name if isinstance(key, Assignment) else key


def edits_of(function: types.FunctionType, edits: Edits, own: Mapping[str, str]) -> dict[str, tuple[EditOfLines, ...]]:
    """Return the edits of one function, by its own names of the variables."""
    found: dict[str, tuple[EditOfLines, ...]] = {}
    for key, edit in edits.items():
        name = own.get(name_of(key))
        lines = None
        if isinstance(key, Assignment) and name is not None:
            lines = frozenset(each.line for each in _meant(key, _places(function, name)))
        if name is not None and lines != frozenset():
            found[name] = (*found.get(name, ()), EditOfLines(key, lines, edit))
    return found


def check_key(key: object) -> None:
    """Refuse a key of ``edit=`` that is neither a name nor says which assignments it means.

    Raises
    ------
    OptionError
        Where it is not.
    """
    if isinstance(key, Assignment) and [bool(key.uses), key.line is not None, key.number is not None].count(True) != 1:
        msg = f"An edit chooses assignments by one of uses=, line= and number=, and got {key!r}."
        raise OptionError(msg)


def no_assignment(key: Assignment, label: str, functions: Iterable[types.FunctionType]) -> OptionError:
    """Return the exception for an edit of an assignment that is nowhere, with those that there are."""
    wanted = (
        f"uses={key.uses!r}" if key.uses else f"line={key.line}" if key.line is not None else f"number={key.number}"
    )
    there = [
        f"number={number} at line {each.line} of {function.__qualname__}{_named_in(each)}"
        for function in functions
        for number, each in enumerate(_places(function, key.name))
    ]
    more = f" and {len(there) - _MOST} more" if len(there) > _MOST else ""
    listed = "; ".join(there[:_MOST]) or "none, for it is an argument"
    return OptionError(f"No assignment of {key.name!r} in {label} has {wanted}. There are: {listed}{more}.")


def _places(function: types.FunctionType, name: str) -> list[Assigned]:
    # Who only records needs no reader of assignments.
    from anylocal._engine.rewrite.assignments import assignments

    return [each for each in assignments(own_code(function)) if each.name == name]


def _meant(key: Assignment, places: Sequence[Assigned]) -> list[Assigned]:
    if key.uses:
        return [each for each in places if key.uses in each.uses]
    if key.line is not None:
        return [each for each in places if key.line == each.line]
    return [each for number, each in enumerate(places) if key.number in {number, number - len(places)}]


def _named_in(each: Assigned) -> str:
    named = sorted(str(name) for name in each.uses - {"self", each.name})
    return f" (uses {', '.join(named)})" if named else ""
