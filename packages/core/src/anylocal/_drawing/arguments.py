"""Arguments of recipes that are mixed up with those of others."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

Given = ParamSpec("Given")
Made = TypeVar("Made")

_MEANING: Final = {
    "queries": "which rows it draws, any number of them",
    "query": "the one position that the picture is about",
}


def draws(own: str) -> Callable[[Callable[Given, Made]], Callable[Given, Made]]:
    """Name a recipe's own argument, `queries` or `query`, where it is given the other one.

    Examples
    --------
    >>> from anylocal.drawing import draws
    >>> @draws("query")
    ... def row(attention, *, query=None): ...
    >>> row([], queries=["cls"])
    Traceback (most recent call last):
        ...
    anylocal.errors.OptionError: row takes query=, the one position that the picture is about, ... [option]
    """
    (other,) = _MEANING.keys() - {own}

    def decorated(recipe: Callable[Given, Made]) -> Callable[Given, Made]:
        @functools.wraps(recipe)
        def checked(*args: Given.args, **options: Given.kwargs) -> Made:
            if other in options:
                msg = f"{recipe.__name__} takes {own}=, {_MEANING[own]}, instead of {other}=."
                raise OptionError(msg)
            return recipe(*args, **options)

        return checked

    return decorated
