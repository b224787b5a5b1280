"""The decorator of the seed tools, and its cache."""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from anylocal import capture, get_local
from anylocal._engine import patch
from anylocal._engine.get_local import unmark
from anylocal.errors import NameNotFoundError, OptionError, TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Layer:
    @get_local("scores")
    def forward(self, x: int) -> int:
        scores = x + 1
        return scores * 2

    @get_local("q", "k")
    def project(self, x: int) -> int:
        q, k = x + 1, x + 2
        return q * k


# Before and after


def test_a_marked_function_records_once_activated() -> None:
    """The key is the function's qualified name."""
    with get_local.active() as cache:
        Layer().forward(1)
    assert cache["Layer.forward"] == [2]


def test_several_names_have_a_key_each() -> None:
    """With the name at its end."""
    with get_local.active() as cache:
        Layer().project(1)
    assert (cache["Layer.project.q"], cache["Layer.project.k"]) == ([2], [3])
    assert "Layer.project" not in cache


def test_a_single_name_is_found_under_the_longer_key_too() -> None:
    """It is the same list."""
    with get_local.active() as cache:
        Layer().forward(1)
    assert cache["Layer.forward.scores"] is cache["Layer.forward"]


@pytest.mark.parametrize("activated_first", [True, False])
def test_marks_before_and_after_activation_give_the_same(activated_first: bool) -> None:
    """Which of the two comes first does not matter."""
    if activated_first:
        get_local.activate()

    @get_local("n")
    def count(items: list[int]) -> int:
        n = len(items)
        return n

    if not activated_first:
        get_local.activate()
    count([1, 2])
    assert get_local.cache[count.__qualname__] == [2]


def test_a_marked_function_records_nothing_until_activated() -> None:
    """Nor is its key there."""
    Layer().forward(1)
    assert len(get_local.cache) == 0


def test_deactivate_keeps_what_is_in_the_cache() -> None:
    """And stops recording."""
    with get_local.active() as cache:
        Layer().forward(1)
    Layer().forward(5)
    assert cache["Layer.forward"] == [2]


def test_clear_empties_the_lists() -> None:
    """The keys stay, and recording goes on."""
    with get_local.active() as cache:
        Layer().forward(1)
        get_local.clear()
        assert cache["Layer.forward"] == []
        Layer().forward(2)
    assert cache["Layer.forward"] == [3]


def test_a_list_that_was_taken_is_the_one_that_is_cleared() -> None:
    """As in the seed tools, where the cache is a plain dict of lists."""
    with get_local.active() as cache:
        Layer().forward(1)
        values = cache["Layer.forward"]
        get_local.clear()
    assert values == []


def test_is_activate_tells_the_state() -> None:
    """Named as in the seed tools."""
    states = [get_local.is_activate]
    get_local.activate()
    states.append(get_local.is_activate)
    get_local.deactivate()
    assert [*states, get_local.is_activate] == [False, True, False]


def test_activating_twice_records_once() -> None:
    """It is a state, not a count."""
    get_local.activate()
    get_local.activate()
    Layer().forward(1)
    get_local.deactivate()
    Layer().forward(1)
    assert get_local.cache["Layer.forward"] == [2]


def test_a_scope_inside_of_an_active_one_changes_nothing() -> None:
    """It was active before, so it is afterwards."""
    get_local.activate()
    with get_local.active():
        pass
    assert get_local.is_activate


def test_a_scope_ends_with_an_exception_too() -> None:
    """Functions have their own code back."""
    code = Layer.forward.__code__

    def fail() -> None:
        with get_local.active():
            assert Layer.forward.__code__ is not code
            _ = 1 // 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert Layer.forward.__code__ is code


def test_a_failure_to_activate_leaves_nothing_active(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the state nor any function."""
    real, count = patch.attach, iter(range(10))

    def failing(subscriptions: Any) -> None:
        if next(count) == 1:
            raise MemoryError
        real(subscriptions)

    code = Layer.forward.__code__
    monkeypatch.setattr(patch, "attach", failing)
    with pytest.raises(MemoryError):
        get_local.activate()
    assert not get_local.is_activate
    assert Layer.forward.__code__ is code


# The cache


def test_the_cache_is_a_mapping() -> None:
    """Keys, length and repr."""
    with get_local.active() as cache:
        Layer().forward(1)
        assert sorted(key for key in cache if "Layer" in key) == ["Layer.forward", "Layer.project.k", "Layer.project.q"]
        assert "'Layer.forward': 1 values" in repr(cache)
        assert len(cache) == len(list(cache))


def test_a_key_that_is_not_there_raises_with_the_nearest() -> None:
    """As a `KeyError`."""
    with get_local.active() as cache, pytest.raises(KeyError, match=r"Did you mean 'Layer\.forward'\?"):
        _ = cache["Layer.foward"]


def test_objects_are_kept_as_they_are() -> None:
    """The very object, where it is no tensor."""
    value = [1, {"a": 2}]

    @get_local("item")
    def hold(item: object) -> None:
        pass

    with get_local.active() as cache:
        hold(value)
    assert cache[hold.__qualname__][0] is value


def test_calls_that_never_bind_the_name_are_left_out() -> None:
    """They leave no hole."""

    @get_local("y")
    def maybe(bind: bool) -> None:
        if bind:
            y = 1

    with get_local.active() as cache:
        for bind in (True, False, True):
            maybe(bind)
    assert cache[maybe.__qualname__] == [1, 1]


def test_functions_that_share_a_name_share_a_list() -> None:
    """In the order in which their calls finished."""

    def make(factor: int) -> Callable[[int], int]:
        @get_local("y")
        def scale(x: int) -> int:
            y = factor * x
            return y

        return scale

    double, triple = make(2), make(3)
    with get_local.active() as cache:
        double(1)
        triple(1)
        double(2)
    assert cache[getattr(double, "__qualname__", "")] == [2, 3, 4]


def test_recursion_lists_the_innermost_call_first() -> None:
    """It finishes first."""

    @get_local("depth")
    def down(n: int) -> int:
        depth = n
        return depth if n == 0 else down(n - 1)

    with get_local.active() as cache:
        down(2)
    assert cache[down.__qualname__] == [0, 1, 2]


def test_calls_that_raise_leave_nothing() -> None:
    """The exception is the caller's."""

    @get_local("y")
    def invert(x: float) -> float:
        y = x
        return 1 / y

    with get_local.active() as cache:
        with contextlib.suppress(ZeroDivisionError):
            invert(0)
        invert(2)
    assert cache[invert.__qualname__] == [2]


def test_reading_the_cache_loses_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that finishes while the records are being taken over is there the next time."""

    @get_local("n")
    def step(n: int) -> int:
        return n

    class Busy(list[Any]):
        """Another thread's call finishes whenever something is taken out."""

        def __delitem__(self, place: Any) -> None:
            step(2)
            super().__delitem__(place)

        def __setitem__(self, place: Any, value: Any) -> None:
            step(2)
            super().__setitem__(place, value)

    monkeypatch.setattr(get_local.cache._log, "raw", Busy())
    with get_local.active() as cache:
        step(1)
        assert list(cache[step.__qualname__]) == [1]
        assert [record.values for record in cache._log.records] == [(2,)]


def test_four_threads_fill_one_list() -> None:
    """No call is lost, whoever reads meanwhile."""

    @get_local("n")
    def step(n: int) -> int:
        return n

    def call() -> None:
        for i in range(500):
            step(i)

    with get_local.active() as cache:
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            len(cache[step.__qualname__])
        assert sorted(cache[step.__qualname__]) == sorted([*range(500)] * 4)


# What may be marked


def test_a_misspelt_name_raises_at_once() -> None:
    """Where the mark stands, not when the function is called."""
    with pytest.raises(NameNotFoundError, match="Did you mean 'scores'"):

        @get_local("score")
        def forward() -> None:
            scores = 1


def test_a_mark_without_names_raises() -> None:
    """As `capture` does."""
    with pytest.raises(OptionError, match="Name the local variables"):
        get_local()


def test_a_mark_without_parentheses_raises() -> None:
    """What is given then is no name."""
    with pytest.raises(OptionError, match="is a str, not <function"):

        @get_local  # type: ignore[arg-type]  # what is refused
        def forward() -> None:
            x = 1


def test_what_is_no_function_cannot_be_marked() -> None:
    """With the value."""
    with pytest.raises(TargetError, match="get_local marks Python functions, and 3 holds none"):
        get_local("x")(3)


def test_a_function_marked_twice_has_the_names_of_both() -> None:
    """Each under its own key then."""

    @get_local("b")
    @get_local("a")
    def both() -> None:
        a, b = 1, 2

    with get_local.active() as cache:
        both()
    assert (cache[f"{both.__qualname__}.a"], cache[f"{both.__qualname__}.b"]) == ([1], [2])


def test_a_mark_may_stand_above_or_below_other_decorators() -> None:
    """What it returns is what it was given."""

    class Thing:
        @get_local("above")
        @staticmethod
        def static_above() -> None:
            above = 1

        @staticmethod
        @get_local("below")
        def static_below() -> None:
            below = 2

        @get_local("above")
        @classmethod
        def class_above(cls) -> None:
            above = 3

        @get_local("above")  # type: ignore[prop-decorator]  # mypy knows none that takes a property
        @property
        def property_above(self) -> int:
            above = 4
            return above

        @property
        @get_local("below")
        def property_below(self) -> int:
            below = 5
            return below

        @get_local("above")  # type: ignore[prop-decorator]  # as above
        @functools.cached_property
        def cached_above(self) -> int:
            above = 6
            return above

        @get_local("above")
        @contextlib.contextmanager
        def context_above(self) -> Iterator[int]:
            above = 7
            yield above

        @contextlib.contextmanager
        @get_local("below")
        def context_below(self) -> Iterator[int]:
            below = 8
            yield below

        @get_local("above")
        @functools.lru_cache  # noqa: B019  # one object
        def memo_above(self) -> int:
            above = 9
            return above

    thing = Thing()
    with get_local.active() as cache:
        Thing.static_above()
        Thing.static_below()
        Thing.class_above()
        _ = thing.property_above, thing.property_below, thing.cached_above
        with thing.context_above(), thing.context_below():
            pass
        thing.memo_above()
    prefix = f"{Thing.__qualname__}."
    assert {key.removeprefix(prefix): values for key, values in cache.items() if key.startswith(prefix)} == {
        "static_above": [1],
        "static_below": [2],
        "class_above": [3],
        "property_above": [4],
        "property_below": [5],
        "cached_above": [6],
        "context_above": [7],
        "context_below": [8],
        "memo_above": [9],
    }


def test_the_function_that_has_the_name_is_the_one_that_is_marked() -> None:
    """Of a decorated function, the innermost that binds it; a wrapper where only that does."""

    def logged(function: Callable[[], int]) -> Callable[[], int]:
        @functools.wraps(function)
        def wrapper() -> int:
            outcome = function()
            return outcome

        return wrapper

    @get_local("outcome")
    @logged
    def one() -> int:
        inner = 1
        return inner

    with get_local.active() as cache:
        one()
    assert cache[getattr(one, "__qualname__", "")] == [1]


def test_functions_that_a_closure_makes_are_not_kept_alive() -> None:
    """Thousands of marked functions cost nothing once they are gone."""

    def make() -> Callable[[], None]:
        @get_local("x")
        def inner() -> None:
            x = 1

        return inner

    alive = [weakref.ref(make()) for _ in range(10)]
    gc.collect()
    assert not any(ref() for ref in alive)


def test_functions_that_were_active_are_not_kept_alive_after_deactivation() -> None:
    """Once the cache has been read or cleared."""

    def make() -> Callable[[], None]:
        @get_local("x")
        def inner() -> None:
            x = 1

        return inner

    with get_local.active():
        function = make()
        function()
    get_local.clear()
    alive = weakref.ref(function)
    del function
    gc.collect()
    assert alive() is None


def test_a_capture_beside_the_mark_sees_the_same() -> None:
    """Both listen to one function, and either may leave first."""
    with capture(Layer.forward, "scores") as cap, get_local.active() as cache:
        Layer().forward(1)
    assert cap["scores"] == cache["Layer.forward"] == [2]


def test_unmark_gives_the_code_back_at_once() -> None:
    """As adapters use it."""

    @get_local("x")
    def function() -> None:
        x = 1

    with get_local.active():
        assert isinstance(function, types.FunctionType)
        unmark(function)
        function()
        assert function.__qualname__ not in get_local.cache or get_local.cache[function.__qualname__] == []


def test_a_function_that_is_gone_leaves_nothing_in_the_cache() -> None:
    """Its values stay; what identified it does not, for another function may have its id."""

    def make() -> Any:
        @get_local("y")
        def function(x: int) -> int:
            y = x
            return y

        return function

    with get_local.active() as cache:
        for number in range(5):
            make()(number)
    assert cache[make().__qualname__] == [0, 1, 2, 3, 4]
    assert not cache._of
    with get_local.active():
        make()
    assert not cache._of


def test_the_long_key_of_a_single_name_is_found_after_deactivation() -> None:
    """The cache can be read at any time."""

    @get_local("y")
    def function(x: int) -> int:
        y = x
        return y

    with get_local.active() as cache:
        function(1)
    assert cache[function.__qualname__] == [1]
    assert cache[f"{function.__qualname__}.y"] == [1]
