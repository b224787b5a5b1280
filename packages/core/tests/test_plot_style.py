"""The style for papers: widths, type, and vector files that are crisp and small."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch

from anylocal import plot
from anylocal.attention import AttentionMap, Patches
from anylocal.errors import OptionError


def make(grid: int, heads: int = 6, seed: int = 0) -> AttentionMap:
    """Return a map of a square of patches, each of which attends to its surroundings and a little everywhere."""
    axis = Patches(grid=(grid, grid), prefix=("cls",))
    generator = torch.Generator().manual_seed(seed)
    place = torch.cartesian_prod(*[torch.arange(float(grid))] * 2)
    near = torch.cdist(place, place).neg()[None] * torch.linspace(0.1, 1, heads)[:, None, None]
    scores = torch.randn(1, heads, len(axis), len(axis), generator=generator)
    scores[:, :, 1:, 1:] += near
    return AttentionMap.from_weights(scores.softmax(-1), queries=axis, keys=axis, name=f"blocks.{seed}.attn")


def saved(figure: Any, name: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=name)
    plt.close(figure)
    return file.getvalue()


@pytest.mark.parametrize(("columns", "width"), [(1, 3.25), (2, 6.75)])
def test_width_and_type(columns: int, width: float) -> None:
    """A figure is as wide as one column or two, with type of 8 points, and the settings are as before afterwards."""
    before = mpl.rcParams.copy()
    with plot.style("paper", columns=columns):
        figure = plot.heads(make(3))
        assert figure.get_figwidth() == width
        assert mpl.rcParams["font.size"] == 8
    plt.close(figure)
    assert before == mpl.rcParams


@pytest.mark.parametrize("recipe", ["heads", "model"])
@pytest.mark.parametrize("grid", [16, 37])
def test_files_are_small(recipe: str, grid: int) -> None:
    """A PDF or SVG of 257 or 1,370 positions stays below 1 MB."""
    layer = make(grid)
    with plot.style("paper", columns=2):
        for name in ("pdf", "svg"):
            figure = plot.heads(layer) if recipe == "heads" else plot.model([layer] * 12)
            assert len(saved(figure, name)) < 1e6


def test_files_of_many_heads_are_small() -> None:
    """So does an SVG of sixteen heads, whose panels are smaller."""
    with plot.style("paper", columns=2):
        assert len(saved(plot.heads(make(16, heads=16)), "svg")) < 1e6


def test_cells_are_crisp() -> None:
    """In a PDF, the image of a head has a dot for each of its cells: nothing is resampled."""
    with plot.style("paper"):
        data = saved(plot.heads(make(14)), "pdf")
    sizes = {
        (int(width), int(height))
        for width, height in re.findall(rb"/Subtype /Image /Width (\d+) /Height (\d+)", re.sub(rb"\s+", b" ", data))
    }
    assert (197, 197) in sizes


def test_text_is_text() -> None:
    """In an SVG, titles are text, which can be searched."""
    with plot.style("paper"):
        assert b">head 3<" in saved(plot.heads(make(3)), "svg")


def test_unknown() -> None:
    """Other styles and widths are refused."""
    with pytest.raises(OptionError, match="style='poster' is unknown"), plot.style("poster"):  # type: ignore[arg-type]  # wrong on purpose
        pass
    with pytest.raises(OptionError, match=r"give 1 \(3.25 inches\) or 2 \(6.75\)"), plot.style("paper", columns=3):
        pass
