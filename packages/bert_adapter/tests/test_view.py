"""The interactive page of a real BERT, in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from anylocal.testing import browser
from anylocal_bert import capture_text, explore, plot
from anylocal_bert.cli.demo import load

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["The animal didn't cross the street because it was unbelievably tired.", "A shorter one: </script>!"]


@pytest.fixture(scope="module")
def maps() -> Any:
    reader = load(None)
    return capture_text(reader.model, reader.tokenizer, TEXTS)


def test_the_page_shows_what_a_token_attends_to(maps: Any, tmp_path: Path) -> None:
    """The strongest keys of the token under the pointer are the map's, and the Python call draws the same row."""
    page = explore(maps)
    with browser() as chromium:
        tab = chromium.new_page(viewport={"width": 1400, "height": 900})
        tab.goto(page.save(tmp_path / "attention.html").as_uri())
        tab.wait_for_selector("html[data-drawn]")
        position = maps[-1].queries.position("it")
        tab.locator("#to .token").nth(position).hover()
        label, weight = (tab.locator("#list li").first.text_content() or "").rsplit(None, 1)
        call = tab.locator("#call").text_content() or ""
    row = maps[-1].head_mean(position)[0]
    assert float(weight) == pytest.approx(float(row.max()), abs=page.error + 5e-4)
    assert label.strip() == maps[-1].keys.label(int(row.argmax()))
    ax = eval(call, {"plot": plot, "maps": maps})  # noqa: S307  # what the page tells the user to run
    assert np.allclose(np.ravel(ax.images[0].get_array()), row, atol=1e-6)
    plt.close("all")


def test_a_shorter_text_stands_without_its_padding(maps: Any, tmp_path: Path) -> None:
    """The second text of the batch has its own tokens, hostile ones too, and no padding."""
    with browser() as chromium:
        tab = chromium.new_page()
        tab.goto(explore(maps, layers=-1).save(tmp_path / "attention.html").as_uri())
        tab.wait_for_selector("html[data-drawn]")
        tab.locator("#sample").select_option("1")
        tab.locator(".token", has_text="shorter").wait_for()
        found = tab.locator("#to .token").all_text_contents()
    axis = maps[-1].keys
    kept = ~axis.is_padding(1)
    assert found == [label for label, shown in zip(axis.labels(1), kept, strict=True) if shown]
    assert not kept.all()
