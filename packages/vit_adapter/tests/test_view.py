"""The interactive page of timm's models, in a real browser: patches over the photograph, windows in their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import timm
import torch

from anylocal.testing import browser, perturb
from anylocal_vit import Photograph, capture_attention, explore, photograph, plot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Locator
    from playwright.sync_api import Page as Tab

    from anylocal.attention import AttentionMaps


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def look(name: str, **options: Any) -> tuple[AttentionMaps, Photograph]:
    """Return the maps of a perturbed model for noise."""
    torch.manual_seed(0)
    model = perturb(timm.create_model(name, **options)).eval()
    photo = photograph(model, np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8))
    with capture_attention(model) as maps, torch.no_grad():
        model(photo.tensor)
    return maps, photo


def opened(chromium: Browser, page: Any, folder: Path) -> Tab:
    tab = chromium.new_page(viewport={"width": 1400, "height": 900})
    tab.goto(page.save(folder / "attention.html").as_uri())
    tab.wait_for_selector("html[data-drawn]")
    return tab


def hover(canvas: Locator, across: float, down: float) -> None:
    box = canvas.bounding_box()
    assert box is not None
    canvas.hover(position={"x": across * box["width"], "y": down * box["height"]})


def strongest(tab: Tab) -> tuple[str, float]:
    label, weight = tab.locator("#list li").first.text_content().rsplit(None, 1)  # type: ignore[union-attr]  # it has text
    return label.strip(), float(weight)


def test_a_patch_under_the_pointer_is_the_one_of_the_model(chromium: Browser, tmp_path: Path) -> None:
    """The list shows what a patch of a ViT with registers attends to, and the Python call draws the same."""
    maps, photo = look("test_vit", reg_tokens=2, class_token=True)
    page = explore(maps, images=photo)
    tab = opened(chromium, page, tmp_path)
    hover(tab.locator("#to canvas"), 0.01, 0.99)
    rows, _ = maps[-1].keys.grid  # type: ignore[attr-defined]  # patches have one
    query = (rows - 1, 0)
    weights = maps[-1].head_mean(maps[-1].queries.position(query))[0]
    label, weight = strongest(tab)
    assert tab.locator("#asked").text_content() == f"What patch {query} attends to"
    assert weight == pytest.approx(float(weights.max()), abs=page.error + 5e-4)
    assert float(weights[maps[-1].keys.labels().index(label)]) == pytest.approx(weight, abs=2 * page.error + 5e-4)
    call = tab.locator("#call").text_content() or ""
    ax = eval(call, {"plot": plot, "maps": maps, "images": photo})  # noqa: S307  # what the page tells the user to run
    assert np.allclose(np.ravel(ax.images[1].get_array()), weights[-(rows**2) :])
    plt.close("all")
    tab.close()


def test_registers_stand_beside_the_image(chromium: Browser, tmp_path: Path) -> None:
    """Prefix tokens cover no pixels: they are tokens above the image, and can be the query."""
    maps, photo = look("test_vit", reg_tokens=2, class_token=True)
    tab = opened(chromium, explore(maps, images=photo), tmp_path)
    prefix = maps[0].keys.prefix  # type: ignore[attr-defined]  # patches have one
    assert tuple(tab.locator("#to .token").all_text_contents()) == prefix
    tab.locator("#to .token").nth(1).hover()
    assert tab.locator("#asked").text_content() == f"What {prefix[1]} attends to"
    tab.close()


def test_a_shifted_window_lies_where_it_is(chromium: Browser, tmp_path: Path) -> None:
    """In a layer of shifted windows, a patch of the whole image finds its window and its row of the map."""
    maps, photo = look("swin_tiny_patch4_window7_224", img_size=56, window_size=7)
    layer = next(layer for layer in maps[1:] if layer.windows > 1)
    page = explore(layer, images=photo)
    tab = opened(chromium, page, tmp_path)
    hover(tab.locator("#to canvas"), 0.99, 0.01)
    _, columns = layer.keys.grid  # type: ignore[attr-defined]  # patches have one
    window, position = layer.queries.find(0, columns - 1)  # type: ignore[attr-defined]  # placed patches have it
    assert tab.input_value("#window") == str(window)
    assert strongest(tab)[1] == pytest.approx(float(layer[window, :, position].mean(0).max()), abs=page.error + 5e-4)
    tab.close()
