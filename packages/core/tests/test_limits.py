"""What counts for the limit of a capture: whatever Python itself knows the size of."""

from __future__ import annotations

import array
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from anylocal import capture
from anylocal._engine.budget import Budget
from anylocal.errors import LimitWarning

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20


def hold(value: Any) -> int:
    held = value
    return 0


def held(value: Any) -> int:
    budget = Budget("1GiB")
    budget.take((value,))
    return budget.held


class Text(str):
    """A user's own."""

    __slots__ = ()

    def __sizeof__(self) -> int:
        raise RuntimeError


MAKERS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: bytes(MIB),
    "bytearray": lambda: bytearray(MIB),
    "str": lambda: "x" * MIB,
    "a subclass of str": lambda: Text("x" * MIB),
    "array": lambda: array.array("b", bytes(MIB)),
    "memoryview": lambda: memoryview(bytes(MIB)),
    "int": lambda: 1 << 8 * MIB,
    "list of ints": lambda: list(range(1000, 1000 + MIB // 32)),
    "tuple of texts": lambda: tuple(str(i) * 100 for i in range(1000, 1000 + MIB // 450)),
    "dict of bytes": lambda: {i: bytes(1000) for i in range(MIB // 1000)},
    "set": lambda: {*range(1000, 1000 + MIB // 100)},
    "deque": lambda: deque(bytes(1000) for _ in range(MIB // 1000)),
    "nested": lambda: [[bytes(MIB // 4)] for _ in range(4)],
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_no_kind_of_value_runs_away(make: Callable[[], Any]) -> None:
    """A capture of large values stops, of whatever kind they are."""
    cap = capture(hold, "held", limit="2MiB").open()
    with pytest.warns(LimitWarning):
        sum(hold(make()) for _ in range(10))
    cap.close()
    assert 1 <= len(cap) <= 3


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_size_of_a_value_is_what_python_holds(make: Callable[[], Any]) -> None:
    """To a third, as the first items of a container stand for all."""
    value = make()
    # Text itself refuses to tell.
    size = sys.getsizeof(str(value) if type(value) is Text else value)
    items = value.values() if isinstance(value, dict) else value
    if isinstance(value, (list, tuple, dict, set, deque)):
        size += sum(map(sys.getsizeof, items))
        size += sum(sys.getsizeof(part) for item in items if isinstance(item, list) for part in item)
    size += value.nbytes if isinstance(value, memoryview) else 0
    assert held(value) == pytest.approx(size, rel=0.3)


def test_images_count_by_their_pixels() -> None:
    """Pillow keeps them outside of the object; one in colours takes four bytes for each."""
    image = pytest.importorskip("PIL.Image")
    sizes = {mode: held(image.new(mode, (300, 200))) for mode in ("1", "L", "RGB", "RGBA", "F")}
    assert sizes == {"1": 60_000, "L": 60_000, "RGB": 240_000, "RGBA": 240_000, "F": 240_000}


def test_an_object_that_claims_less_than_nothing_counts_nothing() -> None:
    """It cannot make room for others."""

    class Lying:
        nbytes = -(10**30)

    assert held([Lying(), bytes(1000)]) >= 1000


def test_small_values_are_bounded_by_their_number() -> None:
    """Each of them takes less than its record."""
    with capture(hold, "held", limit=1000) as cap:
        for number in range(500):
            hold(number)
    assert len(cap) == 500
