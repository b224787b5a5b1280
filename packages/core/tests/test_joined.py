"""What adapters ask for: the value that a call of something gave a name, handed over with the call of the function."""

from __future__ import annotations

import asyncio
import contextlib
import types
from typing import Any

import pytest

from anylocal._engine.capture import Capture
from anylocal._engine.resolve import resolve
from anylocal._engine.spec import Assignment, CaptureSpec, Match, Request, Role
from anylocal.errors import ChangedInPlaceWarning


def softmax(x: float) -> float:
    return x / 2


class Torch:
    softmax = staticmethod(softmax)

    def to(self, x: float) -> float:
        return x


torch = Torch()


def joined(function: Any, *returned: str, name: str = "attn", gathered: bool = False) -> Capture:
    """Capture what `softmax` gave a name, besides names at the return."""
    return capture_results(function, Assignment(name, "softmax"), returned=returned, gathered=gathered)


def capture_results(
    function: Any, *results: Assignment, returned: tuple[str, ...] = (), gathered: bool = False
) -> Capture:
    assert isinstance(function, types.FunctionType)
    keys = frozenset(result.key for result in results)
    request = Request(
        Match(function), CaptureSpec(returned, resulted=frozenset(results)), keys, keys if gathered else frozenset()
    )
    return Capture(resolve(function), [request])


def values(cap: Capture) -> list[dict[str, Any]]:
    return [dict(call.values) for call in cap.calls]


def test_the_value_of_the_call_is_recorded_though_the_name_is_bound_again() -> None:
    """What dropout makes of it comes later."""

    def attention(x: float) -> float:
        attn = x + 1
        attn = softmax(attn)
        attn = attn * 0
        return attn

    cap = joined(attention, "x").open()
    attention(1)
    cap.close()
    assert values(cap) == [{"x": 1, "attn": 1.0}]


@pytest.mark.parametrize(
    "value",
    [
        "softmax(x)",
        "torch.softmax(x)",
        "self.softmax(x)",
        "(self.softmax)(x)",
        "torch.softmax(\n        x\n    )",
        "torch.to(torch.softmax(x))",
        "torch.softmax(\n        x\n    ).__add__(\n        0.0\n    )",
    ],
)
def test_the_call_may_be_written_in_any_way(value: str) -> None:
    """A function, a method, an attribute; on one line or several, cast afterwards."""
    namespace: dict[str, Any] = {"softmax": softmax, "torch": torch}
    exec(f"def attention(self, x):\n    attn = {value}\n    attn = None\n    return x\n", namespace)
    cap = joined(namespace["attention"]).open()
    namespace["attention"](torch, 1)
    cap.close()
    assert values(cap) == [{"attn": 0.5}]


def test_a_function_in_a_cell_is_called_as_well() -> None:
    """It is found by the name of the cell."""

    def make(softmax: Any) -> Any:
        def attention(x: float) -> None:
            attn = softmax(x)
            attn = 0

        return attention

    attention = make(softmax)
    cap = joined(attention).open()
    attention(1)
    cap.close()
    assert values(cap) == [{"attn": 0.5}]


def test_another_value_is_not_taken_for_it() -> None:
    """That the condition before names it does not make it the result."""

    def attention(self: Any, x: float) -> Any:
        if self.softmax:
            attn = x
            return attn
        attn = self.softmax(x)
        return attn

    cap = joined(attention, "x").open()
    attention(torch, 1)
    cap.close()
    assert values(cap) == [{"x": 1}]


def test_each_call_has_its_own_value() -> None:
    """Also where a call in between raised after it had made one."""

    def attention(x: float) -> float:
        attn = softmax(x)
        return 1 / attn

    cap = joined(attention, "x").open()
    for x in (1, 0, 2):
        with contextlib.suppress(ZeroDivisionError):
            attention(x)
    cap.close()
    assert values(cap) == [{"x": 1, "attn": 0.5}, {"x": 2, "attn": 1.0}]


def test_calls_within_a_call_have_their_own_values() -> None:
    """A function that calls itself goes on with its own, also where the inner call raised."""

    def attention(x: float, *, last: bool = False) -> float:
        attn = softmax(x)
        if last:
            return 1 / attn
        with contextlib.suppress(ZeroDivisionError):
            attention(x - 1, last=True)
        return attn

    cap = joined(attention, "x").open()
    attention(3)
    attention(1)
    cap.close()
    assert values(cap) == [{"x": 2, "attn": 1.0}, {"x": 3, "attn": 1.5}, {"x": 1, "attn": 0.5}]


def test_coroutines_that_take_turns_have_their_own_values() -> None:
    """They run in one thread, and the second one starts before the first one ends."""

    async def attention(x: float) -> float:
        attn = softmax(x)
        await asyncio.sleep(0)
        return attn

    async def both() -> None:
        await asyncio.gather(attention(1), attention(2))

    cap = joined(attention, "x").open()
    asyncio.run(both())
    cap.close()
    assert values(cap) == [{"x": 1, "attn": 0.5}, {"x": 2, "attn": 1.0}]


@pytest.mark.parametrize("captures", [1, 2])
def test_it_is_the_call_itself_that_is_told_apart(captures: int) -> None:
    """However many listen to it."""

    def attention(x: float, depth: int) -> float:
        attn = softmax(x)
        return attn + attention(x + 1, depth - 1) if depth else attn

    every = [joined(attention, "x").open() for _ in range(captures)]
    attention(1, 2)
    for cap in every:
        cap.close()
        assert values(cap) == [{"x": 3, "attn": 1.5}, {"x": 2, "attn": 1.0}, {"x": 1, "attn": 0.5}]


def test_a_call_that_makes_none_has_none() -> None:
    """It does not get that of the call before."""

    def attention(x: float, fused: bool) -> float:
        if fused:
            return x
        attn = softmax(x)
        return attn

    cap = joined(attention, "x").open()
    attention(1, fused=False)
    attention(2, fused=True)
    cap.close()
    assert values(cap) == [{"x": 1, "attn": 0.5}, {"x": 2}]


def test_assignments_of_one_name_are_told_apart() -> None:
    """By what their right-hand sides use: a function, a local variable; each under a name of its own."""

    def attention(x: float, weight: float) -> float:
        attn = softmax(x)
        attn = attn - weight * attn
        return attn

    cap = capture_results(attention, Assignment("attn", "softmax", "softmax"), Assignment("attn", "weight", "mixed"))
    with cap:
        attention(1, 0.5)
    assert values(cap) == [{"softmax": 0.5, "mixed": 0.25}]


def test_a_change_in_place_counts_as_an_assignment() -> None:
    """As in ``attn /= attn.sum()``."""

    def attention(x: float) -> float:
        attn = x
        attn /= softmax(x)
        return attn

    cap = joined(attention)
    with cap:
        attention(3)
    assert values(cap) == [{"attn": 2.0}]


def test_all_assignments_are_gathered() -> None:
    """In a loop, the value of each round is handed over, in order; a call that makes none has none."""

    def attention(x: int) -> None:
        for i in range(x):
            attn = softmax(i)

    cap = joined(attention, gathered=True)
    with cap:
        attention(3)
        attention(0)
        attention(2)
    assert values(cap) == [{"attn": (0.0, 0.5, 1.0)}, {}, {"attn": (0.0, 0.5)}]


def test_arguments_are_recorded_as_they_are_given() -> None:
    """Once, as the call starts, whatever they are bound to later."""

    def forward(x: int, y: int = 2) -> int:
        x = x + y
        return x

    assert isinstance(forward, types.FunctionType)
    request = Request(Match(forward), CaptureSpec(given=frozenset({"x"})), keep=lambda value: [value])
    cap = Capture(resolve(forward), [request])
    with cap:
        assert forward(1) == 3
    assert [dict(call.values) for call in cap.calls] == [{"x": [1]}]


def test_a_gathered_value_that_changed_in_place_is_reported() -> None:
    """Any of them, when they are read."""
    torch = pytest.importorskip("torch")

    def attention(x: Any) -> Any:
        for _ in range(2):
            attn: Any = softmax(x)
        attn.add_(1)

    cap = joined(attention, gathered=True)
    with cap:
        attention(torch.ones(2))
    with pytest.warns(ChangedInPlaceWarning, match="'attn' of call 0 of .*attention was changed in place"):
        assert len(cap.calls[0].values["attn"]) == 2


# Roles


def recorded(role: Role, spec: CaptureSpec = CaptureSpec()) -> list[str]:  # noqa: B008  # a tuple
    """Return the kinds of records that a request gets beside others with the same spec."""

    def twice(x: int) -> int:
        y = 2 * x
        return y

    double: Any = twice
    asked = Request(Match(double), spec, role=role)
    others = [Request(Match(double), spec, role=other) for other in Role if other is not role]
    capture = Capture(resolve(double), [others[0], asked, *others[1:]])
    capture.open()
    double(1)
    capture.close()
    return [record.kind for record in capture.records if record.request is asked]


def test_boundaries_are_where_calls_start_and_end() -> None:
    """An empty spec alone does not ask for them."""
    assert recorded(Role.BOUNDARIES) == ["entered", "returned"]
    assert recorded(Role.VALUES) == []


def test_values_are_recorded_as_the_call_ends() -> None:
    """Where it starts is only counted."""
    assert recorded(Role.VALUES, CaptureSpec(("y",))) == ["returned"]


@pytest.mark.parametrize("role", [Role.PRESENCE, Role.COMPILED_VALUES])
def test_eager_calls_leave_no_record(role: Role) -> None:
    """Neither for a request that only notes them, nor for one that leaves them to others."""
    assert recorded(role, CaptureSpec(("y",))) == []


def test_the_presence_of_a_call_is_noted() -> None:
    """Of calls that count only."""

    def identity(x: int) -> int:
        return x

    run: Any = identity
    even = Match(run, lambda x: x == 2)
    capture = Capture(resolve(run), [Request(even, CaptureSpec(), role=Role.PRESENCE)])
    with contextlib.closing(capture.open()):
        run(1)
        assert not capture.has_called(run)
        run(2)
        assert capture.has_called(run)


def test_on_call_gets_the_owners_of_calls_that_count() -> None:
    """As they start, and as they return."""
    owners: list[object] = []

    def identity(x: int) -> int:
        return x

    run: Any = identity
    match = Match(run, lambda x: x == 2)
    capture = Capture(resolve(run), [Request(match, CaptureSpec(("x",)), on_call=owners.append)])
    with contextlib.closing(capture.open()):
        run(1)
        assert owners == []
        run(2)
    assert owners == [2, 2]
