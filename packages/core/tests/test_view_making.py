"""How one weight comes about, in the page: the numbers of `AttentionMap.explain`, opened by a click."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import torch

from anylocal.attention import AttentionMap, Patches, Tokens
from anylocal.view import explore

if TYPE_CHECKING:
    from playwright.sync_api import Page as Tab

    from anylocal.attention import Explanation

LENGTH = 80


def make(groups: int = 2, **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, LENGTH, 9, generator=generator)
    k = torch.randn(1, groups, LENGTH, 9, generator=generator)
    # What all have in common is taken off, and has to come back.
    return AttentionMap.from_qk(q + 1, k - 2, name="layer", **options)


def table(tab: Tab, name: str) -> dict[str, float]:
    rows = tab.locator(f"#making-{name} tr")
    cells = [rows.nth(at).locator("th, td").all_text_contents() for at in range(rows.count())]
    return {label: float(value.replace("−", "-")) for label, value, _ in cells}


def assert_explained(tab: Tab, expected: Explanation) -> None:
    """Compare the open dialog with what Python says."""
    order = expected.products.abs().argsort(descending=True)[:8].tolist()
    channels = {f"channel {at}": float(expected.products[at]) for at in order}
    rest = float(expected.products.sum()) - sum(channels.values())
    assert table(tab, "channels") == pytest.approx(channels | {"1 others": rest}, abs=0.05)
    assert table(tab, "terms") == pytest.approx({term.key: term.weight for term in expected.terms}, abs=0.005)
    numbers = [float(text.replace("−", "-")) for text in re.findall(r"[-−]?\d[\d.]*", line(tab))]
    added = [] if expected.added == 0 else [abs(expected.added)]
    made = [float(expected.products.sum()), expected.scale, *added, expected.score, expected.score, expected.total]
    assert numbers == pytest.approx([*made, expected.weight], abs=0.05)


def line(tab: Tab) -> str:
    # A sign before a number with a space between them is an operation.
    return re.sub(r"[-−+] ", "", tab.locator("#making-line").inner_text())


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "bias of keys": {"mask": torch.linspace(-2, 0, LENGTH)[None, None, None]},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_weight_of_the_list_is_explained(show: Any, name: str) -> None:
    """By channel, with scale, mask and softmax, as in Python; Escape closes it."""
    attention = make(**OPTIONS[name])
    tab = show(explore(attention))
    tab.evaluate("anylocal.setState({head: 3, query: 50})")
    key = int(attention[0, 3, 50].argmax())
    tab.locator("#list button").first.click()
    assert tab.locator("#making-title").inner_text().startswith(f"50 → {key}: ")
    assert_explained(tab, attention.explain(50, key, 3))
    tab.keyboard.press("Escape")
    assert not tab.locator("#making").is_visible()


def test_what_can_be_done_is_said(show: Any) -> None:
    """Which positions choose what, and that a weight can be clicked, if any is listed."""
    tab = show(explore(AttentionMap.from_weights(torch.eye(7), queries=Patches((2, 3)), keys=Patches((2, 3)))))
    hint = tab.locator("#hint")
    choose = "Point at a patch (row, column) to choose the query"
    assert hint.inner_text() == f"{choose}; click a weight to see how it comes about."
    tab.evaluate("anylocal.setState({way: 'key', strongest: 0})")
    assert hint.inner_text() == f"{choose.replace('query', 'key')}."


def test_a_cell_of_the_map_is_explained(show: Any) -> None:
    """Of heads together, it has their number, and explains the head in which the weight is greatest, or any other."""
    attention = make()
    tab = show(explore(attention))
    box = tab.locator("#map").bounding_box()
    tab.mouse.click(box["x"] + 20.5 / LENGTH * box["width"], box["y"] + 60.5 / LENGTH * box["height"])
    head = int(attention[0, :, 60, 20].argmax())
    assert (
        tab.locator("#making-place").inner_text()
        == f"layer, head {head}: of the 4 heads, the one with the greatest weight here"
    )
    mean = float(attention[0, :, 60, 20].mean())
    title, number, together = re.split(r": |, ", tab.locator("#making-title").inner_text())
    assert (title, together) == ("60 → 20", "mean of 4 heads")
    assert float(number) == pytest.approx(mean, abs=5e-4)
    assert number in tab.locator("#readout").inner_text()
    call = tab.locator("#making-call").inner_text()
    assert_explained(tab, eval(call, {"maps": {"layer": attention}}))  # noqa: S307  # what the page tells the user to run


def test_each_head_of_several_is_explained(show: Any) -> None:
    """The list has the weight of each, and the one that is chosen in it, by keyboard too, is explained."""
    attention = make()
    tab = show(explore(attention))
    tab.evaluate("anylocal.setState({head: 'max', query: 60})")
    tab.locator("#list button").first.click()
    key = int(attention[0, :, 60].amax(0).argmax())
    told = [text.split(": ") for text in tab.locator("#making-head option").all_text_contents()]
    assert [head for head, _ in told] == ["0", "1", "2", "3"]
    weights = attention[0, :, 60, key].tolist()
    assert [float(weight) for _, weight in told] == pytest.approx(weights, abs=5e-3)
    other = int(attention[0, :, 60, key].argmin())
    tab.locator("#making-head").select_option(str(other))
    tab.wait_for_function(
        "head => document.getElementById('making-place').textContent === `layer, head ${head}`", arg=other
    )
    assert_explained(tab, attention.explain(60, key, other))
    assert tab.locator("#making-title").inner_text().endswith(", max of 4 heads")


def test_one_head_has_no_list_of_heads(show: Any) -> None:
    """There is nothing to choose."""
    tab = show(explore(make()))
    tab.evaluate("anylocal.setState({head: 1})")
    tab.locator("#list button").first.click()
    assert not tab.locator("#making-head").is_visible()


def test_a_hidden_key_is_said_to_be_hidden(show: Any) -> None:
    """The mask, not the product, makes its weight 0."""
    tab = show(explore(make(causal=True)))
    box = tab.locator("#map").bounding_box()
    tab.mouse.click(box["x"] + 60.5 / LENGTH * box["width"], box["y"] + 20.5 / LENGTH * box["height"])
    assert tab.locator("#making-line").inner_text().endswith("the mask hides this key from the query: 0")


def test_what_attends_to_a_key_is_explained(show: Any) -> None:
    """The listed position is the query then."""
    attention = make()
    tab = show(explore(attention))
    tab.evaluate("anylocal.setState({head: 0, way: 'key', key: 7})")
    query = int(attention[0, 0, :, 7].argmax())
    tab.locator("#list button").first.click()
    assert_explained(tab, attention.explain(query, 7, 0))


def test_of_stored_weights_only_the_row_is_told(show: Any) -> None:
    """The page has no query and key of them, and says so; tokens stay text."""
    axis = Tokens(["<b>x</b>", "y", "z"])
    weights = torch.tensor([[0.7, 0.2, 0.1]]).expand(3, 3)
    tab = show(explore(AttentionMap.from_weights(weights, queries=axis, keys=axis)))
    tab.locator("#list button").first.click()
    told = "This page holds the weights of this layer, but not its query and key."
    assert tab.locator("#making-line").inner_text() == told
    assert not tab.locator("#making-channels").is_visible()
    assert table(tab, "terms") == pytest.approx({"<b>x</b>": 0.7, "y": 0.2, "z": 0.1}, abs=0.005)
