"""How calls are counted: where they start, or where they end."""

from __future__ import annotations

import contextlib
import gc
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from anylocal import capture
from anylocal._engine import dynamo
from anylocal._engine.subscription import Subscription
from anylocal.errors import LimitWarning, NothingRecordedWarning

if TYPE_CHECKING:
    from collections.abc import Iterator


class Divider:
    """Raises where it is asked for the impossible."""

    def divide(self, x: int) -> float:
        part = 1 / x
        return part

    def forget(self, x: int) -> float:
        del self
        part = 1 / x
        return part


def divide(x: int) -> float:
    part = 1 / x
    return part


def load(x: int) -> bytes:
    part = bytes((1 << 20) // x)
    return part


def count(n: int) -> Iterator[int]:
    total = n
    yield total


@pytest.fixture(autouse=True, params=[False, True], ids=["alone", "beside a compiler"])
def _where_calls_are_counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, whatever other tests have compiled."""
    monkeypatch.setattr(dynamo, "is_used", lambda: request.param)


def all_of(call: Any, arguments: tuple[int, ...]) -> None:
    """Call it with each argument, whatever it raises."""
    for argument in arguments:
        with contextlib.suppress(ZeroDivisionError):
            call(argument)


def test_calls_that_raise_are_counted() -> None:
    """Each started, and did not finish."""
    with capture(divide, "part") as cap:
        all_of(divide, (1, 0, 2, 0, 0))
    assert cap.counts == {"started": 5, "finished": 2, "unfinished": 3}


def test_calls_that_raise_are_counted_where_assignments_are_recorded() -> None:
    """Their returns leave no record."""
    with capture(divide, "part", every=True) as cap:
        all_of(divide, (1, 0, 2))
    assert cap.counts == {"started": 3, "finished": 2, "unfinished": 1}


@pytest.mark.parametrize("every", [False, True])
def test_calls_after_the_limit_are_not_counted(*, every: bool) -> None:
    """Neither those that raise nor those that finish: nothing of them is recorded."""
    cap = capture(load, "part", every=every, limit="4 MiB").open()
    with pytest.warns(LimitWarning):
        all_of(load, (1,) * 9)
    before = cap.counts
    all_of(load, (1, 0) * 9)
    cap.close()
    assert cap.counts == before


def test_only_calls_on_behalf_of_the_object_are_counted() -> None:
    """Those of another one raise unheard."""
    one, other = Divider(), Divider()
    with capture(one.divide, "part") as cap:
        all_of(one.divide, (1, 0))
        all_of(other.divide, (1, 0))
    assert cap.counts == {"started": 2, "finished": 1, "unfinished": 1}


def test_a_call_that_deletes_its_first_argument_is_counted() -> None:
    """Though its first argument is gone as it raises."""
    one = Divider()
    with pytest.warns(NothingRecordedWarning, match="every call of"), capture(one.forget, "part") as cap:
        all_of(one.forget, (0, 0))
    assert cap.counts == {"started": 2, "finished": 0, "unfinished": 2}


def test_several_names_are_counted_once() -> None:
    """One record has them all."""
    with capture(divide, "part", "x") as cap:
        all_of(divide, (1, 0))
    assert cap.counts == {"started": 2, "finished": 1, "unfinished": 1}


def test_counts_begin_anew_once_cleared() -> None:
    """Raised calls and recorded ones alike."""
    with capture(divide, "part") as cap:
        all_of(divide, (1, 0))
        cap.clear()
        all_of(divide, (1, 0, 0))
    assert cap.counts == {"started": 3, "finished": 1, "unfinished": 2}


def test_a_capture_of_calls_that_all_raised_says_so() -> None:
    """Nothing is silently empty."""
    with pytest.warns(NothingRecordedWarning, match="every call of divide raised"), capture(divide, "part"):
        all_of(divide, (0,))


def test_an_unfinished_generator_is_counted() -> None:
    """Though nothing ends it before the block does."""
    with capture(count, "total", keep=lambda value: value) as cap:
        next(suspended := count(1))
        list(count(2))
    assert cap.counts == {"started": 2, "finished": 1, "unfinished": 1}
    del suspended
    gc.collect()


def test_a_capture_that_opens_meanwhile_changes_no_counts() -> None:
    """However calls are counted while both are open."""
    with capture(divide, "part") as cap:
        all_of(divide, (1, 0))
        with capture(divide, "x", every=True):
            all_of(divide, (1, 0))
        all_of(divide, (1, 0))
    assert cap.counts == {"started": 6, "finished": 3, "unfinished": 3}


def test_a_full_stack_raises_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a line of the function's own, though there is no room for a call of the recorder."""
    monkeypatch.setattr(dynamo, "is_used", lambda: False)

    def deep(n: int) -> int:
        m = n + 1
        return deep(m)

    with (
        pytest.warns(NothingRecordedWarning),
        capture(deep, "m"),
        pytest.raises(RecursionError) as raised,
    ):
        deep(0)
    lines = [line for _, line in traceback.walk_tb(raised.value.__traceback__)]
    assert None not in lines


def test_common_values_take_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong on it would go unnoticed, since the slow way records the same."""
    with capture(divide, "part") as cap:
        divide(1)
        monkeypatch.setattr(Subscription, "add", lambda *_: pytest.fail("the slow way"))
        divide(2)
    assert cap["part"] == [1.0, 0.5]


def test_starts_are_told_beside_a_compiler_only(request: pytest.FixtureRequest) -> None:
    """A call of the recorder less; a compiler would continue no graph inside of an exception region."""
    with capture(divide, "part"):
        divide(1)
        names = {name.partition("_")[0] for name in divide.__code__.co_names if not name.startswith("__")}
    assert names == ({"entered", "returned"} if "compiler" in request.node.callspec.id else {"raised", "returned"})
