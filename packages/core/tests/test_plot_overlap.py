"""Nothing overlaps in a picture, whatever its size and however many heads there are."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anylocal import plot
from anylocal.attention import AttentionMap, Patches, Tokens
from anylocal.testing import overlaps

SIZES = [(4, 3), (7, 5), (12, 8)]
PATCHES = Patches(grid=(14, 14), prefix=("cls",))
TOKENS = Tokens(
    [
        "[CLS]",
        *["the", "quick", "brown", "fox", ",", "unfortunately", ",", "jumps", "over", "a", "lazy", "dog"],
        "[SEP]",
    ],
    special=[True, *[False] * 12, True],
)


def make(heads: int, axis: Any = PATCHES, name: str = "blocks.11.attn") -> AttentionMap:
    weights = torch.rand(1, heads, len(axis), len(axis), generator=torch.Generator().manual_seed(0)).pow(8)
    return AttentionMap.from_weights(weights / weights.sum(-1, keepdim=True), queries=axis, keys=axis, name=name)


def empty(size: tuple[float, float], **options: Any) -> Figure:
    figure = Figure(size, **options)
    FigureCanvasAgg(figure)
    return figure


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("axis", [PATCHES, TOKENS], ids=["patches", "tokens"])
@pytest.mark.parametrize("heads", [1, 6, 12, 16])
def test_heads(heads: int, axis: Any, size: tuple[float, float]) -> None:
    """Titles, labels and numbers of `heads` keep apart."""
    assert not overlaps(plot.heads(make(heads, axis), figure=empty(size)))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("heads", [1, 6, 12, 16])
def test_model(heads: int, size: tuple[float, float]) -> None:
    """Titles, labels and numbers of `model` keep apart."""
    maps = [make(heads, TOKENS, f"encoder.layer.{number}.attention.self") for number in range(12)]
    assert not overlaps(plot.model(maps, figure=empty(size)))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("axis", [PATCHES, TOKENS], ids=["patches", "tokens"])
def test_heatmap_in_subplots(axis: Any, size: tuple[float, float]) -> None:
    """Six heatmaps in a figure that makes room for labels keep apart."""
    figure = empty(size, layout="constrained")
    attention = make(6, axis, "encoder.layer.11.attention.self")
    for head, ax in enumerate(figure.subplots(2, 3).flat):
        plot.heatmap(attention, head=head, ax=ax)
    assert not overlaps(figure)
