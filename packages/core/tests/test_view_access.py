"""What axe-core finds in the page: nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import torch

from anylocal.attention import AttentionMap, Patches, Tokens
from anylocal.testing import browser
from anylocal.view import explore


def axe() -> str:
    """Return the script of axe-core, which npm has installed for all projects."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("No npm on PATH, by which axe-core is found")
    root = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=True).stdout.strip()
    file = Path(root) / "axe-core" / "axe.min.js"
    if not file.exists():
        pytest.skip("axe-core is not installed: npm install -g axe-core")
    return file.read_text("utf-8")


TEXT = Tokens(
    ["[CLS]", "un", "##able", "x", "[SEP]", "[PAD]"],
    special=[1, 0, 0, 0, 1, 0],
    padding=[0, 0, 0, 0, 0, 1],
    words=[None, 0, 0, 1, None, None],
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("axis", [TEXT, Patches((1, 5), image_size=(16, 80))], ids=["text", "image"])
@pytest.mark.parametrize("compared", [False, True], ids=["one", "two"])
def test_axe_finds_no_violation(axis: Tokens | Patches, scheme: str, tmp_path: Path, *, compared: bool) -> None:
    """Names, roles and contrast of the page, and of the dialog in it."""
    script = axe()
    weights = (2 * torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))).softmax(-1)
    images = torch.rand(2, 3, 16, 80) if isinstance(axis, Patches) else None
    attention = AttentionMap.from_weights(weights, name="layer", queries=axis, keys=axis)
    page = explore(attention, attention if compared else None, images=images)
    with browser() as chromium:
        tab = chromium.new_page(color_scheme=scheme)  # type: ignore[arg-type]  # one of the literals
        tab.goto(page.save(tmp_path / "page.html").as_uri())
        tab.wait_for_selector("html[data-drawn]")
        tab.evaluate(script)
        ask = "axe.run().then(found => found.violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]))"
        assert tab.evaluate(ask) == []
        tab.locator("#list button").first.click()
        assert tab.evaluate(ask) == []
