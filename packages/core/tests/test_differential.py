"""Captures see what `sys.settrace` sees, and nobody sees captures."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from anylocal import Capture, capture, find
from anylocal._resolve import local_names

from . import oracle
from .samples import SAMPLES

RUNS = [
    pytest.param(sample.function, drive, id=f"{sample.function.__name__}-{i}")
    for sample in SAMPLES
    for i, drive in enumerate(sample.drives)
]
runs = pytest.mark.parametrize(("function", "drive"), RUNS)
Drive = Callable[[Any], Any]


@contextmanager
def everything(function: types.FunctionType, **options: Any) -> Iterator[Capture]:
    """Capture all names of a function, or nothing where it has none."""
    names = local_names(function)
    if not names:
        pytest.skip("It has no local variables.")
    cap = capture(function, *names, keep="graph", limit=None, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with cap:
            yield cap


@runs
def test_each_return_is_recorded_with_the_very_values_of_the_frame(function: types.FunctionType, drive: Drive) -> None:
    with everything(function) as cap:
        seen = oracle.watch(function, drive)
    assert [(call.line, dict(call.values)) for call in cap.calls] == [
        (r.line, {k: v for k, v in r.values.items() if k != "__class__"}) for r in seen.returns
    ]
    for call, returned in zip(cap.calls, seen.returns, strict=True):
        for name, value in call.values.items():
            assert value is returned.values[name], name


@runs
def test_results_and_exceptions_are_the_same(function: types.FunctionType, drive: Drive) -> None:
    expected = oracle.outcome(function, drive)
    with everything(function):
        assert oracle.outcome(function, drive) == expected

@runs
def test_results_and_exceptions_are_the_same_every(function: types.FunctionType, drive: Drive) -> None:
    expected = oracle.outcome(function, drive)
    with everything(function, every=True, edit={n:(lambda v: v) for n in local_names(function)}):
        assert oracle.outcome(function, drive) == expected

@runs
def test_tracers_see_the_same(function: types.FunctionType, drive: Drive) -> None:
    expected = oracle.watch(function, drive).events
    with everything(function):
        assert oracle.watch(function, drive).events == expected
