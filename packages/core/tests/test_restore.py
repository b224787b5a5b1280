"""Whatever happens, every function has its own code back, the very object."""

from __future__ import annotations

import copy
import dis
import gc
import inspect
import itertools
import pickle
import types
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from anylocal import Capture, capture, get_local
from anylocal._engine import patch
from anylocal._engine import rewrite as rewriter
from anylocal._engine.listeners import ignore, unchanged
from anylocal._engine.plan import recorder
from anylocal._engine.rewrite import rewrite
from anylocal.errors import CodeReplacedWarning, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator


def add(x: int, y: int = 1) -> int:
    """Add two numbers."""
    total = x + y
    return total


def subtract(x: int, y: int = 1) -> int:
    difference = x - y
    return difference


ADD, SUBTRACT = add.__code__, subtract.__code__


@pytest.fixture(autouse=True)
def own_code_at_last() -> Iterator[None]:
    """Assert after each test what each test is about: the own code is back, and nothing is remembered."""
    # What an earlier test made would not be made again.
    patch._kept.clear()
    yield
    gc.collect()
    assert add.__code__ is ADD
    assert subtract.__code__ is SUBTRACT
    assert not patch._patched
    # Code of ours may run later, in a frame that is suspended or in a copy, and is heard by nobody.
    assert set(vars(recorder).values()) <= {ignore, unchanged}


# Off is free


def test_a_capture_that_is_not_open_touches_nothing() -> None:
    """Made, but not opened."""
    capture(add, "total")
    assert add.__code__ is ADD


def test_a_marked_function_is_untouched_until_activated() -> None:
    """The mark returns the very function, with the very code."""
    assert get_local("total")(add) is add
    assert add.__code__ is ADD


def test_a_function_stays_itself_while_it_is_captured() -> None:
    """No wrapper: same object, name, signature, documentation, defaults and module."""
    before = (add.__name__, add.__qualname__, add.__module__, add.__doc__, add.__defaults__, inspect.signature(add))
    with capture(add, "total") as cap:
        add(1)
        after = (add.__name__, add.__qualname__, add.__module__, add.__doc__, add.__defaults__, inspect.signature(add))
        assert add.__code__ is not ADD
    assert before == after
    assert cap.calls[0].function is add


def test_a_captured_function_can_be_pickled_and_copied() -> None:
    """By reference, as ever."""
    with capture(len_of, "n"):
        assert copy.deepcopy(len_of) is len_of
        assert len_of([1]) == 1
        with pytest.MonkeyPatch.context() as patch:
            # Pickle finds functions by the name of their module, which a test loaded by its path may lack.
            patch.setitem(__import__("sys").modules, __name__, types.SimpleNamespace(len_of=len_of))
            assert pickle.loads(pickle.dumps(len_of)) is len_of  # noqa: S301  # our own


def len_of(items: list[int]) -> int:
    n = len(items)
    return n


def test_the_source_of_a_captured_function_is_found() -> None:
    """Tools that show or read source see the file as it is."""
    expected = inspect.getsource(add)
    with capture(add, "total") as cap:
        add(1)
        assert inspect.getsource(add) == expected
        assert dis.get_instructions(add) is not None
    assert cap["total"] == [2]


# On the ways out of a scope


def test_code_is_back_after_the_scope() -> None:
    """By its end."""
    with capture(add, "total"):
        add(1)
    assert add.__code__ is ADD


def test_code_is_back_after_an_exception() -> None:
    """The exception is what comes out, and no warning joins it."""
    with pytest.raises(ZeroDivisionError), capture(add, "total"):
        _ = 1 / 0
    assert add.__code__ is ADD


def test_code_is_back_after_the_function_raised() -> None:
    """As well where the captured function itself is what raises."""
    with pytest.raises(TypeError), capture(add, "total"):
        add("text")  # type: ignore[arg-type]  # it raises
    assert add.__code__ is ADD


def test_code_is_back_after_a_capture_that_was_opened_by_hand() -> None:
    """By `close`, which may be called twice."""
    cap = capture(add, "total").open()
    cap.close()
    cap.close()
    assert add.__code__ is ADD


def test_code_is_back_after_nested_captures() -> None:
    """Only when the last of them closes, each sees its own."""
    with capture(add, "total") as outer:
        add(1)
        with capture(add, "x", "total") as inner:
            add(2)
        add(3)
        assert add.__code__ is not ADD
    assert add.__code__ is ADD
    assert (outer["total"], inner["x"], inner["total"]) == ([2, 3, 4], [2], [3])


WANTS: list[dict[str, Any]] = [
    {"names": ("total",)},
    {"names": ("x", "y")},
    {"names": ("total",), "every": True},
    {"names": (), "edit": {"total": lambda value: value}},
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_captures_close_in_any_order(order: tuple[int, ...]) -> None:
    """After each that leaves, the others go on; after the last, the code is back."""
    caps = [_open(want) for want in WANTS]
    for place, leaving in enumerate(order):
        assert add(place) == place + 1
        assert add.__code__ is not ADD
        caps[leaving].close()
    assert add.__code__ is ADD
    for place, leaving in enumerate(order):
        if WANTS[leaving]["names"]:
            assert len(caps[leaving].calls) == place + 1


def _open(want: dict[str, Any]) -> Capture:
    return capture(add, *want["names"], every=want.get("every", False), edit=want.get("edit")).open()


def test_the_same_wants_again_give_the_same_code_again() -> None:
    """A capture inside of one with the same names costs no rewriting, and no recompilation."""
    with capture(add, "total"):
        code = add.__code__
        with capture(add, "total") as inner:
            assert add.__code__ is code
            add(1)
        assert add.__code__ is code
        add(2)
    assert inner["total"] == [2]


def test_a_capture_opens_in_a_call_of_the_captured_function() -> None:
    """The running frame goes on with the code that it has."""
    inner = capture(add, "x")

    def edit(value: int) -> int:
        inner.open()
        return value

    with capture(add, "total", edit={"total": edit}) as outer:
        add(1)
        inner.close()
    assert (outer["total"], inner.calls) == ([2], [])


def test_a_capture_closes_in_a_call_of_the_captured_function() -> None:
    """What the running frame tells afterwards is heard by nobody."""
    cap = capture(add, "total", keep=lambda value: value)

    def closing(value: int) -> int:
        cap.close()
        return value

    edit = capture(add, edit={"total": closing})
    edit.open()
    cap.open()
    assert add(1) == 2
    edit.close()
    assert not cap.calls


# Failures and forgetfulness


def test_a_capture_that_fails_to_open_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions touched before the failure are put back."""

    def failing(code: types.CodeType, *args: Any) -> types.CodeType:
        if code is SUBTRACT:
            raise MemoryError
        return rewrite(code, *args)

    monkeypatch.setattr(rewriter, "rewrite", failing)

    class Both:
        first = staticmethod(add)
        second = staticmethod(subtract)

    cap = capture(Both, "x")
    with pytest.raises(MemoryError):
        cap.open()
    assert not cap.is_open
    assert add.__code__ is ADD


def test_a_capture_that_fails_to_open_does_not_disturb_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was open before goes on recording."""
    with capture(add, "total") as outer:

        def failing(*_: object) -> types.CodeType:
            raise MemoryError

        with monkeypatch.context() as context:
            context.setattr(rewriter, "rewrite", failing)
            with pytest.raises(MemoryError):
                capture(add, "x").open()
        add(1)
    assert outer["total"] == [2]


def test_a_capture_that_is_dropped_takes_its_patches_with_it() -> None:
    """Nobody can close it any more, so the garbage collector does."""
    cap = capture(add, "total").open()
    assert add.__code__ is not ADD
    del cap
    gc.collect()
    assert add.__code__ is ADD


def test_a_capture_is_collected_while_another_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector may run at any time, also in the midst of taking patches out."""
    closing, dropped = capture(add, "total").open(), [capture(add, "x").open()]

    def collecting(*args: Any) -> types.CodeType:
        code = rewrite(*args)
        dropped.clear()
        gc.collect()
        return code

    monkeypatch.setattr(rewriter, "rewrite", collecting)
    closing.close()
    assert not dropped
    assert add.__code__ is ADD


def test_a_capture_is_collected_while_another_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that opens is served, and the other is gone."""
    dropped = [capture(add, "x").open()]

    def collecting(*args: Any) -> types.CodeType:
        dropped.clear()
        gc.collect()
        return rewrite(*args)

    monkeypatch.setattr(rewriter, "rewrite", collecting)
    with capture(add, "total") as cap:
        add(1)
    assert cap["total"] == [2]


def test_an_open_capture_does_not_keep_values_alive_after_it_is_dropped() -> None:
    """Not even where it is dropped without being closed."""
    import weakref

    class Value:
        pass

    def hold(value: Value) -> None:
        pass

    value = Value()
    alive = weakref.ref(value)
    cap = capture(hold, "value").open()
    hold(value)
    del value, cap
    gc.collect()
    assert alive() is None


# Somebody else's code


def test_foreign_code_on_top_is_left_alone() -> None:
    """To undo it is theirs; ours is silent from then on."""
    cap = capture(add, "total").open()
    foreign = SUBTRACT.replace(co_name="foreign")
    add.__code__ = foreign
    with pytest.warns(CodeReplacedWarning, match="^add: replaced while the capture of add was open"):
        cap.close()
    assert add.__code__ is foreign
    add.__code__ = ADD


def test_foreign_code_that_is_gone_again_did_no_harm() -> None:
    """A tool that patched and undid its patch inside of the scope."""
    with capture(add, "total") as cap:
        ours, add.__code__ = add.__code__, SUBTRACT
        assert add(1) == 0
        add.__code__ = ours
        add(1)
    assert cap["total"] == [2]


def test_a_second_capture_refuses_foreign_code_and_touches_nothing() -> None:
    """Neither what the other tool put there, nor the function before it."""
    with capture(add, "total"):
        ours, add.__code__ = add.__code__, SUBTRACT

        class Both:
            second = staticmethod(subtract)
            first = staticmethod(add)

        with pytest.raises(StateError, match="was replaced by another tool"):
            capture(Both, "x").open()
        assert subtract.__code__ is SUBTRACT
        assert add.__code__ is SUBTRACT
        add.__code__ = ours
        add(1)


# The scope


def test_a_capture_cannot_be_opened_twice() -> None:
    """A second scope needs a second capture."""
    with capture(add, "total") as cap:
        with pytest.raises(StateError, match="open already"):
            cap.open()
        add(1)
    assert cap["total"] == [2]


def test_a_capture_that_is_opened_again_goes_on() -> None:
    """What was recorded before stays."""
    cap = capture(add, "total")
    for x in (1, 2):
        with cap:
            add(x)
        add(100)
    assert cap["total"] == [2, 3]


def test_clear_forgets_and_goes_on() -> None:
    """Inside of the scope."""
    with capture(add, "total") as cap:
        add(1)
        cap.clear()
        add(2)
    assert cap["total"] == [3]


def test_clear_of_a_closed_capture_does_not_open_it() -> None:
    """It is empty then, and stays closed."""
    with capture(add, "total") as cap:
        add(1)
    cap.clear()
    add(2)
    assert (cap["total"], cap.is_open, add.__code__) == ([], False, ADD)


def test_a_capture_can_be_read_while_it_is_open() -> None:
    """As far as it has come."""
    with capture(add, "total") as cap:
        add(1)
        assert cap["total"] == [2]
        add(2)
        assert cap["total"] == [2, 3]


def test_a_capture_is_true_even_if_empty() -> None:
    """An empty capture is a capture."""
    cap = capture(add, "total")
    assert (bool(cap), len(cap)) == (True, 0)


def test_a_capture_shows_what_it_captured() -> None:
    """Target, names, number of calls and state."""
    with capture(add, "total", "x") as cap:
        add(1)
        assert repr(cap) == "Capture(add: total, x; 1 call, open)"
    assert repr(cap) == "Capture(add: total, x; 1 call, closed)"


def test_a_capture_tells_its_names_and_sites() -> None:
    """As they were asked for."""
    cap = capture(add, "total", "x")
    assert cap.names == ("total", "x")
    assert [(site.function, site.names) for site in cap.sites] == [(add, ("total", "x"))]


# A function with its own builtins


def test_a_function_with_its_own_builtins_is_captured() -> None:
    """The recorder is found through the builtins that the function itself uses."""
    import builtins

    own = {"sum": builtins.sum}
    namespace: dict[str, Any] = {"__builtins__": own}
    exec("def total(values):\n    result = sum(values)\n    return result\n", namespace)
    with capture(namespace["total"], "result") as cap:
        namespace["total"]([1, 2])
    assert cap["result"] == [3]


def test_the_module_of_the_function_stays_as_it_was() -> None:
    """Nothing is put into its globals."""
    before = set(globals())
    with capture(add, "total"):
        add(1)
        assert set(globals()) == before


def test_few_rewritings_of_a_function_are_kept() -> None:
    """A capture of the same names finds its own again; those of ever other names do not fill the memory."""

    def letters() -> str:
        a = b = c = d = e = f = "letter"
        return a + b + c + d + e + f

    rewritings = []
    for name in "abcdef":
        with capture(letters, name):
            letters()
            rewritings.append(weakref.ref(letters.__code__))
    gc.collect()
    assert [rewriting() is not None for rewriting in rewritings] == [False, False, True, True, True, True]
