"""Pages of long maps in a real browser: what is drawn first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import torch

from anylocal.attention import AttentionMap, Patches
from anylocal.view import explore

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, FloatRect
    from playwright.sync_api import Page as Tab

# Told as soon as the page is not busy: what the canvas of the map has then.
SKETCHED = """
new MutationObserver((_, observer) => {
  observer.disconnect();
  const { width, height } = document.getElementById("map");
  const list = document.querySelectorAll("#list li").length;
  globalThis.sketch = { width, height, list, drawn: document.documentElement.dataset.drawn ?? "not yet" };
}).observe(document, { subtree: true, attributeFilter: ["data-sketched"] });
"""


def test_thumbnails_stand_for_a_long_map_until_it_is_drawn(chromium: Browser, tmp_path: Path) -> None:
    """The query is drawn with them, and all of it is there before the rows of the map are computed."""
    axis = Patches((21, 31))
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, len(axis), 8, generator=generator) for _ in range(2))
    page = explore(AttentionMap.from_qk(q, k, queries=axis, keys=axis))
    tab = chromium.new_page()
    tab.add_init_script(SKETCHED)
    tab.goto(page.save(tmp_path / "page.html").as_uri())
    tab.wait_for_selector("html[data-drawn]")
    cells = 1 + 39
    assert tab.evaluate("sketch") == {"width": cells, "height": cells, "list": 5, "drawn": "not yet"}
    assert tab.locator("#map").evaluate("node => node.width") == 327
    tab.close()


def box(tab: Tab, name: str) -> FloatRect:
    found = tab.locator(f"#{name}").bounding_box()
    assert found
    return found


def test_of_two_columns_both_are_used(chromium: Browser, tmp_path: Path) -> None:
    """On a tablet, the map is below the thumbnails, be they many or few, and the query stays beside it."""
    tab = chromium.new_page(viewport={"width": 1024, "height": 800})
    for layers in (1, 12):
        maps = [AttentionMap.from_weights(torch.rand(1, 6, 9, 9).softmax(-1), name=str(at)) for at in range(layers)]
        tab.goto(explore(maps).save(tmp_path / "page.html").as_uri())
        tab.wait_for_selector("html[data-drawn]")
        overview, stage, detail = (box(tab, name) for name in ("overview", "stage", "detail"))
        assert overview["y"] == stage["y"]
        assert overview["x"] == detail["x"] < stage["x"]
        gap = detail["y"] - overview["y"] - overview["height"]
        assert 0 < gap < 30
        tab.evaluate("scrollTo(0, document.body.scrollHeight)")
        tab.wait_for_function("() => document.getElementById('stage').getBoundingClientRect().top >= 0")
        tab.evaluate("scrollTo(0, 0)")
    tab.close()
