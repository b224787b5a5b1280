"""Functions that are called: found by their names in the source, and replaced where they are called only."""

from __future__ import annotations

import builtins
import functools
import math
import operator
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anylocal._engine.plan import recorder
from anylocal._engine.rewrite import RECORDER, CaptureSpec, callee_names, rewrite

NUMBER = 987_654


class Named:
    scale = staticmethod(operator.mul)
    parts = (abs, math.floor)

    def method(self, x: Any) -> Any:
        return self.scale(x, 3) + self.parts[0](x)


def plain(x: Any) -> Any:
    return max(x, 3) + math.floor(x) + int(urllib.parse.quote("1"))


def keywords(x: Any) -> Any:
    return max(x, 3, key=abs) + int("11", base=2)


def unpacked(x: Any) -> Any:
    given = {"key": abs}
    return max(*(x, 3), **given) + math.hypot(*(3, 4)) + math.gcd(*(4, 6))


def local(x: Any) -> Any:
    function = math.sqrt
    return function(abs(x))


def closure(x: Any) -> Any:
    def inner() -> Any:
        return x + len("inner")

    return inner() + Named().method(x)


def conditional(x: Any) -> Any:
    return (math.floor if x > 0 else math.ceil)(x) + math.fmod(x, 2 if x > 0 else 3)


def in_blocks(x: Any) -> Any:
    total = 0
    for each in range(3):
        try:
            total += sum([max(i, each) for i in range(2)]) + math.factorial(each - 1)
        except ValueError:
            total += max(2, each)
        finally:
            total += min(total, 10)
    return total


def chained(x: Any) -> Any:
    return "a-b".replace("-", str(x)).upper().count("A")


def mentioned(x: Any) -> Any:
    return functools.reduce(operator.add, [x, 1]), math.sqrt, callable(math.floor)


CALLED = [
    (plain, {"max", "math.floor", "int", "urllib.parse.quote"}),
    (keywords, {"max", "int"}),
    (unpacked, {"max", "math.hypot", "math.gcd"}),
    (local, {"function", "abs"}),
    (closure, {"inner", "Named"}),
    (conditional, {"math.fmod"}),
    (in_blocks, {"range", "sum", "max", "math.factorial", "min"}),
    (chained, {"str"}),
    (mentioned, {"functools.reduce", "callable"}),
    (Named.method, {"self.scale"}),
]


@pytest.fixture
def called() -> Iterator[list[tuple[int, str, Any, Any]]]:
    """Wrap each function called, and note how it was offered."""
    heard: list[tuple[int, str, Any, Any]] = []

    def wrap(line: int, name: str, owner: Any, function: Any) -> Any:
        heard.append((line, name, owner, function))
        return (lambda *args, **kwargs: function(*args, **kwargs)) if callable(function) else function

    vars(builtins).setdefault(RECORDER, recorder)
    vars(recorder).update(
        {
            f"entered_{NUMBER}": lambda *_: None,
            f"returned_{NUMBER}": lambda *_: None,
            f"called_{NUMBER}": wrap,
        }
    )
    yield heard
    for kind in ("entered", "returned", "called"):
        vars(recorder).pop(f"{kind}_{NUMBER}")


@pytest.mark.parametrize(("function", "names"), CALLED, ids=[function.__name__ for function, _ in CALLED])
def test_the_names_of_functions_called(function: Any, names: set[str]) -> None:
    """They are the callees of the source; what is only mentioned or passed on is none, nor is a method of a result."""
    # Which of two is called, or an item of a container, has no name; before 3.13 its first part may stand for it.
    assert names <= callee_names(function.__code__) <= names | {"self.parts", "x"}


@pytest.mark.parametrize("value", [2.5, -2.5, 0.0])
@pytest.mark.parametrize("function", [function for function, _ in CALLED], ids=lambda function: function.__name__)
def test_replaced_functions(function: Any, value: float, called: list[Any]) -> None:
    """Code in which each of them is replaced returns or raises what it did before."""
    arguments = (Named(), value) if function is Named.method else (value,)
    before = outcome(function, *arguments)
    own = function.__code__
    function.__code__ = rewrite(own, NUMBER, CaptureSpec(called=callee_names(own)))
    try:
        after = outcome(function, *arguments)
    finally:
        function.__code__ = own
    assert after == before
    assert called


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (ValueError, ArithmeticError) as error:
        return repr(error)


def test_what_is_offered(called: list[Any]) -> None:
    """The recorder is given the line, the name, the object whose method runs, and the function."""
    own, thing = Named.method.__code__, Named()
    Named.method.__code__ = rewrite(own, NUMBER, CaptureSpec(called=frozenset({"self.scale"})))
    try:
        thing.method(1)
    finally:
        Named.method.__code__ = own
    assert called == [(own.co_firstlineno + 1, "self.scale", thing, operator.mul)]


def test_none_asked_for() -> None:
    """A function whose calls are not asked for has no instruction for them."""
    spec = CaptureSpec(("total",))
    assert "called" not in "".join(rewrite(in_blocks.__code__, NUMBER, spec).co_names)
    assert "called" in "".join(rewrite(in_blocks.__code__, NUMBER, spec._replace(called=frozenset({"max"}))).co_names)
