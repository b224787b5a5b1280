"""What adapters ask for: the value that a call of something gave a name, handed over with the call of the function."""

from __future__ import annotations

import contextlib
import types
from typing import Any

import pytest

from anylocal._capture import Capture
from anylocal._request import Request
from anylocal._resolve import Found, resolve
from anylocal._rewrite import Wants


def softmax(x: float) -> float:
    return x / 2


class Torch:
    softmax = staticmethod(softmax)

    def to(self, x: float) -> float:
        return x


torch = Torch()


def joined(function: Any, *returned: str, name: str = "attn") -> Capture:
    """Capture what `softmax` gave a name, besides names at the return."""
    assert isinstance(function, types.FunctionType)
    wants = Wants(returned, resulted=frozenset({(name, "softmax")}))
    return Capture(resolve(function), [Request(Found(function), wants, frozenset({name}))])


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
