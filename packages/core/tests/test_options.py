"""The options of `capture`: every, keep, edit, limit and threads."""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from anylocal import capture
from anylocal._engine.budget import Budget, parse_size
from anylocal.errors import EditNotAppliedWarning, LimitWarning, NothingRecordedWarning, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def walk(n: int) -> int:
    total = 0
    for i in range(n):
        total += i
    return total


# every


def test_every_records_each_assignment() -> None:
    """Not only the last one, in order, with its line."""
    with capture(walk, "total", every=True) as cap:
        walk(3)
    first = walk.__code__.co_firstlineno
    assert cap["total"] == [0, 0, 1, 3]
    assert [call.line - first for call in cap.calls] == [1, 3, 3, 3]


def test_every_records_arguments_at_entry() -> None:
    """Before anything else."""
    with capture(walk, "n", "total", every=True) as cap:
        walk(1)
    assert [dict(call.values) for call in cap.calls] == [{"n": 1}, {"total": 0}, {"total": 0}]


def test_every_records_what_a_call_that_raises_assigned() -> None:
    """Up to the point where it raised."""

    def fail() -> None:
        x = 1
        x = 1 // 0

    with capture(fail, "x", every=True) as cap, contextlib.suppress(ZeroDivisionError):
        fail()
    assert cap["x"] == [1]


def test_every_counts_calls_that_return_and_calls_that_raise() -> None:
    """Though what is recorded are their assignments."""

    def invert(n: int) -> float:
        inverse = 1 / n
        return inverse

    with capture(invert, "inverse", every=True) as cap:
        invert(1)
        with contextlib.suppress(ZeroDivisionError):
            invert(0)
    assert cap.counts == {"started": 2, "finished": 1, "unfinished": 1}
    cap.clear()
    assert cap.counts == {"started": 0, "finished": 0, "unfinished": 0}


def test_every_says_where_a_call_returned_without_the_name() -> None:
    """The line of the last return is known without a record of it."""

    def choose(n: int) -> int:
        if n:
            return n
        x = 1
        return x

    line = choose.__code__.co_firstlineno + 2
    with pytest.warns(NothingRecordedWarning, match=f"returned at line {line}"), capture(choose, "x", every=True):
        choose(3)


def test_every_leaves_out_how_an_except_clause_ends() -> None:
    """Python sets the name to None and deletes it there, which nobody wrote."""

    def fail() -> None:
        try:
            _ = 1 // 0
        except ZeroDivisionError as error:
            text = str(error)

    with capture(fail, "error", every=True) as cap:
        fail()
    assert [type(value) for value in cap["error"]] == [ZeroDivisionError]


def test_every_leaves_out_what_a_comprehension_binds() -> None:
    """Its variable is another one of the same name."""

    def reuse(xs: list[int]) -> int:
        x = 5
        ys = [x for x in xs]  # noqa: C416  # its variable is the point
        return x

    with capture(reuse, "x", every=True) as cap:
        reuse([1, 2])
    assert cap["x"] == [5]


def test_every_tells_whose_object_it_is_where_a_comprehension_hides_it() -> None:
    """A comprehension over `self` keeps the method's own on the stack."""

    class Thing:
        def method(self, others: list[Any]) -> list[Any]:
            names = [self for self in others if (last := self)]  # both are what this is about
            return names

    mine, other = Thing(), Thing()
    with capture(mine, "names", every=True) as cap:
        mine.method([other, mine])
        other.method([mine])
    assert cap["names"] == [[other, mine]]


def test_every_tells_whose_object_it_is_where_it_is_in_a_cell() -> None:
    """The same, with `self` in a cell of its own."""

    class Thing:
        def method(self, others: list[Any]) -> Any:
            def read() -> Any:
                return self

            names = [self for self in others]  # noqa: C416  # its variable is the point
            return read(), names

    mine, other = Thing(), Thing()
    with capture(mine, "names", every=True) as cap:
        mine.method([other])
        other.method([mine])
    assert cap["names"] == [[other]]


# keep


def test_keep_is_given_each_value() -> None:
    """What it returns is recorded."""
    with capture(walk, "total", keep=str) as cap:
        walk(3)
    assert cap["total"] == ["3"]


@pytest.mark.parametrize("keep", ["detach", "graph", "clone", "cpu"])
def test_values_that_are_no_tensors_are_kept_as_they_are(keep: str) -> None:
    """The very objects, whatever is done to tensors."""

    def hold(value: object) -> None:
        pass

    value = [1, {"a": (2,)}]
    with capture(hold, "value", keep=keep) as cap:
        hold(value)
    assert cap["value"][0] is value


def test_an_exception_of_keep_propagates_with_a_note() -> None:
    """It says what it was called for."""
    with pytest.raises(ValueError, match="nonsense") as caught, capture(walk, "total", keep=_nonsense):
        walk(1)
    (note,) = caught.value.__notes__
    assert note == (
        f"Raised by keep= for 'total' in walk, line {walk.__code__.co_firstlineno + 4} of {walk.__code__.co_filename}"
    )


def _nonsense(value: object) -> object:
    raise ValueError("nonsense")


def test_keep_that_is_unknown_raises() -> None:
    """With those that are known."""
    with pytest.raises(
        OptionError, match="keep='gpu' is neither one of 'detach', 'graph', 'clone', 'cpu' nor a function"
    ):
        capture(walk, "total", keep="gpu")


# edit


def test_an_edit_replaces_what_is_assigned() -> None:
    """Each time, and the function goes on with the new value."""
    with capture(walk, edit={"total": lambda total: total + 10}):
        assert walk(2) == 31


def test_an_argument_is_edited_at_entry() -> None:
    """Before the function reads it, in a cell or not."""

    def plain(x: int) -> int:
        return x

    def celled(x: int) -> int:
        def read() -> int:
            return x

        return read()

    negate = {"x": lambda x: -x}
    with capture(plain, edit=negate), capture(celled, edit=negate):
        assert (plain(1), celled(2)) == (-1, -2)


def test_every_kind_of_argument_is_edited() -> None:
    """Positional, keyword, collected."""

    def several(a: int, /, b: int, *args: int, c: int = 3, **kwargs: int) -> tuple[Any, ...]:
        return a, b, args, c, kwargs

    shown = dict.fromkeys(("a", "b", "args", "c", "kwargs"), repr)
    with capture(several, edit=shown):
        assert several(1, 2, 3, d=4) == ("1", "2", "(3,)", "3", "{'d': 4}")


def test_an_edit_composes_with_a_capture() -> None:
    """What is recorded is what was assigned."""
    with capture(walk, "total", every=True, edit={"total": lambda total: total + 10}) as cap:
        walk(1)
    assert cap["total"] == [10, 20]


def test_edits_of_nested_captures_are_applied_in_the_order_of_opening() -> None:
    """The second gets what the first returned."""

    def one() -> str:
        x = "x"
        return x

    with capture(one, edit={"x": lambda x: x + "1"}), capture(one, edit={"x": lambda x: x + "2"}):
        assert one() == "x12"
    assert one() == "x"


def test_an_edit_is_seen_by_a_capture_beside_it() -> None:
    """Whichever of the two was opened first."""
    with capture(walk, "total") as before, capture(walk, edit={"total": lambda _: 7}), capture(walk, "total") as after:
        walk(1)
    assert (before["total"], after["total"]) == ([7], [7])


def test_an_edit_alone_records_nothing_and_does_not_warn_of_it() -> None:
    """It is not what it was asked for."""
    with capture(walk, edit={"total": lambda total: total}) as cap:
        walk(3)
    assert (cap.calls, cap.names) == ([], ())


def test_an_edit_goes_on_when_the_limit_is_reached() -> None:
    """The limit is one of recording."""
    with pytest.warns(LimitWarning), capture(walk, "total", keep=_Big, limit=1, edit={"total": lambda _: 7}):
        assert [walk(1), walk(1)] == [7, 7]


def test_an_edit_applies_to_the_captured_object_only() -> None:
    """As a capture does."""

    class Thing:
        def method(self) -> int:
            x = 1
            return x

    mine, other = Thing(), Thing()
    with capture(mine, edit={"x": lambda _: 2}):
        assert (mine.method(), other.method()) == (2, 1)


def test_an_edit_does_not_touch_how_an_except_clause_ends() -> None:
    """Python's own clearing of the name is no assignment."""

    def fail() -> str:
        nothing: dict[str, str] = {}
        try:
            return nothing["no"]
        except KeyError as error:
            return str(error)

    with capture(fail, edit={"error": repr}):
        assert fail() == "KeyError('no')"


def test_an_exception_of_edit_propagates_with_a_note() -> None:
    """It says what it was called for."""
    with pytest.raises(ValueError, match="nonsense") as caught, capture(walk, edit={"total": _nonsense}):
        walk(1)
    (note,) = caught.value.__notes__
    assert note == (
        f"Raised by edit= for 'total' in walk, line {walk.__code__.co_firstlineno + 1} of {walk.__code__.co_filename}"
    )


def test_an_edit_that_is_never_applied_warns() -> None:
    """With the reason."""
    said = "The edit of 'total' was never applied: walk was not called"
    with pytest.warns(EditNotAppliedWarning, match=said), capture(walk, edit={"total": lambda total: total}):
        pass


def test_an_edit_that_is_no_function_raises() -> None:
    """With the value."""
    with pytest.raises(OptionError, match=r"edit\['total'\] is 3; it must be a function"):
        capture(walk, edit={"total": 3})  # type: ignore[arg-type]  # what is refused


# limit


class _Big:
    """Something that NumPy's protocol says is a thousand bytes."""

    nbytes = 1000

    def __init__(self, *_: object) -> None: ...


def _walk_often(times: int) -> None:
    for _ in range(times):
        walk(1)


def test_a_capture_stops_at_its_limit_and_says_so_once() -> None:
    """The function goes on; what was recorded stays."""
    with pytest.warns(LimitWarning) as caught, capture(walk, "total", keep=_Big, limit=2500) as cap:
        assert [walk(n) for n in range(5)] == [0, 0, 1, 3, 6]
    assert (len(caught), len(cap)) == (1, 2)


def test_the_warning_points_at_the_captured_function() -> None:
    """It names the line that was too much."""
    with pytest.warns(LimitWarning) as caught, capture(walk, "total", keep=_Big, limit=1):
        walk(1)
    assert (caught[0].filename, caught[0].lineno) == (__file__, walk.__code__.co_firstlineno + 4)


def test_the_function_goes_on_even_where_warnings_are_errors() -> None:
    """The scope raises at its end instead."""
    results = []
    with pytest.raises(LimitWarning), capture(walk, "total", keep=_Big, limit=1):
        results += [walk(2), walk(3)]
    assert results == [1, 3]


def test_clear_makes_room_again() -> None:
    """And a limit that is reached again is said again."""
    cap = capture(walk, "total", keep=_Big, limit=1500)
    for _ in range(2):
        with pytest.warns(LimitWarning), cap:
            _walk_often(3)
        assert len(cap) == 1
        cap.clear()


def test_the_same_object_counts_once() -> None:
    """Storage that several values share is held once."""
    shared = _Big()
    with capture(walk, "total", keep=lambda _: shared, limit=1500) as cap:
        _walk_often(10)
    assert len(cap) == 10


def test_objects_are_bounded_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they hold."""
    monkeypatch.setattr("anylocal._engine.budget.MOST_OBJECTS", 3)
    with pytest.warns(LimitWarning, match=r"its limit \(3 calls\) after 3 records"), capture(walk, "total") as cap:
        _walk_often(5)
    assert len(cap) == 3


def test_calls_that_only_raise_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten capture of a function that always fails does not grow for ever."""
    monkeypatch.setattr("anylocal._engine.budget.MOST_OBJECTS", 10)

    def fail() -> None:
        x = 1
        raise ValueError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with capture(fail, "x") as cap:
            for _ in range(100):
                with contextlib.suppress(ValueError):
                    fail()
            assert len(cap.records) <= 20


def test_no_limit_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """None records whatever comes."""
    monkeypatch.setattr("anylocal._engine.budget.MOST_OBJECTS", 3)
    with capture(walk, "total", keep=_Big, limit=None) as cap:
        _walk_often(10)
    assert len(cap) == 10


def test_the_default_limit_is_half_of_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the first value is recorded."""
    monkeypatch.setattr("anylocal._engine.budget.available", lambda: 5000)
    with pytest.warns(LimitWarning, match="GiB on cpu"), capture(walk, "total", keep=_Big) as cap:
        _walk_often(5)
    assert len(cap) == 2


def test_what_is_available_is_read_once_and_not_before_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes as long as a third of a scope."""
    read: list[int] = []

    def available() -> int:
        read.append(1)
        return 2**40

    monkeypatch.setattr("anylocal._engine.budget.available", available)
    with capture(walk, "total") as cap:
        assert not read
        _walk_often(300)
    assert (len(cap), read) == (300, [1])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (5, 5),
        ("5", 5),
        ("2GiB", 2 * 1024**3),
        ("2 gib", 2 * 1024**3),
        ("500 MB", 500_000_000),
        ("1.5KiB", 1536),
        ("3B", 3),
        ("1TB", 10**12),
    ],
)
def test_sizes_are_bytes_or_text(text: int | str, size: int) -> None:
    """Of powers of 1000 or of 1024."""
    assert parse_size(text) == size


@pytest.mark.parametrize("limit", [0, -1, True, "", "many", "GiB", "2 PiB", "-1GiB", "0 MB", 1.5, [], b"1GiB"])
def test_what_is_no_size_raises(limit: Any) -> None:
    """Before anything is touched."""
    with pytest.raises(OptionError, match="is not a size"):
        capture(walk, "total", limit=limit)


def test_a_budget_counts_bytes() -> None:
    """All that is held."""
    budget = Budget(10_000)
    assert all(budget.take((_Big(),)) for _ in range(1))
    assert budget.held == 1000


# threads


def _elsewhere(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_calls_of_all_threads_are_recorded() -> None:
    """Each says in which it ran."""
    with capture(walk, "n") as cap:
        walk(1)
        _elsewhere(lambda: walk(2))
    assert cap["n"] == [1, 2]
    assert cap.calls[0].thread == threading.get_ident() != cap.calls[1].thread


def test_own_threads_are_recorded_alone() -> None:
    """What other threads do with the same function is theirs."""
    with capture(walk, "n", threads="own") as cap:
        walk(1)
        _elsewhere(lambda: walk(2))
    assert cap["n"] == [1]


def test_the_own_thread_is_the_one_that_opens_the_scope() -> None:
    """Not the one that made the capture."""
    cap = capture(walk, "n", threads="own")

    def run() -> None:
        with cap:
            walk(3)

    _elsewhere(run)
    assert cap["n"] == [3]


def test_two_threads_get_their_own_calls() -> None:
    """Both capture the same function at once."""
    caps = [capture(walk, "n", threads="own") for _ in range(2)]
    both = threading.Barrier(2)

    def run(index: int) -> Callable[[], None]:
        def go() -> None:
            with caps[index] as cap:
                both.wait()
                for _ in range(100):
                    walk(index)
                both.wait()
            assert cap is caps[index]

        return go

    threads = [threading.Thread(target=run(index)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [set(cap["n"]) for cap in caps] == [{0}, {1}]
    assert [len(cap) for cap in caps] == [100, 100]


def test_calls_in_other_threads_only_are_told_so() -> None:
    """The reason why nothing was recorded."""
    said = "walk was called, but in other threads"
    with pytest.warns(NothingRecordedWarning, match=said), capture(walk, "n", threads="own"):
        _elsewhere(lambda: walk(1))


def test_threads_that_are_unknown_raise() -> None:
    """With those that are known."""
    with pytest.raises(OptionError, match="threads='mine' is neither 'all' nor 'own'"):
        capture(walk, "n", threads="mine")


def test_no_call_is_lost_while_captures_come_and_go() -> None:
    """Four threads call; others open and close captures of the same function all the while."""
    stop = threading.Event()
    code = walk.__code__

    def come_and_go() -> None:
        while not stop.is_set():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
            for names in (("total",), ("n", "total"), ("i",)):
                cap = capture(walk, *names).open()
                cap.close()

    def call() -> None:
        for _ in range(500):
            walk(2)

    with capture(walk, "n") as cap:
        churn = threading.Thread(target=come_and_go)
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in (churn, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        churn.join()
    assert cap["n"] == [2] * 2000
    assert cap.counts == {"started": 2000, "finished": 2000, "unfinished": 0}
    assert walk.__code__ is code


# Names


def test_names_that_are_no_text_raise() -> None:
    """With the value."""
    with pytest.raises(OptionError, match="is a str, not 3"):
        capture(walk, 3)  # type: ignore[arg-type]  # what is refused


def test_no_names_raise() -> None:
    """With what to write."""
    with pytest.raises(OptionError, match="Name the local variables to capture"):
        capture(walk)


def test_a_name_asked_for_twice_is_one() -> None:
    """Its value is recorded once."""
    with capture(walk, "n", "n") as cap:
        walk(1)
    assert (cap.names, cap["n"]) == (("n",), [1])


def test_a_generator_is_recorded_in_the_thread_that_finishes_it() -> None:
    """Which need not be the one that started it."""

    def steps() -> Iterator[int]:
        step = 1
        yield step

    running = steps()
    with capture(steps, "step") as cap:
        running = steps()
        next(running)
        _elsewhere(lambda: list(running))
    assert cap.calls[0].thread != threading.get_ident()


# Values that are hard to look at


class _Unreadable:
    """Something whose size cannot be told, as that of a file that is closed."""

    @property
    def nbytes(self) -> int:
        raise ValueError("closed")


class _Lazy:
    """Something that makes up what it is asked for."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class _Unbound:
    """A proxy with nothing behind it, as those of web frameworks outside of a request."""

    @property  # type: ignore[misc]  # as they have it
    def __class__(self) -> Any:
        raise RuntimeError("nothing here")


def _nested(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def _self_containing_list() -> list[Any]:
    root: list[Any] = []
    root[:] = [root, root, None]
    return root


def _self_containing_dict() -> dict[str, Any]:
    root: dict[str, Any] = {}
    root["self"] = (root, [root])
    return root


def _dead_proxy() -> Any:
    return weakref.proxy(_Unreadable())


def _released_view() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


_HARD: Any = [
    _Unreadable,
    _Lazy,
    _Unbound,
    _dead_proxy,
    _released_view,
    _self_containing_list,
    _self_containing_dict,
    lambda: _nested(5000),
]


@pytest.mark.parametrize("keep", ["detach", "graph", "clone", "cpu"])
@pytest.mark.parametrize("make", _HARD)
def test_a_value_that_is_hard_to_look_at_is_recorded(make: Callable[[], Any], keep: str) -> None:
    """The captured function goes on, and the capture has the very object."""

    def hold(_: object, value: Any, more: Any) -> int:
        return 1

    value = make()
    with capture(hold, "value", "more", keep=keep) as cap:
        assert hold(None, value, [value]) == 1
    assert (cap["value"][0] is value, cap["more"][0][0] is value) == (True, True)


def test_the_object_on_whose_behalf_a_call_runs_is_not_asked_for_its_class() -> None:
    """It may be one that raises then."""

    class Proxy(_Unbound):
        def method(self) -> int:
            x = 1
            return x

    with capture(Proxy.method, "x") as cap:
        assert Proxy().method() == 1
    assert cap["x"] == [1]


def test_what_an_object_makes_up_is_no_size() -> None:
    """Only what its class or the object itself has is asked for."""
    asked: list[str] = []

    class Thing:
        def __getattr__(self, name: str) -> int:
            asked.append(name)
            return 10**30

    with capture(walk, "total", keep=lambda _: Thing(), limit=1000) as cap:
        _walk_often(3)
    assert (len(cap), asked) == (3, [])


def test_arrays_in_containers_count() -> None:
    """Whatever nests them."""
    with pytest.warns(LimitWarning), capture(walk, "total", keep=lambda _: {"all": [(_Big(),)]}, limit=2500) as cap:
        _walk_often(5)
    assert len(cap) == 2


def test_the_first_items_of_a_long_list_stand_for_all() -> None:
    """Their sizes are those of the others, so that not all need to be looked at."""
    budget = Budget("1GiB")
    items = [_Big() for _ in range(3000)]
    budget.take((items,))
    assert budget.held == 3_000_000 + items.__sizeof__()


def test_a_long_list_is_not_looked_at_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that takes millions of things may be called often."""
    looked_at: list[object] = []
    monkeypatch.setattr("anylocal._engine.tensors.is_tensor", looked_at.append)

    def count(items: list[Any]) -> int:
        return len(items)

    nested = [[object() for _ in range(1000)] for _ in range(100)]
    with capture(count, "items") as cap:
        count([object() for _ in range(100_000)])
        count(nested)
    assert len(cap) == 2
    assert len(looked_at) < 50_000
