"""Nothing overlaps in a picture, whatever its size and however many heads there are."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")

import torch
from matplotlib.axis import Axis as Ruler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from anylocal import plot
from anylocal.attention import AttentionMap, Patches, Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.transforms import Bbox

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


def boxes(figure: Figure) -> Iterator[tuple[str, Bbox, object]]:
    """Yield what is drawn and where: axes and texts, and the axes in which a text is to be."""
    figure.draw_without_rendering()
    axes = [*figure.axes, *(inset for ax in figure.axes for inset in ax.child_axes)]
    for number, ax in enumerate(axes):
        yield f"axes {number}", ax.get_window_extent(), ax
        for ruler in (ax.xaxis, ax.yaxis):
            yield from ((label, box, None) for label, box in labels(ruler))
        for text in {ax.title, *ax.texts, ax.xaxis.label, ax.yaxis.label}:
            yield text.get_text(), text.get_window_extent(), ax if text in ax.texts else None
    for text in figure.findobj(Text, include_self=False):
        if text.get_text() and text in figure.texts:
            yield text.get_text(), text.get_window_extent(), None


def labels(ruler: Ruler) -> Iterator[tuple[str, Bbox]]:
    low, high = sorted(ruler.get_view_interval())
    for tick in ruler.get_major_ticks():
        if low <= tick.get_loc() <= high:
            for label in (tick.label1, tick.label2):
                if label.get_visible():
                    yield label.get_text(), label.get_window_extent()


def overlaps(figure: Figure, slack: float = 1.0) -> list[str]:
    """Return what overlaps by more than a dot, or is outside of the figure."""
    found = [(name, box, owner) for name, box, owner in boxes(figure) if name and box.width > 0 and box.height > 0]
    wrong = []
    for (one, here, owner), (two, there, other) in combinations(found, 2):
        across = min(here.x1, there.x1) - max(here.x0, there.x0)
        upwards = min(here.y1, there.y1) - max(here.y0, there.y0)
        if min(across, upwards) > slack and (owner is None or owner is not other):
            wrong.append(f"{one!r} and {two!r} by {across:.0f} x {upwards:.0f}")
    outside = [
        name
        for name, box, _ in found
        if box.x0 < -slack or box.y0 < -slack or box.x1 > figure.bbox.x1 + slack or box.y1 > figure.bbox.y1 + slack
    ]
    return wrong + [f"{name!r} is outside" for name in outside]


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
