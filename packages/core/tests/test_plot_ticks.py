"""The names of positions at the axes of a picture: the right ones, and as many as have room."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anylocal import plot
from anylocal.attention import AttentionMap, Axis, Patches, PlacedPatches, Tokens

WORDS = ["[CLS]", "the", "animal", "did", "not", "cross", "the", "street", "as", "it", "was", "too", "tired", "[SEP]"]
AXES = {
    "patches": Patches(grid=(14, 14)),
    "registers": Patches(grid=(7, 14), prefix=("cls", "reg1", "reg2", "reg3", "reg4")),
    "no prefix": Patches(grid=(24, 24), prefix=()),
    "tokens": Tokens(WORDS),
    "many tokens": Tokens(WORDS * 20),
    "a long token": Tokens([*WORDS, "antidisestablishmentarianism", *WORDS]),
    "counted": Axis(1000),
    "a window": PlacedPatches((56, 56), [[56 * row + column for row in range(42, 49) for column in range(42, 49)]]),
}


def draw(axis: Axis, size: tuple[float, float] = (3.4, 2.6), **options: Any) -> Axes:
    """Return the axes of a heatmap, drawn once, because ticks are made then."""
    uniform = torch.full((1, 1, len(axis), len(axis)), 1 / len(axis))
    attention = AttentionMap.from_weights(uniform, queries=axis, keys=axis)
    figure = Figure(size, layout="constrained")
    FigureCanvasAgg(figure)
    ax = plot.heatmap(attention, ax=figure.subplots(), **options)
    return lay_out(ax)


def lay_out(ax: Axes) -> Axes:
    assert isinstance(ax.figure, Figure)
    ax.figure.draw_without_rendering()
    return ax


def shown(ruler: Any) -> list[str]:
    return [label.get_text() for label in ruler.get_ticklabels() if label.get_text()]


def overlapping(ruler: Any) -> list[tuple[str, str]]:
    labels = [label for label in ruler.get_ticklabels() if label.get_text()]
    boxes = [(label.get_text(), label.get_window_extent()) for label in labels]
    return [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]


@pytest.mark.parametrize("size", [(2, 2), (7, 5)])
@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_labels_keep_apart(axis: Axis, size: tuple[float, float]) -> None:
    """Labels do not overlap, in a narrow figure and in a wide one, and there are some."""
    ax = draw(axis, size)
    for ruler in (ax.xaxis, ax.yaxis):
        assert [] == overlapping(ruler)
        assert shown(ruler)


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_labels_keep_apart_in_heads(axis: Axis) -> None:
    """Labels do not overlap in small panels either."""
    uniform = torch.full((1, 12, len(axis), len(axis)), 1 / len(axis))
    figure = plot.heads(AttentionMap.from_weights(uniform, queries=axis, keys=axis), figure=Figure((3.4, 5.5)))
    figure.draw_without_rendering()
    for ax in figure.axes[:-1]:
        assert [] == overlapping(ax.xaxis) + overlapping(ax.yaxis)


@pytest.mark.parametrize("size", [(2.5, 4), (3.4, 2.6), (3.4, 3.4)])
@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_nothing_is_cut_off(axis: Axis, size: tuple[float, float]) -> None:
    """In a new figure, labels keep apart and within the edges at the first drawing, and nothing grows at the next."""
    uniform = torch.full((1, 3, len(axis), len(axis)), 1 / len(axis))
    with mpl.rc_context({"figure.figsize": size}):
        ax = plot.heatmap(AttentionMap.from_weights(uniform, queries=axis, keys=axis))
    sizes = []
    for _ in range(3):
        figure = lay_out(ax).figure
        box = figure.get_tightbbox()
        assert min(box.x0, box.y0, size[0] - box.x1, size[1] - box.y1) >= 0
        assert [] == overlapping(ax.xaxis) + overlapping(ax.yaxis)
        sizes.append(ax.get_window_extent().size)
    plt.close("all")
    np.testing.assert_allclose(sizes, [sizes[0]] * 3, atol=1)


def test_more_labels_where_there_is_more_room() -> None:
    """A larger figure names more positions."""
    axis = Tokens(WORDS * 3)
    assert len(shown(draw(axis, (12, 12)).xaxis)) == len(axis) > len(shown(draw(axis).xaxis))


def test_labels_follow_the_zoom() -> None:
    """Of a part, more positions are named."""
    ax = draw(Patches(grid=(14, 14)))
    ax.set(xlim=(40.5, 50.5), ylim=(50.5, 40.5))
    lay_out(ax)
    assert shown(ax.yaxis)[:3] == ["(2, 12)", "(3, 0)", "(3, 2)"]


def test_labels_are_of_their_positions() -> None:
    """A label stands at the position that it names."""
    axis = Patches(grid=(14, 14), prefix=("cls", "dist"))
    ax = draw(axis)
    assert [axis.label(round(place)) for place in ax.get_yticks()] == shown(ax.yaxis)
    assert len(shown(ax.yaxis)) > 3


def test_labels_of_chosen_queries() -> None:
    """Chosen queries are named by their positions, not by their rows."""
    ax = draw(Patches(grid=(14, 14)), queries=[20, "cls", (3, 4)])
    assert shown(ax.yaxis) == ["(1, 5)", "cls", "(3, 4)"]


def test_patches_are_named_by_rows() -> None:
    """Patches are named at regular rows of the grid, the first prefix token always."""
    first, *others = shown(draw(Patches(grid=(14, 14)), (4, 4)).yaxis)
    rows = [int(label.strip("()").split(",")[0]) for label in others]
    assert first == "cls"
    assert all(label.endswith(", 0)") for label in others)
    assert len({b - a for a, b in pairwise(rows)}) == 1


def test_prefix_goes_first() -> None:
    """Where there is room, every prefix token is named."""
    labels = shown(draw(Patches(grid=(3, 3), prefix=("cls", "reg1", "reg2")), (6, 6)).yaxis)
    assert labels[:3] == ["cls", "reg1", "reg2"]


def test_counted_positions_are_round() -> None:
    """Positions that are only counted are named by round numbers."""
    ax = draw(Axis(1000))
    step = int(shown(ax.xaxis)[1])
    assert step in {100, 200, 500}
    assert shown(ax.xaxis) == [str(n) for n in range(0, 1000, step)]


def test_tokens_of_the_sample() -> None:
    """Tokens are those of the text that is drawn."""
    texts = Tokens([["a", "b"], ["c", "d"]])
    attention = AttentionMap.from_weights(torch.ones(2, 1, 2, 2) / 2, queries=texts, keys=texts)
    ax = plot.heatmap(attention, sample=1, ax=Figure(layout="constrained").subplots())
    assert shown(lay_out(ax).xaxis) == shown(ax.yaxis) == ["c", "d"]


def test_tokens_are_no_formula() -> None:
    """Dollar signs, line breaks and long tokens are drawn as text, on one line, shortened."""
    ax = draw(Tokens(["$x$", "a\nb", "antidisestablishmentarianism"]), (6, 6))
    assert shown(ax.yaxis) == [r"\$x\$", r"a\nb", "antidises…"]


def test_without_formulas_dollars_are_bare() -> None:
    """Where the settings turn formulas off, no backslash is drawn."""
    with mpl.rc_context({"text.parse_math": False}):
        assert shown(draw(Tokens(["$x$", "b"])).yaxis) == ["$x$", "b"]


@pytest.mark.parametrize(
    ("axis", "label"),
    [(Patches(grid=(2, 2)), "key (row, column)"), (Tokens(WORDS), "key token"), (Axis(3), "key position")],
)
def test_axis_label(axis: Axis, label: str) -> None:
    """The axes say what their positions are."""
    ax = draw(axis)
    assert (ax.get_xlabel(), ax.get_ylabel()) == (label, label.replace("key", "query"))


def test_no_minor_ticks() -> None:
    """There is nothing between positions, whatever the settings say."""
    with mpl.rc_context({"xtick.minor.visible": True, "ytick.minor.visible": True}):
        ax = draw(Axis(5))
    assert [0, 0] == [len(ruler.get_minorticklocs()) for ruler in (ax.xaxis, ax.yaxis)]


def test_patches_of_a_window() -> None:
    """The patches of a window are named by where they lie in the image, as other patches are."""
    axis = PlacedPatches((3, 4), [[5, 6, 9, 10], [7, 4, -1, -1]])
    attention = AttentionMap.from_weights(torch.full((2, 1, 4, 4), 0.25), queries=axis, keys=axis, windows=2)
    ax = lay_out(plot.heatmap(attention, sample=1, ax=Figure((6, 5), layout="constrained").subplots()))
    assert shown(ax.xaxis) == shown(ax.yaxis) == ["(1, 3)", "(1, 0)", "padding", "padding"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key (row, column)", "query (row, column)")
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {90}
