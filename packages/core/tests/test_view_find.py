"""Finding a token of a long text in the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import torch

from anylocal.attention import AttentionMap, Tokens
from anylocal.testing import browser
from anylocal.view import explore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page as Tab

WORDS = [f"w{at}" for at in range(600)]
WORDS[40] = WORDS[300] = "Whale"
WORDS[599] = "<b>whales"


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    axis = Tokens(WORDS)
    weights = torch.full((1, 1, 600, 600), 1 / 600)
    page = explore(AttentionMap.from_weights(weights, queries=axis, keys=axis))
    with browser() as chromium:
        opened = chromium.new_page(viewport={"width": 1400, "height": 900})
        opened.goto(page.save(tmp_path / "page.html").as_uri())
        opened.wait_for_selector("html[data-drawn]")
        opened.evaluate("anylocal.setState({query: 200})")
        yield opened


def asked(tab: Tab) -> tuple[str, str]:
    return tab.input_value("#query"), tab.locator("#found").inner_text()


def test_tokens_are_found_one_after_the_other(tab: Tab) -> None:
    """Whatever their case, from the present one on, by Enter and back, and past the end from the start again."""
    tab.locator("#find").fill("whale")
    seen = [asked(tab)]
    for key in ("Enter", "Enter", "Shift+Enter", "Shift+Enter"):
        tab.locator("#find").press(key)
        seen.append(asked(tab))
    assert seen == [("300", "2 of 3"), ("599", "3 of 3"), ("40", "1 of 3"), ("599", "3 of 3"), ("300", "2 of 3")]


def test_a_found_token_is_brought_into_sight(tab: Tab) -> None:
    """The line of tokens scrolls to it."""
    tab.locator("#find").fill("<b>")
    token, line = (tab.locator(name).bounding_box() for name in ("#to .chosen", "#to .tokens"))
    assert token
    assert line
    assert line["y"] <= token["y"] <= line["y"] + line["height"]


def test_what_is_not_there_is_said(tab: Tab) -> None:
    """The query stays, and nothing is said of no text."""
    tab.locator("#find").fill("shark")
    assert asked(tab) == ("200", "not found")
    tab.locator("#find").fill("")
    assert asked(tab) == ("200", "")
