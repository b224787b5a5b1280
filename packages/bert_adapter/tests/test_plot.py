"""The picture of tokens says what is padding."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import anylocal.plot
from anylocal.attention import AttentionMap, Tokens
from anylocal.errors import ChoiceError, ShapeError
from anylocal_bert import plot

mpl.use("Agg")

AXIS = Tokens(
    [["[CLS]", "good", "day", "[SEP]"], ["[CLS]", "hi", "[SEP]", "[PAD]"]],
    padding=[[False] * 4, [False, False, False, True]],
)


def attention() -> AttentionMap:
    weights = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    return AttentionMap.from_weights(weights, name="layer.0", queries=AXIS, keys=AXIS)


def covers(ax: mpl.axes.Axes) -> list[tuple[float, float, float, float]]:
    found = [p for p in ax.patches if isinstance(p, Rectangle) and p.get_gid() == "padding"]
    return [(*p.get_xy(), p.get_width(), p.get_height()) for p in found]


def test_padding_is_covered_in_rows_and_columns() -> None:
    """The row and the column of padding lie under grey, the others do not."""
    ax = plot.tokens(attention(), sample=1, ax=Figure().subplots())
    assert covers(ax) == [(2.5, -0.5, 1, 4), (-0.5, 2.5, 4, 1)]


def test_a_full_text_has_no_cover() -> None:
    """Nothing is covered where there is no padding."""
    assert covers(plot.tokens(attention(), sample=0, ax=Figure().subplots())) == []


def separations(ax: mpl.axes.Axes) -> tuple[list[float], list[float]]:
    """Return where lines stand between columns, and between rows."""
    ends = [np.asarray(line.get_xydata()).tolist() for line in ax.lines if line.get_gid() == "segment"]
    return [a[0] for a, b in ends if a[0] == b[0]], [a[1] for a, b in ends if a[1] == b[1]]


@pytest.mark.parametrize(
    "segments", [[0, 0, 0, 1, 1, None], [None, 0, None, 1, None, None]], ids=["types", "sequences"]
)
def test_a_line_between_two_sentences(segments: list[int | None]) -> None:
    """It stands in front of the first token of the second, in rows and columns."""
    axis = Tokens(["[CLS]", "who", "[SEP]", "he", "[SEP]", "[PAD]"], segments=segments)
    pair = AttentionMap.from_weights(torch.eye(6), queries=axis, keys=axis)
    assert separations(plot.tokens(pair, ax=Figure().subplots())) == ([2.5], [2.5])
    assert separations(plot.tokens(pair, queries=["he"], ax=Figure().subplots())) == ([2.5], [])


def test_chosen_rows_keep_their_height() -> None:
    """With some queries chosen only columns are covered, over the rows that are drawn."""
    ax = plot.tokens(attention(), sample=1, queries=["hi"], ax=Figure().subplots())
    assert covers(ax) == [(2.5, -0.5, 1, 1)]


def test_the_weights_are_those_of_the_map() -> None:
    """The picture holds the chosen head's weights as they are."""
    ax = plot.tokens(attention(), sample=1, head=2, ax=Figure().subplots())
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), attention()[1, 2].numpy())


def test_keys_that_are_no_tokens() -> None:
    """A map without tokens is refused with the recipe that draws it."""
    bare = AttentionMap.from_weights(torch.eye(3), name="layer.0")
    with pytest.raises(ShapeError, match=r"keys of 'layer.0' are no tokens.*heatmap"):
        plot.tokens(bare)


def test_a_batch_needs_a_choice() -> None:
    """Of several texts one must be chosen."""
    with pytest.raises(ChoiceError, match="sample"):
        plot.tokens(attention())


def test_recipes_of_core_are_here() -> None:
    """The recipes for any map are the same objects here."""
    names = ["difference", "entropy", "heads", "heatmap", "model"]
    assert [getattr(plot, name) for name in names] == [getattr(anylocal.plot, name) for name in names]
    assert set(names) < set(plot.__all__)


def test_tokens_are_merged_to_words() -> None:
    """A word that was split is one row and one column, of the sum of what its tokens get."""
    axis = Tokens(["[CLS]", "play", "##ing", "now"], words=[None, 0, 0, 1])
    attention = AttentionMap.from_weights(torch.full((4, 4), 0.25), queries=axis, keys=axis)
    ax = plot.tokens(attention, queries=["playing"], words=True)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["[CLS]", "playing", "now"]
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), [[0.25, 0.5, 0.25]])


def test_words_of_one_text_of_a_batch() -> None:
    """The text that was chosen is merged, with its own padding covered."""
    words: list[list[int | None]] = [[0, 1, 2], [0, 0, None]]
    axis = Tokens([["a", "b", "c"], ["d", "##e", "[PAD]"]], padding=[[0, 0, 0], [0, 0, 1]], words=words)
    attention = AttentionMap.from_weights(torch.full((2, 1, 3, 3), 1 / 3), queries=axis, keys=axis)
    ax = plot.tokens(attention, sample=1, words=True)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["de", "[PAD]"]
    assert len([patch for patch in ax.patches if patch.get_gid() == "padding"]) == 2
