"""Every test of core finds the process as it was, and leaves it so."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator

import pytest

from anylocal import _get_local, _patch, get_local

# Core is tested without torch as well, where it must not be needed; what these files are about needs it.
collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_attention_*.py"]


@pytest.fixture(autouse=True)
def nothing_is_left_patched() -> Iterator[None]:
    """Take back marks, the cache and patches; a test that left a function patched fails."""
    marks = dict(_get_local._marks)
    yield
    get_local.deactivate()
    for function in [function for function in _get_local._marks if function not in marks]:
        _get_local.unmark(function)
    for each in (get_local.cache._log, get_local.cache._lists, get_local.cache._of):
        each.clear()
    if _patch._patched:
        # A capture in the cycle of an exception and its traceback closes when that is collected.
        gc.collect()
    left = list(_patch._patched.values())
    for entry in left:
        _patch.detach(tuple(entry.subscriptions))
    assert not left, f"Left patched: {[entry.function.__qualname__ for entry in left]}"
