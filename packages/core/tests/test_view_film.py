"""The samples of a batch as a filmstrip, and the steps of a generation as a slider, in a real browser."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import torch

from anylocal.attention import AttentionMap, AttentionMaps, Patches, Tokens
from anylocal.view import explore

AXIS = Patches((2, 3), prefix=(), image_size=(16, 24))


def make(shape: tuple[int, ...] = (3, 2, 6, 6), **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(0)
    return AttentionMap.from_weights((2 * torch.randn(shape, generator=generator)).softmax(-1), name="l", **options)


def test_a_sample_is_chosen_by_its_picture(show: Any, pixels: Any) -> None:
    """A click shows its map, over its image; there is no second list to choose from."""
    images = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(3, 3, 16, 24)
    attention = make(queries=AXIS, keys=AXIS)
    tab = show(explore(attention, images=images, samples=[2, 0]))
    assert [tab.locator("#film img").nth(at).get_attribute("alt") for at in range(2)] == ["Sample 2", "Sample 0"]
    light = pixels(tab, "#to canvas")[..., :3].min(-1).mean()
    tab.locator("#film label").nth(1).click()
    tab.wait_for_function("() => anylocal.state().sample === 0")
    assert not tab.locator("#sample").is_visible()
    row = torch.tensor(tab.evaluate("async () => Array.from(await anylocal.row({head: 1, query: 3}))"))
    assert torch.allclose(row, attention[0, 1, 3], atol=0.01)
    assert pixels(tab, "#to canvas")[..., :3].min(-1).mean() < light


def test_the_filmstrip_works_by_keyboard(show: Any) -> None:
    """Arrow keys move along it, and what is chosen elsewhere is marked in it."""
    tab = show(explore(make(queries=AXIS, keys=AXIS), images=torch.rand(3, 3, 16, 24)))
    tab.locator("#film input").first.focus()
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("() => anylocal.state().sample === 1")
    tab.evaluate("anylocal.setState({sample: 2})")
    assert tab.locator("#film input:checked").get_attribute("value") == "2"


def test_one_sample_and_texts_have_no_filmstrip(show: Any) -> None:
    """There is nothing to choose, or no picture of it."""
    one = show(explore(make((1, 2, 6, 6), queries=AXIS, keys=AXIS), images=torch.rand(3, 16, 24)))
    texts = show(explore(make()))
    assert not one.locator("#film").is_visible()
    assert not texts.locator("#film").is_visible()


def generated() -> AttentionMaps:
    """Return the maps of a prompt of two tokens and three steps after it."""
    words = ["the", "<i>cat</i>", "sat", "on", "it"]
    generator = torch.Generator().manual_seed(0)
    maps = []
    for forward, (start, end) in enumerate([(0, 2), (2, 3), (3, 4), (4, 5)]):
        scores = torch.randn(1, 2, end - start, end, generator=generator)
        queries, keys = Tokens(words[start:end], start=start), Tokens(words[:end])
        weights = scores.softmax(-1)
        maps.append(AttentionMap.from_weights(weights, name="l", queries=queries, keys=keys, forward=forward))
    return AttentionMaps(maps)


def test_a_slider_runs_over_the_steps_of_a_generation(show: Any) -> None:
    """Each step shows the row of the last token that it read, and the token that it wrote, as text."""
    maps = generated()
    page = explore(maps.generation())
    tab = show(page)
    told = []
    for step in range(4):
        tab.locator("#step").fill(str(step))
        tab.wait_for_function(
            "step => document.getElementById('step-text').textContent.startsWith(step)", arg=f"{step + 1} of 4"
        )
        told.append(tab.locator("#step-text").text_content())
        row = torch.tensor(tab.evaluate("async () => Array.from(await anylocal.row({head: 1}))"))
        assert torch.allclose(row[: 2 + step], maps.forwards[step][0][0, 1, -1], atol=0.01)
    assert told == [
        "1 of 4: reads “<i>cat</i>”, writes “sat”",
        "2 of 4: reads “sat”, writes “on”",
        "3 of 4: reads “on”, writes “it”",
        "4 of 4: reads “it”, writes the last token",
    ]
    assert tab.locator("#step-label i").count() == 0


def test_the_step_follows_the_query(show: Any) -> None:
    """A token that is pointed at belongs to the step that read it; the prompt to the first; a step asks for a query."""
    tab = show(explore(generated().generation()))
    tab.locator("#to .token").nth(3).hover()
    assert tab.locator("#step").input_value() == "2"
    tab.locator("#to .token").nth(0).hover()
    assert tab.locator("#step").input_value() == "0"
    tab.mouse.move(0, 0)
    tab.evaluate("anylocal.setState({way: 'key'})")
    tab.locator("#step").fill("3")
    tab.wait_for_function("() => document.getElementById('asked').textContent === 'What “it” attends to'")


def test_maps_of_one_forward_pass_have_no_steps(show: Any) -> None:
    """The slider is for generations."""
    assert not show(explore(make())).locator("#step-label").is_visible()
