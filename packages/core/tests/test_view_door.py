"""The page for other scripts, `globalThis.anylocal`, its address, and what attends to a position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import matplotlib.pyplot as plt
import torch

from anylocal import plot
from anylocal.attention import AttentionMap, AttentionMaps, Patches, PlacedPatches, Tokens, merge_words
from anylocal.view import explore

if TYPE_CHECKING:
    from playwright.sync_api import Page as Tab


def make(name: str = "layer", *, seed: int = 0, shape: tuple[int, ...] = (1, 3, 6, 6), **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    return AttentionMap.from_weights((2 * torch.randn(shape, generator=generator)).softmax(-1), name=name, **options)


def long(heads: int = 2, length: int = 80, **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(0)
    q, k = (2 * torch.randn(1, heads, length, 8, generator=generator) for _ in range(2))
    return AttentionMap.from_qk(q, k, **options)


LETTERS = Tokens(list("abcdef"))


def row(tab: Tab, given: dict[str, Any], name: str = "row") -> torch.Tensor:
    found = tab.evaluate("async ([name, given]) => Array.from(await anylocal[name](given))", [name, given])
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("attention", [make(shape=(1, 3, 90, 90)), long(causal=True)], ids=["stored", "computed"])
def test_rows_and_columns_are_read_by_a_script(show: Any, attention: AttentionMap) -> None:
    """Of stored maps and of computed ones, of one head and of all."""
    page = explore(attention)
    tab = show(page)
    exact = attention.tensor()[0].double()
    for head in (1, "mean", "max"):
        together = {"mean": exact.mean(0), "max": exact.amax(0)}.get(str(head), exact[1])
        for position in (0, 33, exact.shape[1] - 1):
            found = row(tab, {"head": head, "query": position})
            assert torch.allclose(found, together[position], atol=page.error + 1e-6)
            found = row(tab, {"head": head, "key": position}, "column")
            assert torch.allclose(found, together[:, position], atol=page.error + 1e-6)


def test_a_script_names_layers_and_samples_as_python_does(show: Any) -> None:
    """A layer by its name or number on the page, a sample by its number in the batch; the picture stays."""
    maps = AttentionMaps(make(f"blocks.{at}", seed=at, shape=(3, 2, 5, 5)) for at in range(3))
    page = explore(maps, layers=[0, 2], samples=[2, 0])
    tab = show(page)
    before = tab.evaluate("anylocal.state()")
    for layer in (1, "blocks.2"):
        found = row(tab, {"layer": layer, "head": 1, "query": 4, "sample": 0})
        assert torch.allclose(found, maps[2][0, 1, 4].double(), atol=page.error + 1e-6)
    assert tab.evaluate("anylocal.state()") == before
    assert (before["layer"], before["sample"]) == (1, 2)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"head": 3}, "head is 3; there are 0 … 2."),
        ({"query": 6}, "query is 6; there are 0 … 5."),
        ({"layer": "blocks.7"}, 'layer is "blocks.7"; there is only 0.'),
        ({"sample": 4}, "sample is 4; there are 0."),
        ({"norm": "cubic"}, 'norm is "cubic"; there are default, linear, sqrt, log, rank.'),
        ({"quary": 1}, 'a name is "quary"; there are layer, head,'),
    ],
)
def test_what_the_page_has_not_is_refused(show: Any, given: dict[str, Any], told: str) -> None:
    """The promise fails with what there is."""
    tab = show(explore(make()))
    found = tab.evaluate("given => anylocal.setState(given).then(() => '', error => error.message)", given)
    assert told in found


def test_a_script_sets_the_picture(show: Any) -> None:
    """After its promise, the picture is drawn, and the controls agree."""
    maps = AttentionMaps(make(f"blocks.{at}", seed=at, queries=LETTERS, keys=LETTERS) for at in range(2))
    tab = show(explore(maps))
    tab.evaluate("anylocal.setState({layer: 'blocks.0', head: 2, query: 4, norm: 'log', strongest: 2})")
    assert tab.locator("#heading").text_content() == "blocks.0, head 2"
    assert tab.locator("#asked").text_content() == "What “e” attends to"
    assert tab.locator("#list li").count() == 2
    assert [tab.input_value(f"#{name}") for name in ("layer", "head", "query", "norm")] == ["0", "2", "4", "log"]


def test_a_link_shows_the_same_picture(show: Any) -> None:
    """The address has what was chosen, and no more; a page opened at it shows this."""
    maps = AttentionMaps(make(f"blocks.{at}", seed=at, queries=LETTERS, keys=LETTERS) for at in range(2))
    page = explore(maps)
    tab = show(page)
    assert tab.evaluate("location.hash") == ""
    tab.locator("#head").select_option("2")
    tab.locator("#query").fill("1")
    tab.wait_for_function("() => location.hash.includes('query=1') && location.hash.includes('head=2')")
    address = tab.evaluate("location.hash")
    assert "layer" not in address
    other = show(page, address)
    assert other.locator("#heading").text_content() == "blocks.1, head 2"
    assert other.locator("#asked").text_content() == "What “b” attends to"
    other.evaluate("location.hash = '#layer=0&special=true'")
    other.wait_for_function("() => document.getElementById('heading').textContent.startsWith('blocks.0')")


def test_an_address_of_another_page_says_so(show: Any) -> None:
    """What is not there is told, and the picture is that of no address."""
    tab = show(explore(make()), "#layer=7")
    assert tab.locator("#problem").text_content() == 'anylocal: layer is "7"; there is only 0.'
    assert tab.locator("#heading").text_content() == "layer, mean of 3 heads"


def of_blocks(*names: str) -> AttentionMaps:
    return AttentionMaps(make(name, seed=at, queries=LETTERS, keys=LETTERS) for at, name in enumerate(names))


def test_a_layer_in_the_address_has_the_number_that_its_row_shows(show: Any) -> None:
    """That of the model; its name will do as well. A script numbers the layers of the page."""
    maps = of_blocks(*(f"blocks.{at}.attn" for at in range(12)))
    page = explore(maps, layers=[0, 6, 11])
    tab = show(page, "#layer=6")
    assert tab.locator("#problem").text_content() == ""
    assert tab.locator("#heading").text_content() == "blocks.6.attn, mean of 3 heads"
    assert tab.evaluate("anylocal.state().layer") == 1
    tab.evaluate("anylocal.setState({layer: 0})")
    tab.wait_for_function("() => location.hash === '#layer=0'")
    tab.evaluate("location.hash = '#layer=blocks.6.attn'")
    tab.wait_for_function("() => anylocal.state().layer === 1")
    tab.evaluate("location.hash = '#layer=1'")
    tab.wait_for_selector("#problem:not([hidden])")
    assert tab.locator("#problem").text_content() == 'anylocal: layer is "1"; there are 0, 6, 11.'


def test_a_layer_without_a_number_is_named_in_the_address(show: Any) -> None:
    """Where names differ in more than a number, and rows are counted."""
    page = explore(of_blocks("encoder.first", "decoder.second"))
    tab = show(page, "#layer=encoder.first")
    assert tab.locator("#heading").text_content() == "encoder.first, mean of 3 heads"
    tab.evaluate("anylocal.setState({head: 2})")
    tab.wait_for_function("() => location.hash.includes('head=2')")
    assert "layer=encoder.first" in show(page, tab.evaluate("location.hash")).evaluate("location.hash")


def strongest(tab: Tab) -> dict[str, float]:
    lines = [text.rsplit(None, 1) for text in tab.locator("#list li").all_text_contents()]
    return {label.strip(): float(weight) for label, weight in lines}


def set_way(tab: Tab) -> None:
    tab.locator("#way").select_option("key")
    tab.wait_for_function("() => document.getElementById('asked').textContent.startsWith('What attends to')")


def test_what_attends_to_a_token_is_its_column(show: Any) -> None:
    """The weights of all queries at one key, in the list, over the tokens, and as a column in the map."""
    attention = make(queries=LETTERS, keys=LETTERS)
    page = explore(attention)
    tab = show(page)
    set_way(tab)
    tab.locator("#to .token").nth(2).click()
    column = attention[0].mean(0)[:, 2]
    assert tab.locator("#asked").text_content() == "What attends to “c”"
    found = strongest(tab)
    order = column.argsort(descending=True)[:5].tolist()
    assert found == pytest.approx({"abcdef"[at]: float(column[at]) for at in order}, abs=page.error + 5e-4)
    band, whole = (tab.locator(f"#{name}").bounding_box() for name in ("band", "map"))
    assert band["height"] == pytest.approx(whole["height"], abs=1)
    assert band["x"] - whole["x"] == pytest.approx(2 / 6 * whole["width"], abs=1)


def test_what_attends_to_a_key_of_another_side(show: Any) -> None:
    """Where queries and keys differ, the key is chosen among the keys, and the queries have the weights."""
    attention = make(shape=(1, 1, 2, 3), queries=Tokens(["q0", "q1"]), keys=Tokens(["k0", "k1", "k2"]))
    page = explore(attention)
    tab = show(page)
    set_way(tab)
    tab.locator("#to .token").nth(1).hover()
    expected = {f"q{at}": float(attention[0, 0, at, 1]) for at in range(2)}
    assert strongest(tab) == pytest.approx(expected, abs=page.error + 5e-4)
    assert tab.locator("#to .chosen").all_text_contents() == ["k1"]


def test_what_attends_to_a_word_is_that_of_merged_words(show: Any) -> None:
    """Attention to a word is the sum over its tokens, attention from a word the mean."""
    axis = Tokens(["[CLS]", "un", "##believ", "##able", "story", "[SEP]"], words=[None, 0, 0, 0, 1, None])
    attention = make(queries=axis, keys=axis)
    page = explore(attention)
    tab = show(page)
    set_way(tab)
    tab.locator("#words").set_checked(True)
    tab.wait_for_function("() => document.querySelectorAll('#to .token').length === 4")
    tab.locator("#to .token").nth(1).click()
    merged = merge_words(attention)
    column = merged[0].mean(0)[:, 1]
    expected = dict(zip(merged.keys.labels(), column.tolist(), strict=True))
    assert strongest(tab) == pytest.approx(expected, abs=3 * page.error + 5e-4)


def test_what_attends_to_a_patch_of_a_window(show: Any) -> None:
    """A place of the image chooses the window, and its queries have the weights."""
    axis = PlacedPatches((1, 4), [[0, 1], [2, 3]])
    attention = make(shape=(2, 1, 2, 2), windows=2, queries=axis, keys=axis)
    page = explore(attention)
    tab = show(page)
    set_way(tab)
    box = tab.locator("#to canvas").bounding_box()
    tab.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"])
    expected = {axis.label(at, 1): float(attention[1, 0, at, 1]) for at in range(2)}
    assert strongest(tab) == pytest.approx(expected, abs=page.error + 5e-4)


@pytest.mark.parametrize("head", ["1", "mean", "max"])
def test_the_python_call_draws_the_column(show: Any, head: str) -> None:
    """The call on the page draws what attends to the position."""
    maps = AttentionMaps([make("a", queries=LETTERS, keys=LETTERS)])
    tab = show(explore(maps))
    set_way(tab)
    tab.locator("#head").select_option(head)
    tab.locator("#query").fill("3")
    tab.wait_for_function("() => document.getElementById('asked').textContent === 'What attends to “d”'")
    tab.wait_for_function("head => document.getElementById('heading').textContent.includes(head)", arg=head)
    ax = eval(tab.locator("#call").text_content(), {"plot": plot, "maps": maps})  # noqa: S307  # what the page tells the user to run
    exact = {"mean": maps[0][0].mean(0), "max": maps[0][0].amax(0)}.get(head, maps[0][0, 1])
    assert np.allclose(np.asarray(ax.images[0].get_array()).ravel(), exact[:, 3])
    plt.close("all")


def test_a_long_map_is_drawn_in_cells(show: Any) -> None:
    """A row for one query of several, a cell for several keys; the class token has its own, and rows are complete."""
    axis = Patches((21, 31))
    attention = long(1, 652, queries=axis, keys=axis)
    page = explore(attention)
    tab = show(page)
    width, height = (tab.locator("#map").evaluate(f"node => node.{side}") for side in ("width", "height"))
    assert (width, height) == (327, 327)
    assert tab.locator("#map-note").text_content() == "One query of 2 is drawn; a cell is the mean of 2 keys"
    box = tab.locator("#map").bounding_box()
    tab.mouse.move(box["x"] + 400.5 / 652 * box["width"], box["y"] + 300.5 / 652 * box["height"])
    label, weight = tab.locator("#readout").text_content().split(": ")
    row_, column = (axis.labels().index(each) for each in label.split(" → "))
    assert (abs(row_ - 300), abs(column - 400)) <= (1, 1)
    assert float(weight) == pytest.approx(float(attention[0, 0, row_, column]), abs=page.error + 5e-4)
