"""Every test of core finds the process as it was, and leaves it so."""

from __future__ import annotations

import base64
import gc
import importlib.util
import io
from typing import TYPE_CHECKING, Any

import pytest

from anylocal import get_local
from anylocal._engine import get_local as marks_of
from anylocal._engine import patch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

    from anylocal.view import Page

# Core is tested without torch as well, where it must not be needed; what these files are about needs it.
collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_attention_*.py"]


@pytest.fixture(autouse=True)
def nothing_is_left_patched() -> Iterator[None]:
    """Take back marks, the cache and patches; a test that left a function patched fails."""
    marks = dict(marks_of._marks)
    yield
    get_local.deactivate()
    for function in [function for function in marks_of._marks if function not in marks]:
        marks_of.unmark(function)
    for each in (get_local.cache._log, get_local.cache._lists, get_local.cache._of):
        each.clear()
    if patch._patched:
        # A capture in the cycle of an exception and its traceback closes when that is collected.
        gc.collect()
    left = list(patch._patched.values())
    for entry in left:
        patch.detach(tuple(entry.subscriptions))
    assert not left, f"Left patched: {[entry.function.__qualname__ for entry in left]}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    # Core is tested without torch as well, which pages need.
    from anylocal.testing import browser

    with browser() as opened:
        yield opened


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Iterator[Any]:
    """Open a page at an address of its own, which must end without errors."""
    errors: list[str] = []
    tabs: list[Tab] = []

    def shown(page: Page, hash_: str = "") -> Tab:
        tab = chromium.new_page(viewport={"width": 1400, "height": 900})
        tabs.append(tab)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(page.save(tmp_path / "page.html").as_uri() + hash_)
        tab.wait_for_selector("html[data-drawn]")
        return tab

    yield shown
    for tab in tabs:
        tab.close()
    assert errors == []


@pytest.fixture
def pixels() -> Any:
    """Return a function that reads the pixels of a canvas, (height, width, 4)."""
    import numpy as np
    from PIL import Image

    def read(tab: Tab, selector: str) -> Any:
        address = tab.locator(selector).evaluate("node => node.toDataURL()")
        image = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
        return np.asarray(image.convert("RGBA")).astype(int)

    return read
