"""The page of a ViT with real weights at its own 518 pixels: 1,370 positions, of which it computes the rows."""

from __future__ import annotations

import pytest
import torch

from anylocal.errors import DependencyError
from anylocal.testing import browser
from anylocal_vit import capture_attention, dinov2, explore, photograph

data = pytest.importorskip("skimage.data", reason="the photographs are in scikit-image")
pytest.importorskip("onnx", reason="the weights are read with onnx")
try:
    dinov2.onnx_file()
except DependencyError as error:
    pytest.skip(str(error), allow_module_level=True)


def test_the_page_of_dinov2_at_its_own_size(tmp_path_factory: pytest.TempPathFactory) -> None:
    """By default, in at most 30 MB; rows of every head are within the stated error and 1 % of their greatest weight."""
    model = dinov2.load_timm(518)
    photo = photograph(model, data.astronaut())
    with capture_attention(model) as maps, torch.no_grad():
        model(photo.tensor)
    page = explore(maps, images=photo)
    file = page.save(tmp_path_factory.mktemp("page") / "dinov2.html")
    assert file.stat().st_size <= 30e6
    queries = [0, 1, 333, 700, 1369]
    with browser() as chromium:
        tab = chromium.new_page()
        tab.goto(file.as_uri())
        tab.wait_for_selector("html[data-drawn]")
        for layer, attention in enumerate(maps):
            made = tab.evaluate(
                "([layer, queries]) => Promise.all(queries.map(query => Promise.all([0, 1, 2, 3, 4, 5].map(head =>"
                " anylocal.row({layer, head, query}).then(row => Array.from(row))))))",
                [layer, queries],
            )
            exact = attention[0, :, queries].double()
            off = (torch.tensor(made, dtype=torch.float64).transpose(0, 1) - exact).abs()
            assert off.max() <= page.error
            assert (off <= 0.01 * exact.amax(-1, keepdim=True)).all()
