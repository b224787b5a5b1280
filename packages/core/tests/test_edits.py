"""Which of several assignments of a name an edit means."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from anylocal import Assignment, capture
from anylocal.errors import EditNotAppliedWarning, OptionError

if TYPE_CHECKING:
    import types
    from collections.abc import Callable


def halve(x: float) -> float:
    return x / 2


def run(x: float) -> list[float]:
    """Assign one name in many ways; each value shows which of them were edited."""
    seen = []
    h = x
    seen.append(h)
    h = halve(h)
    seen.append(h)
    h = max(
        h,
        abs(h),
    )
    seen.append(h)
    for h in (4.0, 5.0):
        seen.append(h)  # noqa: PERF402  # the assignment is what the test is about
    h, other = 6.0, 7.0
    seen.append(h)
    h += other
    seen.append(h)
    try:
        h = 8.0
    finally:
        h = round(h)
    return [*seen, h]


FIRST = run.__code__.co_firstlineno
OWN = [2.0, 1.0, 1.0, 4.0, 5.0, 6.0, 13.0, 8.0]


def edited(*keys: Any) -> list[int]:
    """Return the places of what 100 was added to."""
    with capture(run, edit={key: lambda value: value + 100 for key in keys}):
        return [place for place, (one, two) in enumerate(zip(run(2.0), OWN, strict=True)) if one > two + 20]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ({"uses": "halve"}, [1, 2]),
        ({"uses": "max"}, [2]),
        ({"uses": "abs"}, [2]),
        ({"uses": "other"}, [6]),
        ({"uses": "round"}, [7]),
        ({"line": FIRST + 5}, [1, 2]),
        ({"line": FIRST + 12}, [3, 4]),
        ({"number": 0}, [0, 1, 2]),
        ({"number": 2}, [2]),
        ({"number": 4}, [5, 6]),
        ({"number": -1}, [7]),
    ],
)
def test_an_edit_means_some_assignments(key: dict[str, Any], expected: list[int]) -> None:
    """By what the right-hand side names, by the line, or by the number."""
    assert edited(Assignment("h", **key)) == expected


def test_several_edits_of_one_name() -> None:
    """Each is for its own assignments."""
    assert edited(Assignment("h", uses="max"), Assignment("h", uses="round")) == [2, 7]


def test_numbers_follow_the_source() -> None:
    """The number of an assignment is its place among those that a tracer sees."""
    lines: list[int] = []

    def look(frame: types.FrameType, *_: object) -> Callable[..., Any] | None:
        return note if frame.f_code is run.__code__ else None

    def note(frame: types.FrameType, event: str, _: object) -> Any:
        if event == "line" and frame.f_lineno not in lines:
            lines.append(frame.f_lineno)
        return note

    sys.settrace(look)
    run(2.0)
    sys.settrace(None)
    values: list[int] = []

    def edit(value: float) -> float:
        frame = sys._getframe()
        while frame.f_code.co_name != "run":
            frame = frame.f_back  # type: ignore[assignment]  # it is below
        values.append(frame.f_lineno)
        return value

    for number in range(8):
        with capture(run, edit={Assignment("h", number=number): edit}):
            run(2.0)
    distinct = list(dict.fromkeys(values))
    assert distinct == sorted(distinct)
    assert len(distinct) == 8
    assert set(distinct) <= set(lines)


@pytest.mark.parametrize("key", [{"uses": "append"}, {"number": 8}, {"number": -9}, {"line": FIRST}])
def test_what_is_no_assignment_of_the_name(key: dict[str, Any]) -> None:
    """Not the statement before one, nor the copy that the compiler makes of a `finally`."""
    with pytest.raises(OptionError, match="No assignment of 'h' in run has"):
        capture(run, edit={Assignment("h", **key): abs})


class Layer:
    def forward(self, h: float) -> float:
        h = halve(h)
        return h

    def backward(self, h: float) -> float:
        h = abs(h)
        return h


def test_functions_without_the_assignment_are_left_alone() -> None:
    """Of all methods that assign the name, those that have such an assignment are edited."""
    with capture(Layer, edit={Assignment("h", uses="halve"): lambda _: 9.0}):
        assert (Layer().forward(4.0), Layer().backward(-4.0)) == (9.0, 4.0)


def test_no_such_assignment() -> None:
    """It is refused with those that there are."""
    with pytest.raises(OptionError) as caught:
        capture(Layer, edit={Assignment("h", uses="half"): abs})
    line = Layer.forward.__code__.co_firstlineno + 1
    assert str(caught.value) == (
        "No assignment of 'h' in Layer has uses='half'."
        f" There are: number=0 at line {line} of Layer.forward (uses halve);"
        f" number=0 at line {line + 4} of Layer.backward (uses abs). [option]"
    )


@pytest.mark.parametrize("key", [Assignment("h"), Assignment("h", uses="halve", number=0)])
def test_a_choice_that_is_none(key: Assignment) -> None:
    """An edit says by one of three which assignments it means."""
    with pytest.raises(OptionError, match=r"chooses assignments by one of uses=, line= and number="):
        capture(run, edit={key: abs})


def test_an_argument_is_no_assignment() -> None:
    """A name that is never assigned has none to choose from."""
    with pytest.raises(OptionError, match=r"has number=0\. There are: none, for it is an argument\."):
        capture(halve, edit={Assignment("x", number=0): abs})


def test_a_branch_that_is_not_taken() -> None:
    """An edit that never meets its assignment is told."""

    def choose(flag: bool) -> int:
        h = 0
        if flag:
            h = int(flag)
        return h

    with (
        pytest.warns(EditNotAppliedWarning, match="The edit of 'h' was never applied"),
        capture(choose, edit={Assignment("h", uses="int"): abs}),
    ):
        choose(False)
