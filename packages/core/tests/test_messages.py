"""The text of every exception and warning of the engine: what was asked, what is there, what to do."""

from __future__ import annotations

import contextlib
import math
import pickle
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from anylocal import capture, errors, get_local
from anylocal._engine.frames import is_recording_code
from anylocal.errors import (
    AnylocalError,
    AnylocalWarning,
    EditNotAppliedWarning,
    LimitWarning,
    NameNotFoundError,
    NothingRecordedWarning,
    OptionError,
    StateError,
    TargetError,
)

if TYPE_CHECKING:
    import types
    from collections.abc import Callable


def area(radius: float) -> float:
    squared = radius**2
    return math.pi * squared


def nothing_at_all() -> None:
    pass


def choose(flag: bool) -> int:
    if flag:
        first = second = 1
        return first
    return 0


class Circle:
    def grow(self, by: float) -> float:
        grown = by
        return grown


FIRST_LINE = area.__code__.co_firstlineno


def raised(make: Callable[[], object]) -> str:
    with pytest.raises(AnylocalError) as caught:
        make()
    return str(caught.value)


def warned(go: Callable[[], object]) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        go()
    (warning,) = caught
    assert issubclass(warning.category, AnylocalWarning)
    # The line that a reader can do something about.
    assert warning.filename == __file__
    return str(warning.message)


def _open_twice() -> None:
    cap = capture(area, "squared").open()
    try:
        cap.open()
    finally:
        cap.close()


def _replace() -> None:
    cap = capture(area, "squared").open()
    ours = area.__code__
    area.__code__ = ours.replace(co_name="foreign")
    try:
        capture(area, "squared").open()
    finally:
        area.__code__ = ours
        cap.close()


# Exceptions


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        pytest.param(
            lambda: capture(area, "squarred"),
            NameNotFoundError,
            "area has no local variable 'squarred'. Did you mean 'squared'? It has: radius, squared. [name-not-found]",
            id="misspelt",
        ),
        pytest.param(
            lambda: capture(area, "math"),
            NameNotFoundError,
            "area has no local variable 'math'. 'math' is a global or an attribute in area, not a local variable."
            " It has: radius, squared. [name-not-found]",
            id="a global",
        ),
        pytest.param(
            lambda: capture(nothing_at_all, "x"),
            NameNotFoundError,
            "nothing_at_all has no local variable 'x'. It has none at all. [name-not-found]",
            id="no names",
        ),
        pytest.param(
            lambda: capture("colorsys", "attention"),
            NameNotFoundError,
            "colorsys has no local variable 'attention'. It has: r, g, b, y, i, q, maxc, minc, sumc, rangec, l, s, rc,"
            " gc, bc, h, m2, m1, hue, v, f, p, t. [name-not-found]",
            id="nowhere in a Python module",
        ),
        pytest.param(
            lambda: capture(area, edit={"squarred": abs}),
            NameNotFoundError,
            "area has no local variable 'squarred'. Did you mean 'squared'? It has: radius, squared. [name-not-found]",
            id="misspelt in edit",
        ),
        pytest.param(
            lambda: capture(area, "squared")["radius"],
            NameNotFoundError,
            "This capture of area has no local variable 'radius'. It has: squared. [name-not-found]",
            id="not captured",
        ),
        pytest.param(
            lambda: capture(area, "squared").at("blocks.0"),
            NameNotFoundError,
            "area has no submodule 'blocks.0'. It has none at all. [name-not-found]",
            id="no submodule",
        ),
        pytest.param(
            lambda: get_local.cache["nowhere"],
            NameNotFoundError,
            "get_local.cache has no key 'nowhere'. No marked function has been activated yet: get_local.activate()."
            " It has none at all. [name-not-found]",
            id="no key",
        ),
        pytest.param(
            lambda: get_local("squarred")(area),
            NameNotFoundError,
            "area has no local variable 'squarred'. Did you mean 'squared'? It has: radius, squared. [name-not-found]",
            id="marked misspelt",
        ),
        pytest.param(
            lambda: capture(len, "x"),
            TargetError,
            "len is implemented in C: it has no Python code and no locals. Point at the Python function that calls it."
            " [target]",
            id="builtin",
        ),
        pytest.param(
            lambda: capture("math:sqrt", "x"),
            TargetError,
            "sqrt is implemented in C: it has no Python code and no locals. Point at the Python function that calls it."
            " [target]",
            id="builtin by name",
        ),
        pytest.param(
            lambda: capture(3, "x"),
            TargetError,
            "int (int) holds no Python function. A target is a function, a method, a class, an nn.Module, a Python"
            ' module, or a dotted name such as "package.module:Class.method". [target]',
            id="an object without functions",
        ),
        pytest.param(
            lambda: capture("colorsys:rgb_to_hsw", "x"),
            TargetError,
            "colorsys has no attribute 'rgb_to_hsw' (target 'colorsys:rgb_to_hsw'). Did you mean 'rgb_to_hsv'?"
            " [target]",
            id="no such attribute",
        ),
        pytest.param(
            lambda: capture("fractions:Fraction.lmit_denominator", "x"),
            TargetError,
            "Fraction has no attribute 'lmit_denominator' (target 'fractions:Fraction.lmit_denominator')."
            " Did you mean 'limit_denominator'? [target]",
            id="class without the method",
        ),
        pytest.param(
            lambda: capture("no_such_module_of_all:f", "x"),
            TargetError,
            "No module 'no_such_module_of_all' for the target 'no_such_module_of_all:f'."
            ' Write "package.module:Class.method". [target]',
            id="no such module",
        ),
        pytest.param(
            lambda: capture("", "x"),
            TargetError,
            "No module '' for the target ''. Write \"package.module:Class.method\". [target]",
            id="an empty name",
        ),
        pytest.param(
            lambda: capture(".colorsys", "x"),
            TargetError,
            "No module '.colorsys' for the target '.colorsys'. Write \"package.module:Class.method\". [target]",
            id="a relative name",
        ),
        pytest.param(
            lambda: get_local("x")(3),
            TargetError,
            "get_local marks Python functions, and 3 holds none. [target]",
            id="mark of no function",
        ),
        pytest.param(
            lambda: get_local("by")(Circle),
            TargetError,
            f"get_local marks Python functions, and {Circle!r} holds none. [target]",
            id="mark of a class",
        ),
        pytest.param(
            lambda: capture(area),
            OptionError,
            'Name the local variables to capture, as in capture(model, "attn"); find(model) lists what is there.'
            " [option]",
            id="no names given",
        ),
        pytest.param(
            lambda: capture(area, 3),  # type: ignore[arg-type]  # what is refused
            OptionError,
            "A name of a local variable is a str, not 3. [option]",
            id="a name that is no text",
        ),
        pytest.param(
            lambda: get_local(area),  # type: ignore[arg-type]  # what is refused
            OptionError,
            f"A name of a local variable is a str, not {area!r}. [option]",
            id="get_local without its names",
        ),
        pytest.param(
            lambda: capture(area, "squared", keep="gpu"),
            OptionError,
            "keep='gpu' is neither one of 'detach', 'graph', 'clone', 'cpu' nor a function. [option]",
            id="keep",
        ),
        pytest.param(
            lambda: capture(area, "squared", threads="mine"),
            OptionError,
            "threads='mine' is neither 'all' nor 'own'. [option]",
            id="threads",
        ),
        pytest.param(
            lambda: capture(area, edit={"squared": 3}),  # type: ignore[arg-type]  # what is refused
            OptionError,
            "edit['squared'] is 3; it must be a function of the value that returns the new one. [option]",
            id="edit",
        ),
        pytest.param(
            lambda: capture(area, edit=["squared"]),  # type: ignore[arg-type]  # what is refused
            OptionError,
            "edit=['squared'] is not a dict; give a function for each name, as in edit={'attn': function}. [option]",
            id="edit that is no dict",
        ),
        pytest.param(
            lambda: capture(area, edit={3: abs}),  # type: ignore[arg-type]  # what is refused
            OptionError,
            "A name of a local variable is a str, not 3. [option]",
            id="a name in edit that is no text",
        ),
        pytest.param(
            lambda: capture(area, "squared")[0],  # type: ignore[index]  # what is refused
            OptionError,
            "A capture is read by name and got 0; calls by their index are in .calls. [option]",
            id="a name by number",
        ),
        pytest.param(
            lambda: capture(area, "squared").at(0),  # type: ignore[arg-type]  # what is refused
            OptionError,
            "at() takes the name of a submodule and got 0; calls by their index are in .calls. [option]",
            id="a submodule by number",
        ),
        pytest.param(
            lambda: capture(area, "squared", modules="blocks.*"),
            OptionError,
            "modules= selects submodules of a model, and area is not a model. Leave it out. [option]",
            id="modules",
        ),
        pytest.param(
            lambda: capture(area, "squared", limit="many"),
            OptionError,
            "limit='many' is not a size. Give bytes or text such as \"2GiB\"; limit=None records without any. [option]",
            id="limit",
        ),
        pytest.param(
            _open_twice,
            StateError,
            "This capture of area is open already. Make a second one with capture(…). [state]",
            id="open twice",
        ),
        pytest.param(
            _replace,
            StateError,
            "The code of area was replaced by another tool while a capture of it is open."
            " Close that capture first, or let the other tool undo its patch. [state]",
            id="foreign code",
        ),
    ],
)
def test_the_text_of_an_exception(make: Callable[[], object], error: type[AnylocalError], text: str) -> None:
    """Word for word, with the slug that leads to the documentation."""
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == text


def test_a_capture_knows_its_names() -> None:
    """What is captured is in it, also before there is a call."""
    cap = capture(area, "squared")
    assert "squared" in cap
    assert "radius" not in cap
    assert 0 not in cap


def test_a_capture_goes_over_its_calls() -> None:
    """As many as it counts."""
    with capture(area, "squared") as cap:
        area(1)
        area(2)
    assert [call.values["squared"] for call in cap] == [1, 4]


def test_many_names_are_listed_in_part() -> None:
    """The message stays readable, and says how many there are."""
    names = [f"name_{i:02}" for i in range(40)]
    error = NameNotFoundError("other", "f", names)
    assert str(error).endswith("name_28, name_29, … (10 more). [name-not-found]")
    assert error.available == tuple(names)


def test_a_name_not_found_is_a_key_error_without_quotes() -> None:
    """`KeyError` shows its argument as a literal; this shows a sentence."""
    with pytest.raises(KeyError) as caught:
        capture(area, "squarred")
    assert not str(caught.value).startswith('"')


# Warnings


def _run(target: Any, *names: str, go: Callable[[], object] = lambda: None, **options: Any) -> Callable[[], None]:
    def run() -> None:
        with capture(target, *names, **options):
            go()

    return run


def _fails() -> None:
    with contextlib.suppress(TypeError):
        area("text")  # type: ignore[arg-type]  # it raises


def _in_another_thread() -> None:
    thread = threading.Thread(target=area, args=(1,))
    thread.start()
    thread.join()


MINE, OTHER = Circle(), Circle()


@pytest.mark.parametrize(
    ("go", "text"),
    [
        pytest.param(
            _run(area, "squared"),
            "The capture of area recorded no value of 'squared': area was not called while the capture was open."
            " [nothing-recorded]",
            id="not called",
        ),
        pytest.param(
            _run("colorsys", "maxc", "hue"),
            "The capture of colorsys recorded no value of 'maxc', 'hue': rgb_to_hls, _v, rgb_to_hsv were not called"
            " while the capture was open. [nothing-recorded]",
            id="several not called",
        ),
        pytest.param(
            _run(area, "squared", go=_fails),
            "The capture of area recorded no value of 'squared': every call of area raised, or was left unfinished."
            " [nothing-recorded]",
            id="raised",
        ),
        pytest.param(
            _run(choose, "first", go=lambda: choose(False)),
            "The capture of choose recorded no value of 'first': choose returned at line"
            f" {choose.__code__.co_firstlineno + 4} on a path that never binds it. [nothing-recorded]",
            id="unbound",
        ),
        pytest.param(
            _run(choose, "first", "second", go=lambda: choose(False)),
            "The capture of choose recorded no value of 'first', 'second': choose returned at line"
            f" {choose.__code__.co_firstlineno + 4} on a path that never binds them. [nothing-recorded]",
            id="several unbound",
        ),
        pytest.param(
            _run(choose, "flag", "first", go=lambda: choose(False)),
            "The capture of choose recorded no value of 'first': choose returned at line"
            f" {choose.__code__.co_firstlineno + 4} on a path that never binds it. [nothing-recorded]",
            id="one of two unbound",
        ),
        pytest.param(
            _run(choose, "first", go=lambda: choose(False), every=True),
            "The capture of choose recorded no value of 'first': choose returned at line"
            f" {choose.__code__.co_firstlineno + 4} on a path that never binds it. [nothing-recorded]",
            id="every unbound",
        ),
        pytest.param(
            _run(MINE, "grown", go=lambda: OTHER.grow(1)),
            "The capture of Circle recorded no value of 'grown': Circle.grow was called, but on behalf of other objects"
            " than the one captured. Capture the one that runs, or the class. [nothing-recorded]",
            id="another object",
        ),
        pytest.param(
            _run(area, "squared", go=_in_another_thread, threads="own"),
            "The capture of area recorded no value of 'squared': area was called, but in other threads than the one"
            " that opened the capture. Leave threads= out. [nothing-recorded]",
            id="another thread",
        ),
        pytest.param(
            _run(area, edit={"squared": abs}),
            "The edit of 'squared' was never applied: area was not called while the capture was open."
            " [edit-not-applied]",
            id="edit not called",
        ),
        pytest.param(
            _run(choose, edit={"first": abs}, go=lambda: choose(False)),
            "The edit of 'first' was never applied: choose ran without it. [edit-not-applied]",
            id="edit of what is not assigned",
        ),
        pytest.param(
            _run(area, "squared", go=lambda: area(1), keep=lambda _: _Big(), limit=1500, every=True),
            None,
            id="within the limit",
        ),
        pytest.param(
            _run(area, "squared", go=lambda: [area(1), area(1)], keep=lambda _: _Big(), limit=1500),
            "The capture reached its limit (1,500 bytes) after 1 records and stopped recording; the model goes on."
            ' Clear it between batches, record less (modules=, keep=), or raise limit="…GiB". [limit]',
            id="limit in bytes",
        ),
        pytest.param(
            _run(area, "squared", go=lambda: [area(1), area(1)], keep=lambda _: _Big(), limit="1.5 kB"),
            "The capture reached its limit (1.5 kB) after 1 records and stopped recording; the model goes on."
            ' Clear it between batches, record less (modules=, keep=), or raise limit="…GiB". [limit]',
            id="limit as text",
        ),
    ],
)
def test_the_text_of_a_warning(go: Callable[[], object], text: str | None) -> None:
    """Word for word, where the reader's own code stands."""
    if text is None:
        go()
    else:
        assert warned(go) == text


class _Big:
    nbytes = 1000


def test_the_default_limit_is_told_with_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader counts memory."""
    monkeypatch.setattr("anylocal._engine.budget.available", lambda: 3 * 1024**3)
    text = warned(_run(area, "squared", go=lambda: area(1), keep=lambda _: _Huge()))
    assert text.startswith("The capture reached its limit (1.5 GiB on cpu) after 0 records and stopped recording;")


class _Huge:
    nbytes = 2 * 1024**3


def test_a_silence_that_an_exception_explains_is_not_warned_of() -> None:
    """The exception is enough."""
    with pytest.raises(ZeroDivisionError):
        _run(area, "squared", go=lambda: 1 // 0)()


def test_values_and_a_silence_are_told_apart() -> None:
    """A name that was recorded once is not silent, though other calls never bound it."""
    _run(choose, "first", go=lambda: [choose(True), choose(False)])()


# Reading what is empty


def test_an_empty_capture_says_so_when_it_is_read() -> None:
    """It may be read while it is open, or in another cell of a notebook than the one that opened it."""
    cap = capture(area, "squared").open()
    text = "The capture of area recorded no value of 'squared': area was not called while the capture was open."
    try:
        assert warned(lambda: cap["squared"]) == f"{text} [nothing-recorded]"
    finally:
        cap.close()


def test_what_the_end_of_the_block_has_told_is_not_told_again() -> None:
    """One warning is enough."""
    with pytest.warns(NothingRecordedWarning), capture(area, "squared") as cap:
        pass
    assert cap["squared"] == []


def test_a_capture_that_was_cleared_is_read_in_silence() -> None:
    """Who empties it knows that it is empty."""
    with capture(area, "squared") as cap:
        area(1)
        cap.clear()
        assert cap["squared"] == []


def test_a_full_capture_is_read_in_silence() -> None:
    """Its limit has been told."""
    with capture(area, "squared", keep=lambda _: _Huge(), limit=1) as cap:
        with pytest.warns(LimitWarning):
            area(1)
        assert cap["squared"] == []


# The tree


CLASSES: list[type[Any]] = [getattr(errors, name) for name in errors.__all__]


def test_each_class_has_a_slug_of_its_own() -> None:
    """It is how the documentation is found."""
    slugs = [cls.slug for cls in CLASSES]
    assert len(set(slugs)) == len(slugs)


@pytest.mark.parametrize("cls", CLASSES)
def test_each_class_is_in_one_tree(cls: type[Any]) -> None:
    """One base for all exceptions, one for all warnings."""
    assert issubclass(cls, (AnylocalError, AnylocalWarning))


@pytest.mark.parametrize("cls", CLASSES)
def test_each_exception_survives_pickling(cls: type[Any]) -> None:
    """It comes back from a worker process as what it was."""
    error = cls("x", "f", ["y"]) if cls is NameNotFoundError else cls("a text")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (TargetError, TypeError),
        (NameNotFoundError, KeyError),
        (OptionError, ValueError),
        (errors.PositionError, IndexError),
        (StateError, RuntimeError),
        (errors.ShapeError, ValueError),
        (errors.UnsupportedError, NotImplementedError),
        (errors.DependencyError, ImportError),
        (errors.WeightsError, OSError),
        (NothingRecordedWarning, UserWarning),
        (EditNotAppliedWarning, UserWarning),
        (LimitWarning, UserWarning),
    ],
)
def test_each_class_is_what_python_would_have_raised(cls: type[Any], base: type[Any]) -> None:
    """Code that catches that keeps working."""
    assert issubclass(cls, base)


RECORDING = (
    "subscription:Subscription",
    "subscription:Subscription.add",
    "plan:_each",
    "listeners",
    "records:Log.look",
)


@pytest.mark.parametrize("target", RECORDING)
def test_what_records_calls_is_no_target(target: str) -> None:
    """A capture of it would run in circles."""
    with pytest.raises(TargetError, match="run in circles"):
        capture(f"anylocal._engine.{target}", "values")


def test_code_of_ours_that_runs_at_no_recorded_call_is_a_target() -> None:
    """Whatever its module is called."""
    from anylocal._engine import tables

    with capture("anylocal._engine.tables:text", "lines") as cap:
        tables.text("Title", [("a", "b")])
    assert cap["lines"] == [["a  b"]]


@pytest.mark.parametrize("options", [{}, {"every": True}, {"edit": {"y": list}}, {"keep": "cpu", "limit": "1kB"}])
def test_all_that_runs_at_recorded_calls_is_known(options: dict[str, Any]) -> None:
    """A function of any other module of ours could be captured, and would record itself without end."""

    def double(x: int) -> list[int]:
        y = [x, x]
        return y

    ours: set[str] = set()

    def look(frame: types.FrameType, *_: object) -> None:
        if "anylocal" in frame.f_globals.get("__name__", "") and not is_recording_code(frame.f_code):
            ours.add(frame.f_code.co_filename)

    with capture(double, "y", **options), capture(double, "x"):
        sys.setprofile(look)
        try:
            double(1)
        finally:
            sys.setprofile(None)
    assert ours == set()
