"""Models that read images and a text, on the interactive page: each patch where the model saw it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import anylocal_bert
from anylocal.attention import AttentionMap, AttentionMaps, Tokens
from anylocal.testing import browser
from anylocal_bert import explore, plot

from .media_types import Names
from .test_media import generated, kind_of, noise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def captured(name: str) -> tuple[AttentionMaps, list[Any]]:
    """Return the maps of two texts, padded on the left, of which the first has two images; and of a vision tower."""
    kind = kind_of(name)
    model, images = kind.model(), noise(kind.sizes)
    names: Any = Names()
    given = kind.inputs(model, images)
    with anylocal_bert.capture_attention(model, tokenizer=names) as maps, torch.no_grad():
        model(**given)
    return maps, images


def opened(chromium: Browser, tmp_path: Path, page: Any) -> Tab:
    tab = chromium.new_page(viewport={"width": 1400, "height": 900})
    tab.goto(page.save(tmp_path / "page.html").as_uri())
    tab.wait_for_selector("html[data-drawn]")
    return tab


def shares(tab: Tab) -> dict[str, float]:
    """Return what the page says that each image gets."""
    told = tab.locator("#to .media h3").all_text_contents()
    pairs = (text.removesuffix(" of the attention").split(": ") for text in told)
    return {name: float(number) for name, number in pairs}


def read(tab: Tab, exact: Any, error: float) -> Any:
    """Return the row of the page, which is the map's but for its rounding."""
    row = np.array(tab.evaluate("async () => Array.from(await anylocal.row())"))
    assert np.abs(row - exact).max() <= error + 1e-6
    return row


@pytest.mark.parametrize("name", ["LLaVA", "Qwen2-VL", "LLaVA-NeXT", "Idefics3"])
def test_a_word_and_a_patch_have_the_weights_of_the_map(name: str, chromium: Browser, tmp_path: Path) -> None:
    """What the last token gives to each view of each image, and what attends to the last patch of one of them."""
    maps, images = captured(name)
    attention = maps[-1]
    assert isinstance(attention.keys, Tokens)
    page = explore(maps, images=[images[:2], images[2:]])
    tab = opened(chromium, tmp_path, page)
    last = len(attention.keys) - 1
    for sample in (0, 1):
        tab.evaluate("given => anylocal.setState(given)", {"sample": sample, "query": last, "way": "query"})
        row = read(tab, attention.numpy()[sample, :, last].mean(0), page.error)
        media = [item for item in attention.keys.media if item.text == sample]
        expected = {
            f"image {item.source}{f' {item.view}' if item.view else ''}": item.picture(row).sum() for item in media
        }
        assert shares(tab) == pytest.approx(expected, abs=1e-3)
        canvas = tab.locator("#to .media canvas").nth(len(media) - 1)
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        rows, columns = media[-1].grid
        tab.mouse.move(box["x"] + (1 - 0.5 / columns) * box["width"], box["y"] + (1 - 0.5 / rows) * box["height"])
        tab.wait_for_function("() => anylocal.state().way === 'key'")
        position = media[-1].at(rows - 1, columns - 1)
        assert tab.evaluate("anylocal.state().key") == position
        column = attention.numpy()[sample, :, :, position].mean(0)
        # Rows of padding are hidden.
        column = np.where(attention.keys.is_padding(sample), 0, column)
        weight = float((tab.locator("#list li").first.text_content() or "").rsplit(None, 1)[1])
        assert weight == pytest.approx(column.max(), abs=page.error + 5e-4)
        tab.mouse.move(0, 0)
    tab.close()


def test_the_steps_of_a_generation_look_at_the_images(chromium: Browser, tmp_path: Path) -> None:
    """The slider of steps lights the images by the row of each."""
    kind = kind_of("LLaVA")
    model, images = kind.model(), noise(kind.sizes)
    given = kind.inputs(model, images)
    first = {name: value[:1] for name, value in given.items() if name != "pixel_values"}
    maps = generated(model, first | {"pixel_values": given["pixel_values"][:2]}).generation()
    joined = AttentionMaps(each for each in maps if isinstance(each.keys, Tokens))
    page = explore(joined, images=images[:2])
    tab = opened(chromium, tmp_path, page)
    attention = joined[-1]
    assert isinstance(attention.keys, Tokens)
    for step in (0, 2):
        tab.locator("#step").fill(str(step))
        tab.wait_for_function(
            "step => document.getElementById('step-text').textContent.startsWith(step)", arg=f"{step + 1} of 3"
        )
        query = tab.evaluate("anylocal.state().query")
        row = read(tab, np.asarray(attention[0, :, query].mean(0)), page.error)
        expected = {f"image {item.source}": item.picture(row).sum() for item in attention.keys.media}
        assert shares(tab) == pytest.approx(expected, abs=1e-3)
    tab.close()


def test_the_python_call_draws_the_word_over_the_image(chromium: Browser, tmp_path: Path) -> None:
    """What the page tells the user to run."""
    import matplotlib.pyplot as plt

    maps, images = captured("LLaVA")
    tab = opened(chromium, tmp_path, explore(maps, images=[images[:2], images[2:]]))
    last = len(maps[-1].queries) - 1
    tab.evaluate("query => anylocal.setState({sample: 1, head: 2, query})", last)
    call = tab.locator("#call").text_content() or ""
    tab.close()
    ax = eval(call, {"plot": plot, "maps": maps, "image": images[2]})  # noqa: S307  # what the page tells the user to run
    attention: AttentionMap = maps[-1]
    assert isinstance(attention.keys, Tokens)
    (item,) = (item for item in attention.keys.media if item.text == 1)
    expected = item.picture(attention.numpy()[1, 2, last])
    assert np.allclose(np.asarray(ax.images[1].get_array()).reshape(expected.shape), expected)
    plt.close("all")


def test_the_whole_model_is_shown_with_its_vision_tower(chromium: Browser, tmp_path: Path) -> None:
    """Of one image and one text, all layers are on the page, and the tower's patches lie over the image too."""
    kind = kind_of("LLaVA")
    model, images = kind.model(), noise(kind.sizes)
    given = kind.inputs(model, images)
    kept = given["attention_mask"][1:].bool()
    one = {name: value[1:][kept][None] for name, value in given.items() if name in {"input_ids", "attention_mask"}}
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        model(**one, pixel_values=given["pixel_values"][2:])
    tab = opened(chromium, tmp_path, explore(maps, images=images[2]))
    assert tab.locator("#to .media canvas").count() == 1
    tab.evaluate("anylocal.setState({layer: 0})")
    assert not tab.locator("#to .media").is_visible()
    assert tab.locator("#to > canvas").is_visible()
    tab.close()
