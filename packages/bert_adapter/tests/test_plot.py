"""The picture of tokens, with padding covered."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import anylocal.plot
from anylocal.attention import AttentionMap, AttentionMaps, Tokens
from anylocal.errors import ChoiceError, OptionError, PositionError, ShapeError
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
    """Only the rows and columns of padding are covered in grey."""
    ax = plot.tokens(attention(), sample=1, ax=Figure().subplots())
    assert covers(ax) == [(2.5, -0.5, 1, 4), (-0.5, 2.5, 4, 1)]


def test_a_full_text_has_no_cover() -> None:
    """Without padding, nothing is covered."""
    assert covers(plot.tokens(attention(), sample=0, ax=Figure().subplots())) == []


def test_a_difference_has_0_in_the_middle() -> None:
    """What arithmetic makes of maps is drawn as a difference, padding aside."""
    image: Any = plot.tokens(attention() - 0.3, sample=1, ax=Figure().subplots()).images[0]
    assert image.norm.vmin == -image.norm.vmax
    assert image.norm.vmax > 0
    assert image.get_cmap().name == "coolwarm"
    assert image.colorbar.ax.get_ylabel() == "value"


def separations(ax: mpl.axes.Axes) -> tuple[list[float], list[float]]:
    """Return the positions of lines between columns, and between rows."""
    ends = [np.asarray(line.get_xydata()).tolist() for line in ax.lines if line.get_gid() == "segment"]
    return [a[0] for a, b in ends if a[0] == b[0]], [a[1] for a, b in ends if a[1] == b[1]]


@pytest.mark.parametrize(
    "segments", [[0, 0, 0, 1, 1, None], [None, 0, None, 1, None, None]], ids=["types", "sequences"]
)
def test_a_line_between_two_sentences(segments: list[int | None]) -> None:
    """It is before the first token of the second sentence, in rows and columns."""
    axis = Tokens(["[CLS]", "who", "[SEP]", "he", "[SEP]", "[PAD]"], segments=segments)
    pair = AttentionMap.from_weights(torch.eye(6), queries=axis, keys=axis)
    assert separations(plot.tokens(pair, ax=Figure().subplots())) == ([2.5], [2.5])
    assert separations(plot.tokens(pair, queries=["he"], ax=Figure().subplots())) == ([2.5], [])


def test_a_line_between_chosen_rows() -> None:
    """It is before the first chosen query of the second sentence."""
    axis = Tokens(["[CLS]", "who", "[SEP]", "he", "[SEP]", "[PAD]"], segments=[0, 0, 0, 1, 1, None])
    pair = AttentionMap.from_weights(torch.eye(6), queries=axis, keys=axis)
    assert separations(plot.tokens(pair, queries=slice(1, None), ax=Figure().subplots())) == ([2.5], [1.5])


def test_chosen_rows_keep_their_height() -> None:
    """With some queries chosen, columns of padding are covered over the drawn rows only."""
    ax = plot.tokens(attention(), sample=1, queries=["hi"], ax=Figure().subplots())
    assert covers(ax) == [(2.5, -0.5, 1, 1)]


def test_the_weights_are_those_of_the_map() -> None:
    """The picture holds the unchanged weights of the chosen head."""
    ax = plot.tokens(attention(), sample=1, head=2, ax=Figure().subplots())
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), attention()[1, 2].numpy())


def test_keys_that_are_no_tokens() -> None:
    """A map without tokens is refused, with the recipe that draws it."""
    bare = AttentionMap.from_weights(torch.eye(3), name="layer.0")
    with pytest.raises(ShapeError, match=r"keys of 'layer.0' are not tokens.*heatmap"):
        plot.tokens(bare)


def test_a_batch_needs_a_choice() -> None:
    """One of several texts must be chosen."""
    with pytest.raises(ChoiceError, match="sample"):
        plot.tokens(attention())


def test_recipes_of_core_are_here() -> None:
    """The recipes for any map are the same objects here."""
    names = ["difference", "entropy", "heads", "heatmap", "model"]
    assert [getattr(plot, name) for name in names] == [getattr(anylocal.plot, name) for name in names]
    assert set(names) < set(plot.__all__)


def test_tokens_are_merged_to_words() -> None:
    """A word of several tokens has one row and one column, whose weight is the sum over its tokens."""
    axis = Tokens(["[CLS]", "play", "##ing", "now"], words=[None, 0, 0, 1])
    attention = AttentionMap.from_weights(torch.full((4, 4), 0.25), queries=axis, keys=axis)
    ax = plot.tokens(attention, queries=["playing"], words=True)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["[CLS]", "playing", "now"]
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), [[0.25, 0.5, 0.25]])


def test_words_of_one_text_of_a_batch() -> None:
    """The chosen text is merged, with its own padding covered."""
    words: list[list[int | None]] = [[0, 1, 2], [0, 0, None]]
    axis = Tokens([["a", "b", "c"], ["d", "##e", "[PAD]"]], padding=[[0, 0, 0], [0, 0, 1]], words=words)
    attention = AttentionMap.from_weights(torch.full((2, 1, 3, 3), 1 / 3), queries=axis, keys=axis)
    ax = plot.tokens(attention, sample=1, words=True)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["de", "[PAD]"]
    assert len([patch for patch in ax.patches if patch.get_gid() == "padding"]) == 2


@pytest.mark.parametrize(
    ("queries", "rows"), [(slice(None), [3]), (["[PAD]", "hi"], [0]), ([3], [0])], ids=["all", "some", "none else"]
)
def test_chosen_rows_of_padding_are_covered(queries: Any, rows: list[int]) -> None:
    """A query that is padding is covered, also among chosen queries."""
    ax = plot.tokens(attention(), sample=1, queries=queries, ax=Figure().subplots())
    assert covers(ax)[1:] == [(-0.5, row - 0.5, 4, 1) for row in rows]


@pytest.mark.parametrize("norm", [None, "linear"])
def test_the_scale_is_that_of_what_is_visible(norm: str | None) -> None:
    """Covered weights do not set the scale."""
    axis = Tokens(["a", "b", "[PAD]"], padding=[False, False, True])
    weights = torch.tensor([[0.25, 0.5, 0.75], [0.125, 0.5, 0.0], [1.0, 0.0, 0.0]])
    padded = AttentionMap.from_weights(weights, queries=axis, keys=axis)
    assert plot.tokens(padded, norm=norm, ax=Figure().subplots()).images[0].norm.vmax == 0.5


@pytest.mark.parametrize("norm", [None, "log", Normalize(), PowerNorm(0.5)], ids=["none", "log", "linear", "power"])
def test_a_text_that_is_all_padding(norm: Any) -> None:
    """A text without visible tokens is drawn covered, on any scale."""
    axis = Tokens(["[PAD]", "[PAD]"], padding=[True, True])
    padding = AttentionMap.from_weights(torch.eye(2), queries=axis, keys=axis)
    ax = plot.tokens(padding, norm=norm, ax=Figure().subplots())
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed
    assert len(covers(ax)) == 4


def test_words_keep_the_name_of_their_text() -> None:
    """The title of words names layer, sample and head, as that of tokens does."""
    ax = plot.tokens(attention(), sample=-1, head=2, words=True, ax=Figure().subplots())
    assert ax.get_title() == "layer.0\nsample 1, head 2"


def test_windows_of_a_text_share_its_tokens() -> None:
    """In a layer of windows, each window has the padding of its text."""
    windows = AttentionMap.from_weights(torch.full((4, 1, 4, 4), 0.25), queries=AXIS, keys=AXIS, windows=2)
    for words in (False, True):
        drawn = [plot.tokens(windows, sample=at, words=words, ax=Figure().subplots()) for at in range(4)]
        assert [len(covers(ax)) for ax in drawn] == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (AttentionMaps([attention()]), ChoiceError, r"tokens draws one map and got 1; take one by position"),
        ([attention(), attention()], ChoiceError, r"tokens draws one map and got 2; take one by position"),
        (torch.eye(3), OptionError, "tokens draws an AttentionMap and got Tensor; make one by"),
    ],
)
def test_what_is_no_map(given: Any, error: type[Exception], message: str) -> None:
    """Several maps, or plain weights, are refused as in other recipes."""
    with pytest.raises(error, match=message):
        plot.tokens(given)


@pytest.mark.parametrize("sample", ["1", 1.0])
@pytest.mark.parametrize("words", [True, False])
def test_a_sample_that_is_no_number(sample: Any, words: bool) -> None:
    """A sample that is not an index is refused, with words and without."""
    with pytest.raises(
        PositionError, match=r"Sample index '?1.* of AttentionMap\(.*\) is not an integer; give one below 2"
    ):
        plot.tokens(attention(), sample=sample, words=words)


def sentence(length: int = 14) -> AttentionMap:
    """Return a map in which every token rests on "[CLS]"."""
    axis = Tokens(["[CLS]", *(f"word{n}" for n in range(length)), "[SEP]"], special=[1, *[0] * length, 1])
    weights = torch.rand(len(axis), len(axis), generator=torch.Generator().manual_seed(0)) / 100
    weights[:, 0] = 0.9
    return AttentionMap.from_weights(weights, queries=axis, keys=axis)


def axes(width: float, height: float) -> mpl.axes.Axes:
    return Figure((width, height), layout="constrained").subplots()


def test_special_tokens_do_not_rule_the_scale() -> None:
    """The scale is for words, and a triangle on the colorbar shows that others lie beyond it."""
    ax = plot.tokens(sentence(), ax=axes(7, 5))
    image = ax.images[0]
    assert image.norm.vmax == pytest.approx(sentence()[0, 0, 1:-1, 1:-1].max().item())
    assert image.colorbar is not None
    assert image.colorbar.extend == "max"


def test_covered_weights_are_not_beyond_the_scale() -> None:
    """Attention from padding, which is covered, puts no triangle on the colorbar."""
    weights = torch.full((2, 1, 4, 4), 0.25)
    weights[1, :, 3] = torch.tensor([1.0, 0, 0, 0])
    batch = AttentionMap.from_weights(weights, queries=AXIS, keys=AXIS)
    colorbar = plot.tokens(batch, sample=1, ax=axes(7, 5)).images[0].colorbar
    assert colorbar is not None
    assert colorbar.extend == "neither"


@pytest.mark.parametrize(("rows", "length"), [(1, 14), (1, 126), (3, 126)])
def test_rows_of_a_strip_are_low(rows: int, length: int) -> None:
    """A few rows do not fill the axes, and the colorbar is high enough for its numbers."""
    ax = plot.tokens(sentence(length), queries=slice(rows), ax=axes(7, 5))
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed
    row = ax.get_window_extent().height / 100 / rows
    assert 0.25 < row < 0.45
    colorbar = ax.images[0].colorbar
    assert colorbar is not None
    assert colorbar.ax.get_window_extent().height > 80


def test_a_new_figure_of_a_strip_is_low() -> None:
    """A new figure is as high as one row needs."""
    figure = plot.tokens(sentence(), queries="word3").figure
    assert isinstance(figure, Figure)
    assert figure.get_figheight() < 3


def test_every_token_of_a_sentence_is_labelled() -> None:
    """In a column of a paper, labels become smaller before any is left out."""
    ax = plot.tokens(sentence(), ax=axes(4, 3))
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed
    assert [len(ruler.get_majorticklocs()) for ruler in (ax.xaxis, ax.yaxis)] == [16, 16]
    assert float(ax.yaxis.get_majorticklabels()[0].get_fontsize()) >= 4.5
