"""The part of a long map near the query, whose labels can be read, in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import matplotlib as mpl
import torch

from anylocal.attention import AttentionMap, Tokens
from anylocal.view import explore

from .node import in_node

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page as Tab

LENGTH, NEAR = 600, 32
WORDS = Tokens([f"w{at}" for at in range(LENGTH)])


def long(**options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, LENGTH, 8, generator=generator) for _ in range(2))
    return AttentionMap.from_qk(q, k, **{"queries": WORDS, "keys": WORDS, **options})


def near(tab: Tab, query: int) -> None:
    tab.evaluate("query => anylocal.setState({near: true, query, head: 0})", query)


def test_a_long_text_has_labels_near_the_query(show: Any, pixels: Any) -> None:
    """The map shows 32 positions around it, cell by cell, with their labels in at least 8 pixels."""
    attention = long()
    tab = show(explore(attention))
    assert not tab.locator("#left").is_visible()
    tab.locator("#near").set_checked(True)
    near(tab, 300)
    size = "node => parseFloat(node.getContext('2d').font)"
    for side in ("left", "top"):
        assert tab.locator(f"#{side}").is_visible()
        assert tab.locator(f"#{side}").evaluate(size) >= 8
    part = attention[0, 0].numpy()[284:316, 284:316]
    table = np.asarray(mpl.colormaps["magma"](np.arange(256)))[:, :3]
    top = float(tab.locator("#map-ramp").get_attribute("data-top"))
    expected = 255 * table[np.rint(255 * np.sqrt(np.clip(part / top, 0, 1))).astype(int)]
    assert np.abs(pixels(tab, "#map")[..., :3] - expected).max() <= 8
    assert tab.locator("#map-note").text_content() == ""


def test_a_cell_near_the_query_is_read_out(show: Any) -> None:
    """The pointer finds the row and the column that are drawn there, and the band is at the query."""
    attention = long()
    tab = show(explore(attention))
    near(tab, 100)
    box = tab.locator("#map").bounding_box()
    tab.locator("#map").hover(position={"x": 2.5 / NEAR * box["width"], "y": 20.5 / NEAR * box["height"]})
    label, weight = tab.locator("#readout").text_content().split(": ")
    assert label == "w104 → w86"
    assert float(weight) == pytest.approx(float(attention[0, 0, 104, 86]), abs=1e-3)
    band = tab.locator("#band").bounding_box()
    assert band["y"] - box["y"] == pytest.approx(20 / NEAR * box["height"], abs=2)


def test_the_part_follows_the_query(show: Any) -> None:
    """It stays while the query is in it, moves when that leaves it, and ends where the text does."""
    tab = show(explore(long()))
    near(tab, 300)
    for query, first in ((315, 284), (316, 300), (599, 568), (0, 0)):
        tab.locator("#query").fill(str(query))
        tab.wait_for_function(
            "query => document.getElementById('asked').textContent === `What “w${query}” attends to`", arg=query
        )
        tab.wait_for_function(
            "share => Math.abs(parseFloat(document.getElementById('band').style.top) - share) < 0.01",
            arg=100 * (query - first) / NEAR,
        )


def test_another_text_is_shown_around_its_strongest(show: Any) -> None:
    """Where keys are those of another text, the part of these holds the strongest key."""
    keys = Tokens([f"k{at}" for at in range(LENGTH)])
    attention = long(keys=keys)
    tab = show(explore(attention))
    near(tab, 300)
    strongest = int(attention[0, 0, 300].argmax())
    box = tab.locator("#map").bounding_box()
    tab.locator("#map").hover(position={"x": 16.5 / NEAR * box["width"], "y": 16.5 / NEAR * box["height"]})
    assert tab.locator("#readout").text_content().startswith(f"w300 → k{min(max(strongest, 16), LENGTH - 16)}:")


IN_SIGHT = """span => {
  const [box, whole] = [span, span.parentElement].map((node) => node.getBoundingClientRect());
  return box.top >= whole.top && box.bottom <= whole.bottom;
}"""


def test_a_token_that_is_asked_for_is_scrolled_into_sight(show: Any) -> None:
    """At first, by a script, and by the slider."""
    tab = show(explore(long()))
    assert tab.locator("#to .chosen").evaluate(IN_SIGHT)
    tab.evaluate("anylocal.setState({query: 20})")
    assert tab.locator("#to .chosen").evaluate(IN_SIGHT)
    tab.locator("#query").fill("590")
    tab.wait_for_function("() => document.querySelector('#to .chosen').textContent === 'w590'")
    assert tab.locator("#to .chosen").evaluate(IN_SIGHT)


def test_lines_end_where_the_text_is_scrolled_away(show: Any, pixels: Any) -> None:
    """None comes from a token that is out of sight, and they are back with it."""
    attention = long()
    tab = show(explore(attention, layers=[0]))
    # Its strongest keys are near: lines are seen beside it.
    row = attention[0, 0]
    query = next(at for at in range(LENGTH) if at != row[at].argmax() and abs(int(row[at].argmax()) - at) < 8)
    tab.evaluate("query => anylocal.setState({query, strongest: 1})", query)
    tab.wait_for_function("() => document.querySelector('#to .chosen')")
    tab.locator("#to .tokens").evaluate("node => { node.scrollTop += 2000; }")
    tab.wait_for_function(BLANK)
    tab.locator("#to .tokens").evaluate("node => { node.scrollTop -= 2000; }")
    tab.wait_for_function(f"() => !({BLANK})()")


BLANK = """() => {
  const lines = document.getElementById("lines");
  return lines.getContext("2d").getImageData(0, 0, lines.width, lines.height).data.every((value) => value === 0);
}"""


def test_short_texts_have_nothing_to_leave_out(show: Any) -> None:
    """All of a short map has labels."""
    axis = Tokens(list("abcdef"))
    attention = AttentionMap.from_weights(torch.eye(6), queries=axis, keys=axis)
    tab = show(explore(attention))
    assert not tab.locator("#near-label").is_visible()
    near(tab, 3)
    assert tab.locator("#map").evaluate("node => node.width") == 6


def test_the_part_is_as_long_as_there_is_text(tmp_path: Path) -> None:
    """It starts at 0 at the beginning, and ends at the end."""
    code = """
    import { startOf } from "./scales.js";
    const made = given.map((each) => startOf(...each));
    """
    asked = [[600, 0, 0], [600, 599, 0], [600, 40, 20], [20, 7, 0], [600, 300, 0]]
    assert in_node(tmp_path, code, asked) == [0, 568, 20, 0, 284]
