"""What a target stands for: one test for each kind of thing that can be pointed at."""

from __future__ import annotations

import contextlib
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from anylocal import capture, find
from anylocal.errors import NothingRecordedWarning

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator


def triple(x: int) -> int:
    result = 3 * x
    return result


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outcome = function(*args, **kwargs)
        return outcome

    return wrapper


class Base:
    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def inherited(self, x: int) -> int:
        summed = self.factor + x
        return summed


class Scale(Base):
    def apply(self, x: int) -> int:
        scaled = self.factor * x
        return scaled

    alias = apply

    @classmethod
    def make(cls, factor: int) -> Self:
        made = cls(factor)
        return made

    @staticmethod
    def double(x: int) -> int:
        doubled = 2 * x
        return doubled

    @property
    def half(self) -> float:
        halved = self.factor / 2
        return halved

    @half.setter
    def half(self, value: float) -> None:
        given = value
        self.factor = int(given * 2)

    @functools.cached_property
    def squared(self) -> int:
        square = self.factor**2
        return square

    def power(self, exponent: int) -> int:
        powered: int = self.factor**exponent
        return powered

    cubed = functools.partialmethod(power, 3)

    @logged
    def decorated(self, x: int) -> int:
        inner = self.factor - x
        return inner

    def __call__(self, x: int) -> int:
        called = self.factor - x
        return called


class Other(Base):
    pass


# Functions and what wraps them


def test_a_function_is_captured_at_every_call() -> None:
    """Each call gives one value, in order."""
    with capture(triple, "x", "result") as cap:
        triple(1)
        triple(2)
    assert (cap["x"], cap["result"]) == ([1, 2], [3, 6])


def test_a_lambda_is_a_function() -> None:
    """A lambda has locals too."""
    negate: Callable[[int], int] = lambda number: -number
    with capture(negate, "number") as cap:
        negate(5)
    assert cap["number"] == [5]


def test_a_closure_gives_its_free_variables() -> None:
    """A name that a function takes from the one around it can be captured where it is read."""

    def outer(taken: int) -> Callable[[], int]:
        return lambda: taken + 1

    inner = outer(41)
    with capture(inner, "taken") as cap:
        inner()
    assert cap["taken"] == [41]


def test_a_partial_is_the_function_in_it() -> None:
    """A `functools.partial` is looked through."""
    partial = functools.partial(triple, 4)
    with capture(partial, "result") as cap:
        partial()
    assert cap["result"] == [12]


def test_a_decorated_function_is_the_one_inside() -> None:
    """`functools.wraps` leads to the function as it was written."""

    @logged
    def shout(word: str) -> str:
        louder = word.upper()
        return louder

    with capture(shout, "louder") as cap:
        shout("a")
    assert cap["louder"] == ["A"]


def test_a_decorated_function_is_the_wrapper_too() -> None:
    """What the wrapper binds is found as well."""
    decorated = logged(triple)
    with capture(decorated, "outcome") as cap:
        decorated(2)
    assert cap["outcome"] == [6]


def test_a_cached_function_is_captured_where_it_runs() -> None:
    """`functools.lru_cache` is looked through; a cached result is no call."""

    @functools.lru_cache
    def slow(x: int) -> int:
        computed = x + 1
        return computed

    with capture(slow, "computed") as cap:
        slow(1)
        slow(1)
    assert cap["computed"] == [2]


def test_a_context_manager_function_is_its_generator() -> None:
    """`contextlib.contextmanager` is looked through."""

    @contextlib.contextmanager
    def opened(name: str) -> Iterator[str]:
        handle = name + "!"
        yield handle

    with capture(opened, "handle") as cap, opened("door"):
        pass
    assert cap["handle"] == ["door!"]


# Methods


def test_a_method_of_a_class_is_captured_for_every_instance() -> None:
    """`Class.method` is a plain function: every call of it counts."""
    with capture(Scale.apply, "scaled") as cap:
        Scale(2).apply(1)
        Scale(3).apply(1)
    assert cap["scaled"] == [2, 3]


def test_a_bound_method_is_captured_for_its_object_only() -> None:
    """Another instance shares the code, and is not recorded."""
    mine, other = Scale(2), Scale(3)
    with capture(mine.apply, "scaled") as cap:
        other.apply(1)
        mine.apply(1)
    assert cap["scaled"] == [2]


def test_an_equal_object_is_another_object() -> None:
    """Objects are told apart by identity."""

    class Same(Scale):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]  # as Python itself sets it

    mine, other = Same(2), Same(3)
    with capture(mine.apply, "scaled") as cap:
        other.apply(1)
        mine.apply(1)
    assert cap["scaled"] == [2]


def test_a_partial_of_a_bound_method_is_captured_for_its_object_only() -> None:
    """What is inside of the partial decides."""
    mine, other = Scale(2), Scale(3)
    partial = functools.partial(mine.apply, 1)
    with capture(partial, "scaled") as cap:
        other.apply(1)
        partial()
    assert cap["scaled"] == [2]


def test_a_static_method_is_a_function() -> None:
    """A static method is called on behalf of nobody."""
    with capture(Scale.double, "doubled") as cap:
        Scale.double(4)
        Scale(1).double(5)
    assert cap["doubled"] == [8, 10]


def test_a_class_method_is_captured_for_its_class_only() -> None:
    """A class method is bound to the class that it was taken from."""

    class Sub(Scale):
        pass

    with capture(Scale.make, "made") as cap:
        Sub.make(1)
        made = Scale.make(2)
    assert cap["made"] == [made]


def test_a_class_method_with_an_argument_called_module_belongs_to_its_class() -> None:
    """`module` says whose call it is in free functions only."""

    class Factory:
        @classmethod
        def wrap(cls, module: object) -> object:
            wrapped = (cls, module)
            return wrapped

    with capture(Factory.wrap, "wrapped") as cap:
        Factory.wrap(1)
    assert cap["wrapped"] == [(Factory, 1)]


def test_a_property_is_its_functions() -> None:
    """Getter and setter of a property are found in the property object."""
    with capture(Scale.half, "halved", "given") as cap:
        scale = Scale(3)
        _ = scale.half
        scale.half = 5
    assert (cap["halved"], cap["given"]) == ([1.5], [5])


def test_a_cached_property_is_its_function() -> None:
    """It runs once for each object."""
    scale = Scale(3)
    with capture(Scale.__dict__["squared"], "square") as cap:
        _ = scale.squared, scale.squared
    assert cap["square"] == [9]


def test_a_partial_method_is_the_method_in_it() -> None:
    """`functools.partialmethod` is looked through, in the class and on an instance."""
    scale = Scale(2)
    with capture(Scale.__dict__["cubed"], "powered") as inside, capture(scale.cubed, "powered") as bound:
        scale.cubed()
        Scale(3).cubed()
    assert (inside["powered"], bound["powered"]) == ([8, 27], [8])


# Classes and objects


def test_a_class_is_captured_for_all_its_instances() -> None:
    """Methods, properties, class and static methods of a class, on all its instances and subclasses."""

    class Sub(Scale):
        pass

    with capture(Scale, "scaled", "halved", "made", "doubled", "powered", "inner") as cap:
        Sub(2).apply(1)
        _ = Scale(3).half
        Sub.make(4)
        Scale.double(5)
        Scale(2).cubed()
        Scale(2).decorated(1)
    assert [list(call.values) for call in cap.calls] == [
        ["scaled"], ["halved"], ["made"], ["doubled"], ["powered"], ["inner"],
    ]  # fmt: skip


def test_a_class_has_what_it_inherits_on_its_own_instances_only() -> None:
    """A method of the base counts where it runs on an instance of the captured class."""
    with capture(Scale, "summed") as cap:
        Base(1).inherited(1)
        Other(5).inherited(1)
        Scale(2).inherited(1)
    assert cap["summed"] == [3]


def test_an_object_is_captured_alone() -> None:
    """Methods and properties count on that very object only."""
    mine, other = Scale(2), Scale(3)
    with capture(mine, "scaled", "halved", "summed") as cap:
        for scale in (other, mine):
            scale.apply(1)
            scale.inherited(1)
            _ = scale.half
    assert (cap["scaled"], cap["summed"], cap["halved"]) == ([2], [3], [1.0])


def test_a_callable_object_has_its_call_method() -> None:
    """What runs when an object is called is among its methods."""
    mine, other = Scale(2), Scale(3)
    with capture(mine, "called") as cap:
        other(1)
        mine(1)
    assert cap["called"] == [1]


def test_an_object_that_holds_a_function_still_has_its_methods() -> None:
    """An attribute called `func` does not hide what the object's own class defines."""

    class Job:
        def __init__(self, func: Callable[[int], int]) -> None:
            self.func = func

        def run(self, x: int) -> int:
            before = x + 1
            return self.func(before)

    job = Job(triple)
    with capture(job, "before", "result") as cap:
        job.run(1)
    assert (cap["before"], cap["result"]) == ([2], [6])


def test_a_method_that_takes_its_object_among_args_is_captured() -> None:
    """Where nothing names the object, every call counts rather than none."""

    class Loose:
        def method(*args: Any) -> int:
            number = len(args)
            return number

    loose = Loose()
    with capture(Loose, "number") as of_class, capture(loose, "number") as of_object:
        loose.method(1)
    assert (of_class["number"], of_object["number"]) == ([2], [2])


# Names and Python modules


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Give a package `anylocal_shop` with a module `till`, importable by name."""
    package = tmp_path / "anylocal_shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "till.py").write_text(
        "from functools import lru_cache, wraps\n"
        "def add(x):\n    total = x + 1\n    return total\n"
        "again = add\n"
        "class Till:\n"
        "    def open(self):\n        drawer = 'open'\n        return drawer\n"
        "    shut = open\n"
        "    @staticmethod\n    def count(coins):\n        counted = len(coins)\n        return counted\n"
        "    @property\n    def sum(self):\n        summed = 0\n        return summed\n"
        "    class Slot:\n        def take(self):\n            taken = 1\n            return taken\n"
        "@lru_cache\ndef cached(x):\n    kept = x\n    return kept\n"
        "def __getattr__(name):\n"
        "    if name == 'lazy':\n        return add\n"
        "    raise AttributeError(name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("anylocal_shop")]:
        monkeypatch.delitem(sys.modules, name)
    import importlib

    return importlib.import_module("anylocal_shop.till")


@pytest.mark.parametrize(
    ("dotted", "name", "value"),
    [
        ("anylocal_shop.till:add", "total", 2),
        ("anylocal_shop.till.add", "total", 2),
        ("anylocal_shop.till:Till.open", "drawer", "open"),
        ("anylocal_shop.till.Till.open", "drawer", "open"),
        ("anylocal_shop.till:Till.count", "counted", 2),
        ("anylocal_shop.till:Till.sum", "summed", 0),
        ("anylocal_shop.till:Till.Slot.take", "taken", 1),
        ("anylocal_shop.till:cached", "kept", 1),
        ("anylocal_shop.till:lazy", "total", 2),
        ("anylocal_shop.till:Till", "drawer", "open"),
        ("anylocal_shop.till", "total", 2),
    ],
)
def test_a_dotted_name_leads_to_its_target(shop: types.ModuleType, dotted: str, name: str, value: object) -> None:
    """With a colon before the attribute or without one."""
    with capture(dotted, name) as cap:
        shop.add(1)
        till = shop.Till()
        till.open()
        till.count([1, 2])
        _ = till.sum
        till.Slot().take()
        shop.cached(1)
    assert cap[name] == [value]


def test_a_python_module_is_all_that_it_defines(shop: types.ModuleType) -> None:
    """Functions and methods of the module's own classes, but not what it imports."""
    assert [site.function.__qualname__ for site in find(shop)] == [
        "add", "Till.open", "Till.count", "Till.sum", "cached", "__getattr__",
    ]  # fmt: skip


def test_a_function_that_is_reached_twice_is_one_site(shop: types.ModuleType) -> None:
    """Aliases in a class or a module give one site, and one call for each call."""
    with capture(shop, "total") as in_module, capture(shop.Till, "drawer") as in_class:
        shop.again(1)
        shop.Till().shut()
    assert (len(in_module.sites), in_module["total"]) == (1, [2])
    assert (len(in_class.sites), in_class["drawer"]) == (1, ["open"])


# What find says


def test_find_lists_functions_and_names() -> None:
    """Arguments come first, then the others as they are first bound."""
    (site,) = find(triple)
    assert (site.function, site.names, site.modules) == (triple, ("x", "result"), ())


def test_find_tells_file_and_line() -> None:
    """Where the function stands in the source."""
    (site,) = find(triple)
    assert (Path(site.file), site.line) == (Path(__file__), triple.__code__.co_firstlineno)


def test_find_lists_what_a_comprehension_assigns_to_the_function() -> None:
    """A `:=` in a comprehension binds a name of the function around it."""

    def last(numbers: list[int]) -> int:
        _ = [latest := number for number in numbers]
        return latest

    with capture(last, "latest") as cap:
        last([1, 2])
    assert cap["latest"] == [2]


def test_find_leaves_out_what_only_a_comprehension_binds() -> None:
    """The variable of a comprehension is not one of its function, whether or not it runs in the same frame."""

    def squares(numbers: list[int]) -> list[int]:
        result = [number**2 for number in numbers]
        return result

    assert find(squares)[0].names == ("numbers", "result")


def test_a_site_shows_its_names() -> None:
    """The repr is what `find` prints."""
    assert repr(find(triple)) == "Sites\n  triple  x, result"


# Calls


def test_calls_tell_function_index_line_and_thread() -> None:
    """A plain function has no module, and counts from 0."""
    import threading

    with capture(triple, "result") as cap:
        triple(1)
        triple(2)
    first, second = cap.calls
    assert (first.function, first.module, first.name) == (triple, None, "")
    assert (first.index, second.index) == (0, 1)
    assert (first.line, first.thread) == (triple.__code__.co_firstlineno + 2, threading.get_ident())
    assert repr(second) == "Call(triple, index=1, result)"


def test_calls_come_in_the_order_in_which_they_finished() -> None:
    """The innermost call of a recursion finishes first."""

    def down(n: int) -> int:
        depth = n
        return depth if n == 0 else down(n - 1)

    with capture(down, "depth") as cap:
        down(2)
    assert cap["depth"] == [0, 1, 2]


def test_calls_that_never_bound_a_name_are_left_out_of_its_values() -> None:
    """They are calls all the same."""

    def maybe(bind: bool) -> None:
        if bind:
            value = 1

    with capture(maybe, "value", "bind") as cap:
        maybe(True)
        maybe(False)
    assert (cap["value"], cap["bind"], len(cap)) == ([1], [True, False], 2)


def test_counts_tell_calls_that_raised_or_never_finished() -> None:
    """Started, finished, and left unfinished."""

    def steps(fail: bool) -> Iterator[int]:
        step = 1
        yield step
        if fail:
            raise ValueError
        yield step

    with capture(steps, "step") as cap:
        list(steps(False))
        with contextlib.suppress(ValueError):
            list(steps(True))
        next(steps(False))
    assert cap.counts == {"started": 3, "finished": 1, "unfinished": 2}


def test_a_call_that_started_before_the_scope_is_not_counted_as_unfinished() -> None:
    """A second capture may see a call of the same code finish that it did not see start."""

    def steps() -> Iterator[int]:
        step = 1
        yield step

    with capture(steps, "step"):
        running = steps()
        next(running)
        with capture(steps, "step") as late:
            list(running)
    assert late.counts == {"started": 0, "finished": 1, "unfinished": 0}


def test_a_generator_that_outlives_the_scope_is_not_recorded() -> None:
    """What a frame of the rewritten code does afterwards is nobody's business, and harms nobody."""

    def steps() -> Iterator[int]:
        step = 1
        yield step
        step = 2

    started: list[Iterator[int]] = []
    with pytest.warns(NothingRecordedWarning), capture(steps, "step") as cap:
        started.append(_begun(steps()))
    assert list(started[0]) == []
    assert cap["step"] == []


def _begun(iterator: Iterator[int]) -> Iterator[int]:
    next(iterator)
    return iterator


@functools.singledispatch
def described(value: object) -> str:
    kind = "object"
    return kind


@described.register
def _(value: int) -> str:
    kind = "int"
    return kind


def test_all_functions_of_a_dispatched_one() -> None:
    """Of a function that has others for other types, all are captured."""
    with capture(described, "kind") as cap:
        described(1)
        described("one")
    assert cap["kind"] == ["int", "object"]
