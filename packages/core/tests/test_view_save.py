"""The picture of the page as a file, in a real browser."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import torch
from PIL import Image

from anylocal.attention import AttentionMap, Patches, Tokens
from anylocal.view import explore

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from playwright.sync_api import Page as Tab

WORDS = ["[CLS]", '<b>&"bold"', "שלום", "two  spaces", "😀", "[SEP]"]
SVG = "{http://www.w3.org/2000/svg}"


def make(axis: Tokens | Patches) -> AttentionMap:
    shape = (1, 2, len(axis), len(axis))
    weights = (2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).softmax(-1)
    return AttentionMap.from_weights(weights, name="layer", queries=axis, keys=axis)


def saved(tab: Tab, kind: str, width: int | None = None) -> Path:
    if width is not None:
        tab.fill("#width", str(width))
    with tab.expect_download() as waiting:
        tab.click(f"#{kind}")
    assert waiting.value.suggested_filename == f"attention.{kind}"
    path: Path = waiting.value.path()
    return path


def test_a_picture_has_the_width_that_was_chosen(show: Any) -> None:
    """Both kinds, and the screen has its own again."""
    tab = show(explore(make(Tokens(WORDS))))
    before = tab.locator("#lines").evaluate("node => node.width")
    with Image.open(saved(tab, "png", 2500)) as image:
        assert image.width == 2500
        height = image.height
    root = ET.parse(saved(tab, "svg")).getroot()  # noqa: S314  # what our own page wrote
    assert (root.get("width"), root.get("height")) == ("2500", str(height))
    assert tab.locator("#lines").evaluate("node => node.width") == before


def test_tokens_and_lines_of_an_svg_are_text_and_paths(show: Any) -> None:
    """Hostile tokens stay text, on their own colours; a line is a path on a wider one of the paper's colour."""
    tab = show(explore(make(Tokens(WORDS))))
    tab.fill("#strongest", "3")
    tab.wait_for_function("() => document.querySelectorAll('#list li').length === 3")
    root = ET.parse(saved(tab, "svg")).getroot()  # noqa: S314  # what our own page wrote
    texts = [node.text for node in root.iter(f"{SVG}text")]
    assert [text for text in texts if text in WORDS] == WORDS
    asked = tab.locator("#asked").text_content()
    assert {asked, "layer, mean of 2 heads"} <= set(texts)
    colours = tab.locator("#to .token").evaluate_all("nodes => nodes.map(node => node.style.backgroundColor)")
    fills = [node.get("fill") for node in root.iter(f"{SVG}rect")]
    assert [fill for fill in fills if fill in colours] == colours
    ends = [text.rsplit(None, 1)[0].strip() for text in tab.locator("#list li").all_text_contents()]
    # None from a token to itself.
    assert len(list(root.iter(f"{SVG}path"))) == 2 * sum(f"What “{end}” attends to" != asked for end in ends) > 0
    assert {node.tag.removeprefix(SVG) for node in root.iter()} == {"svg", "rect", "image", "path", "text"}


def test_lines_do_not_cross_out_tokens(show: Any) -> None:
    """They pass behind them, on the screen and in the picture."""
    tab = show(explore(make(Tokens(WORDS))))
    nodes = [node.tag.removeprefix(SVG) for node in ET.parse(saved(tab, "svg")).getroot()]  # noqa: S314  # as above
    assert len(nodes) - 1 - nodes[::-1].index("path") < nodes.index("text")
    # What a pointer would meet first, if lines had pointers.
    tab.locator("#lines").evaluate("node => { node.style.pointerEvents = 'auto'; }")
    assert tab.locator("#to .token").evaluate_all(
        """nodes => nodes.every((node) => {
          const { left, top, width, height } = node.getBoundingClientRect();
          return document.elementFromPoint(left + width / 2, top + height / 2) === node;
        })"""
    )


def test_the_cells_of_an_svg_are_those_of_the_map(show: Any) -> None:
    """The map has a pixel for each cell, and a photograph as many as the picture was chosen to have."""
    tab = show(explore(make(Patches((4, 4), prefix=())), images=torch.rand(3, 32, 32)))
    shown = tab.locator("#to canvas").bounding_box()["width"]
    root = ET.parse(saved(tab, "svg", 4000)).getroot()  # noqa: S314  # what our own page wrote
    scale = 4000 / float((root.get("viewBox") or "").split()[2])
    sizes = [
        Image.open(BytesIO(base64.b64decode((node.get("href") or "").partition(",")[2]))).width
        for node in root.iter(f"{SVG}image")
    ]
    assert 16 in sizes
    assert any(abs(size - scale * shown) <= 1 for size in sizes)
