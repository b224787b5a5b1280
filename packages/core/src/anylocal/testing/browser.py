"""A real browser for the tests of pages: any installed Chromium."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# It runs as any user, without a screen, and looks for no updates.
_OPTIONS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def browser() -> Iterator[Browser]:
    """Open Chromium without a window; skip the test if Chromium or playwright is missing.

    Yields
    ------
    playwright.sync_api.Browser
        Closed after the `with` block.

    Examples
    --------
    >>> with browser() as chromium:                       # doctest: +SKIP
    ...     tab = chromium.new_page()
    ...     tab.goto("file:///tmp/attention.html")
    """
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, _NAMES)), playwright.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("No Chromium on PATH; install one, or run: playwright install chromium")
        opened = playwright.chromium.launch(executable_path=path, args=_OPTIONS)
        try:
            yield opened
        finally:
            opened.close()
