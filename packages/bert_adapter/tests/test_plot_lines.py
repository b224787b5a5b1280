"""The recipe `lines`: which lines are drawn, between which tokens, how strong, and what is refused."""

from __future__ import annotations

import io
from itertools import combinations
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from anylocal.attention import AttentionMap, Tokens
from anylocal.drawing import short
from anylocal.errors import ChoiceError, NameNotFoundError, OptionError, PositionError, ShapeError
from anylocal_bert import plot

mpl.use("Agg")

AXIS = Tokens(
    [["[CLS]", "good", "day", "[SEP]"], ["[PAD]", "[CLS]", "hi", "[SEP]"]],
    padding=[[False] * 4, [True, False, False, False]],
)
SOURCE = Tokens(["guten", "Tag", "!", "</s>", "</s>"])


def attention(keys: Tokens = AXIS, batch: int = 2) -> AttentionMap:
    weights = torch.rand(batch, 3, 4, len(keys), generator=torch.Generator().manual_seed(0)).softmax(-1)
    return AttentionMap.from_weights(weights, name="layer.0", queries=AXIS, keys=keys)


def axes(width: float = 6.4, height: float = 4.8) -> Axes:
    return Figure((width, height), layout="constrained").subplots()


def collection(ax: Axes) -> LineCollection:
    (found,) = ax.collections
    assert isinstance(found, LineCollection)
    return found


def ends(ax: Axes) -> list[tuple[float, float]]:
    """Return the rows that each line joins, after a check that it goes from left to right."""
    segments = np.array(collection(ax).get_segments())
    assert segments[:, 0, 0].tolist() == [0] * len(segments)
    assert segments[:, 1, 0].tolist() == [1] * len(segments)
    return [(left, right) for left, right in segments[:, :, 1].tolist()]


def values(ax: Axes) -> np.ndarray[Any, Any]:
    return np.asarray(collection(ax).get_array())


def labels(ax: Axes) -> list[list[str]]:
    """Return the labels on the left and on the right, in order."""
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed
    low, high = sorted(ax.get_ylim())
    rulers = [(ax.yaxis, "label1"), (ax.child_axes[0].yaxis, "label2")]
    return [
        [getattr(tick, side).get_text() for tick in ruler.get_major_ticks() if low <= tick.get_loc() <= high]
        for ruler, side in rulers
    ]


def expected(weights: np.ndarray[Any, Any], most: int) -> list[tuple[int, int]]:
    """Return the rows and columns of the greatest weights, the weakest first."""
    order = np.argsort(weights.ravel())[-most:]
    return [divmod(int(place), weights.shape[1]) for place in order]


def test_the_strongest_weights_have_lines() -> None:
    """A line joins the query and the key of each of the greatest weights, the greatest on top."""
    weights = attention()[0, 1].numpy()
    ax = plot.lines(attention(), sample=0, head=1, strongest=5, ax=axes())
    assert ends(ax) == expected(weights, 5)
    np.testing.assert_array_equal(values(ax), np.sort(weights.ravel())[-5:])


def test_a_difference_is_refused() -> None:
    """A line is as wide as its weight, and none is below 0."""
    with pytest.raises(OptionError, match=r"go below 0; draw differences with tokens"):
        plot.lines(attention() - 0.5, sample=0, ax=axes())  # type: ignore[arg-type]  # wrong on purpose


def test_the_argument_of_another_recipe() -> None:
    """The message names the recipe's own."""
    with pytest.raises(OptionError, match=r"lines takes query=, the one position that the picture is about"):
        plot.lines(attention(), queries=[1], sample=0, ax=axes())  # type: ignore[call-arg]  # wrong on purpose


def test_mean_over_heads() -> None:
    """Without a head, lines show the mean over heads."""
    ax = plot.lines(attention(), sample=0, ax=axes())
    np.testing.assert_allclose(values(ax), np.sort(attention().head_mean()[0].numpy().ravel()), rtol=1e-6)


def test_sixty_by_default() -> None:
    """All queries together have 60 lines, and the title tells of how many weights."""
    axis = Tokens([str(number) for number in range(9)])
    ax = plot.lines(AttentionMap.from_weights(torch.rand(9, 9), queries=axis, keys=axis), ax=axes())
    assert len(ends(ax)) == 60
    assert ax.get_title() == "head 0\n60 strongest of 81 weights"


@pytest.mark.parametrize("query", ["day", 2, -2])
def test_one_query(query: str | int) -> None:
    """The lines of a token, or of a position, are drawn, and no others."""
    ax = plot.lines(attention(), sample=0, head=0, query=query, ax=axes())
    np.testing.assert_array_equal(values(ax), np.sort(attention()[0, 0, 2].numpy()))
    assert {left for left, _ in ends(ax)} == {2}
    assert ax.get_title() == "layer.0, sample 0, head 0\nquery day, 4 strongest of 4 weights"


def test_faint_lines_of_one_query_are_left_out() -> None:
    """One query has its lines of a fifth of its greatest weight on a word or more, and the title tells how many."""
    axis = Tokens(["[CLS]", *(f"w{number}" for number in range(10))], special=[1, *[0] * 10])
    weights = torch.tensor([[0.9, 0.1, 0.09, 0.08, 0.07, 0.06, 0.0205, 0.0195, *[0.001] * 3]]).expand(11, 11)
    ax = plot.lines(AttentionMap.from_weights(weights, queries=axis, keys=axis), query=4, ax=axes())
    assert ends(ax) == [(4, key) for key in range(6, -1, -1)]
    assert ax.get_title() == "head 0\nquery w3, 7 strongest of 11 weights"


def test_a_query_with_one_strong_line() -> None:
    """Five lines of one query are drawn, however faint all but one are."""
    axis = Tokens([f"w{number}" for number in range(10)])
    weights = torch.tensor([[0.9, *(0.01 - 0.001 * number for number in range(9))]]).expand(10, 10)
    ax = plot.lines(AttentionMap.from_weights(weights, queries=axis, keys=axis), query=4, ax=axes())
    assert ends(ax) == [(4, key) for key in range(4, -1, -1)]


def test_all_lines_of_one_query() -> None:
    """A query has as many lines as are asked for, the faint ones too."""
    axis = Tokens([str(number) for number in range(70)])
    weights = torch.rand(70, 70, generator=torch.Generator().manual_seed(0)) + 0.01
    one = AttentionMap.from_weights(weights, queries=axis, keys=axis)
    assert len(ends(plot.lines(one, query="3", strongest=70, ax=axes()))) == 70
    assert len(ends(plot.lines(one, query="3", ax=axes()))) < 60


def test_sixty_lines_of_one_query() -> None:
    """Of a query that attends to all keys evenly, no more are drawn than of all queries."""
    axis = Tokens([str(number) for number in range(70)])
    flat = AttentionMap.from_weights(torch.full((70, 70), 1 / 70), queries=axis, keys=axis)
    assert len(ends(plot.lines(flat, query="3", ax=axes()))) == 60


@pytest.mark.parametrize("query", [None, "w70"])
def test_the_ends_of_strong_lines_are_named(query: str | None) -> None:
    """In a text whose labels have not all room, those of the strongest lines are there, and none overlap."""
    axis = Tokens([f"w{number}" for number in range(128)])
    weights = torch.full((128, 128), 0.001)
    for row, column in ((70, 11), (70, 59), (70, 121), *([(31, 90)] if query is None else [])):
        weights[row, column] = 0.3 + column / 1000
    one = AttentionMap.from_weights(weights, queries=axis, keys=axis)
    ax = plot.lines(one, query=query, ax=axes(4, 3))
    left, right = labels(ax)
    assert set(left) > ({"w70", "w31"} if query is None else {"w70"})
    assert set(right) > {"w11", "w59", "w121", *({"w90"} if query is None else ())}
    assert len(left) < 40


@pytest.mark.parametrize(("end", "named"), [(40, {"[CLS]", "[SEP]", "w41"}), (1, {"w2", "[SEP]"})])
def test_what_grey_lines_end_in_is_named_after_the_strongest_lines(end: int, named: set[str]) -> None:
    """A reader takes the nearest name for that of a line: special tokens are named unless they are in its place."""
    names = ["[CLS]", *(f"w{number}" for number in range(126)), "[SEP]"]
    axis = Tokens(names, special=[name.startswith("[") for name in names])
    weights = torch.full((128, 128), 0.001)
    weights[:, 0] = 0.6
    weights[:, 127] = 0.2
    for number in range(1, 60):
        weights[number, end + number % 3] = 0.1 + 0.01 * (number % 3 == 2)
    one = AttentionMap.from_weights(weights, queries=axis, keys=axis)
    _, right = labels(plot.lines(one, ax=axes(4, 3)))
    assert named <= set(right)


def test_the_legend_names_the_greatest_weight_beyond_the_scale() -> None:
    """A special token that takes more than any word is as dark as the strongest word."""
    ax = plot.lines(sentence(), query="word3", ax=axes())
    bar = collection(ax).colorbar
    assert bar is not None
    assert bar.ax.get_xlabel() == f"attention weight (max {short(sentence()[0, 0, 4].max().item())})"


def test_the_strongest_of_one_query() -> None:
    """`strongest` counts among the lines of the query."""
    ax = plot.lines(attention(), sample=0, head=0, query="day", strongest=2, ax=axes())
    np.testing.assert_array_equal(values(ax), np.sort(attention()[0, 0, 2].numpy())[-2:])


def test_a_weight_of_0_has_no_line() -> None:
    """What is masked is not drawn, however many lines are asked for."""
    axis = Tokens(["a", "b", "c"])
    causal = AttentionMap.from_weights(torch.ones(3, 3).tril(), queries=axis, keys=axis)
    ax = plot.lines(causal, strongest=9, ax=axes())
    assert sorted(ends(ax)) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]


def test_equal_weights_are_drawn_in_the_order_of_the_text() -> None:
    """Of equal weights the first queries, and of one query the first keys, have the lines."""
    axis = Tokens(["a", "b", "c"])
    ax = plot.lines(AttentionMap.from_weights(torch.ones(3, 3), queries=axis, keys=axis), strongest=4, ax=axes())
    assert ends(ax) == [(1, 0), (0, 2), (0, 1), (0, 0)]


def test_tokens_stand_on_both_sides() -> None:
    """Queries are on the left, keys on the right, the first on top."""
    ax = plot.lines(attention(), sample=0, ax=axes())
    assert labels(ax) == [["[CLS]", "good", "day", "[SEP]"]] * 2
    assert (ax.get_ylim(), ax.get_xlim()) == ((3.5, -0.5), (0, 1))
    assert (ax.get_ylabel(), ax.child_axes[0].get_ylabel()) == ("query token", "key token")


def test_padding_is_left_out() -> None:
    """Padding has no label and no line, on either side, and what follows it moves up."""
    ax = plot.lines(attention(), sample=1, head=0, ax=axes())
    assert labels(ax) == [["[CLS]", "hi", "[SEP]"]] * 2
    assert ends(ax) == expected(attention()[1, 0, 1:, 1:].numpy(), 9)


def test_a_query_behind_padding() -> None:
    """A query after padding is chosen by its position in the text, and drawn at its row in the picture."""
    ax = plot.lines(attention(), sample=1, head=0, query="hi", ax=axes())
    np.testing.assert_array_equal(values(ax), np.sort(attention()[1, 0, 2, 1:].numpy()))
    assert {left for left, _ in ends(ax)} == {1}


def test_cross_attention() -> None:
    """The keys may be of another text, of another length."""
    ax = plot.lines(attention(SOURCE), sample=0, head=2, strongest=3, ax=axes())
    assert labels(ax) == [["[CLS]", "good", "day", "[SEP]"], ["guten", "Tag", "!", "</s>", "</s>"]]
    assert ends(ax) == expected(attention(SOURCE)[0, 2].numpy(), 3)
    assert ax.get_ylim() == (4.5, -0.5)


def test_one_scale() -> None:
    """Colours and widths go from 0 to the greatest weight, and the legend has the same scale."""
    ax = plot.lines(attention(), sample=0, ax=axes())
    found = collection(ax)
    greatest = float(values(ax)[-1])
    assert found.norm.vmin == 0
    assert found.norm.vmax == pytest.approx(greatest)
    assert found.get_cmap().name == "magma_r"
    np.testing.assert_allclose(np.asarray(found.get_linewidth()), 0.4 + 2 * values(ax) / greatest, rtol=1e-6)
    assert found.colorbar is not None
    assert found.colorbar.ax.get_xlabel() == "attention weight"


def test_a_given_scale() -> None:
    """Beyond the ends of a given scale, lines are no wider."""
    scale = Normalize(0, 0.2)
    found = collection(plot.lines(attention(), sample=0, norm=scale, cmap="cividis_r", ax=axes()))
    assert (found.norm, found.get_cmap().name) == (scale, "cividis_r")
    assert np.max(found.get_linewidth()) == pytest.approx(2.4)


@pytest.mark.parametrize("size", [(6.4, 4.8), (3.3, 2.5)])
@pytest.mark.parametrize("layout", [None, "tight", "constrained"])
def test_the_legend_is_below_the_lines(layout: Any, size: tuple[float, float]) -> None:
    """The legend covers no line, in any layout of the figure."""
    ax = plot.lines(attention(), sample=0, ax=Figure(size, layout=layout).subplots())
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed
    bar = collection(ax).colorbar
    assert bar is not None
    assert bar.ax.get_window_extent().y1 < ax.get_window_extent().y0


def test_without_a_legend() -> None:
    """The legend of the scale may be left out."""
    assert collection(plot.lines(attention(), sample=0, colorbar=False, ax=axes())).colorbar is None


def test_vector_graphics() -> None:
    """In SVG, tokens are text, and no part of the picture of lines is pixels."""
    with mpl.rc_context({"svg.fonttype": "none"}):
        ax = plot.lines(attention(), sample=0, colorbar=False, ax=axes())
        file = io.StringIO()
        ax.figure.savefig(file, format="svg")  # type: ignore[union-attr]  # more is known here than is typed
    assert file.getvalue().count(">good</text>") == 2
    assert "<image" not in file.getvalue()


def test_a_new_figure_is_high_enough() -> None:
    """Each token of a long text has its line in a new figure."""
    axis = Tokens([f"w{number}" for number in range(70)])
    weights = AttentionMap.from_weights(torch.rand(70, 70), queries=axis, keys=axis)
    ax = plot.lines(weights)
    assert [len(side) for side in labels(ax)] == [70, 70]
    plt.close("all")


def test_a_column_of_a_paper() -> None:
    """In 3.3 inches nothing is cut off, and columns, labels and legend do not cover each other."""
    ax = plot.lines(attention(), sample=0, ax=axes(3.3, 2.5))
    figure = ax.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed
    whole = ax.get_tightbbox()
    bar = collection(ax).colorbar
    assert whole is not None
    assert bar is not None
    below = bar.ax.get_tightbbox()
    assert below is not None
    assert below.y1 <= whole.y0 + 1
    assert whole.x0 >= 0
    assert whole.x1 <= figure.bbox.width
    assert ax.bbox.width > 0.4 * figure.bbox.width


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ChoiceError, "sample=0"),
        ({"sample": 2}, PositionError, "2"),
        ({"sample": 0, "head": 3}, PositionError, "head"),
        ({"sample": 0, "query": "moon"}, NameNotFoundError, "moon"),
        ({"sample": 0, "strongest": 0}, OptionError, r"strongest=0 is not a number of lines; pass 1 or more"),
        ({"sample": 1, "query": 0}, PositionError, r"Query 0 is padding in text 1.*pass another"),
    ],
)
def test_what_is_not_there(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """A text, head, query or number of lines that does not exist is refused."""
    with pytest.raises(error, match=message):
        plot.lines(attention(), **options)


def test_a_text_that_is_all_padding() -> None:
    """A text that is all padding is refused, and leaves no figure."""
    axis = Tokens([["a", "b"], ["[PAD]", "[PAD]"]], padding=[[0, 0], [1, 1]])
    batch = AttentionMap.from_weights(torch.full((2, 1, 2, 2), 0.5), queries=axis, keys=axis)
    with pytest.raises(PositionError, match=r"Text 1 of Tokens\(2, texts=2\) is all padding.*draw another text"):
        plot.lines(batch, sample=1)
    assert plt.get_fignums() == []


def test_windows_of_a_text_share_its_tokens() -> None:
    """Of a layer of windows, the tokens are those of the text whose window it is."""
    weights = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    windows = AttentionMap.from_weights(weights, queries=AXIS, keys=AXIS, windows=2)
    ax = plot.lines(windows, sample=2, ax=axes())
    assert labels(ax) == [["[CLS]", "hi", "[SEP]"]] * 2
    assert ends(ax) == expected(weights[2, 0, 1:, 1:].numpy(), 9)
    assert ax.get_title().startswith("image 1, window 0")


@pytest.mark.parametrize(
    ("token", "name"), [("$$", r"\$\$"), ("$5$", r"\$5\$"), ("\n", r"\n"), ("x" * 60, "xxxxxxxxxxxxx…")]
)
def test_the_query_in_the_title_is_plain_text(token: str, name: str) -> None:
    """A token is no formula, breaks no line and is not too long in the title, as it is beside its line."""
    axis = Tokens([token, "b"])
    ax = plot.lines(AttentionMap.from_weights(torch.eye(2), queries=axis, keys=axis), query=token, ax=axes())
    assert ax.get_title() == f"head 0\nquery {name}, 1 strongest of 2 weights"
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed


def test_the_legend_of_a_logarithm_keeps_apart() -> None:
    """The numbers of a logarithmic scale do not overprint each other."""
    weights = torch.logspace(-2.3, -0.6, 16).reshape(4, 4)
    axis = Tokens(list("abcd"))
    bar = collection(
        plot.lines(AttentionMap.from_weights(weights, queries=axis, keys=axis), norm="log", ax=axes())
    ).colorbar
    assert bar is not None
    bar.ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed
    written = [*bar.ax.get_xticklabels(), *bar.ax.get_xticklabels(minor=True)]
    boxes = [label.get_window_extent() for label in written if label.get_text()]
    assert len(boxes) >= 2
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@pytest.mark.parametrize("options", [{"norm": "foo"}, {"cmap": "foo"}])
def test_no_figure_of_a_mistake(options: dict[str, Any]) -> None:
    """A refused scale or colormap leaves no empty figure."""
    with pytest.raises(OptionError, match=r"'foo' is no (scale|colormap)"):
        plot.lines(attention(), sample=0, **options)
    assert plt.get_fignums() == []


def test_positions_that_are_no_tokens() -> None:
    """A map without tokens is refused with the recipe that draws it."""
    with pytest.raises(ShapeError, match=r"queries of 'layer.0' are not tokens.*heatmap"):
        plot.lines(AttentionMap.from_weights(torch.eye(3), name="layer.0"))


def sentence(length: int = 14) -> AttentionMap:
    """Return a map in which every token rests on "[CLS]"."""
    axis = Tokens(["[CLS]", *(f"word{n}" for n in range(length)), "[SEP]"], special=[1, *[0] * length, 1])
    weights = torch.rand(len(axis), len(axis), generator=torch.Generator().manual_seed(0)) / 100
    weights[:, 0] = 0.9
    return AttentionMap.from_weights(weights, queries=axis, keys=axis)


def test_lines_between_words() -> None:
    """Without a query, lines between words are drawn, and those of special tokens in grey behind them."""
    ax = plot.lines(sentence(), strongest=20, ax=axes())
    found, behind = ax.collections
    assert isinstance(found, LineCollection)
    assert isinstance(behind, LineCollection)
    rows, columns = np.array(found.get_segments())[:, :, 1].T
    assert set(rows) | set(columns) <= set(range(1, 15))
    assert found.norm.vmax == pytest.approx(sentence()[0, 0, 1:-1, 1:-1].max().item())
    assert {(0.0, 0.0), (5.0, 0.0)} < {(a, b) for a, b in np.array(behind.get_segments())[:, :, 1]}
    assert behind.get_zorder() < found.get_zorder()
    assert ax.get_title() == "head 0\n20 strongest of 196 between words"
    assert found.colorbar is not None
    assert found.colorbar.ax.get_xlabel() == "attention weight\n(grey: special tokens, not to scale)"


def test_the_line_of_a_query_to_a_special_token() -> None:
    """All lines of a query can be drawn, on a scale for words, and a triangle shows what lies beyond."""
    found = collection(plot.lines(sentence(), query="word3", strongest=16, ax=axes()))
    assert len(found.get_segments()) == 16
    assert found.norm.vmax == pytest.approx(sentence()[0, 0, 4, 1:-1].max().item())
    assert found.colorbar is not None
    assert found.colorbar.extend == "max"


def test_every_token_of_a_sentence_is_labelled() -> None:
    """In a column of a paper, labels become smaller before any is left out, and are alike on both sides."""
    ax = plot.lines(sentence(), query="word3", ax=axes(4, 3))
    assert [len(side) for side in labels(ax)] == [16, 16]
    sizes = {float(one.yaxis.get_majorticklabels()[0].get_fontsize()) for one in (ax, ax.child_axes[0])}
    assert len(sizes) == 1
    assert min(sizes) >= 4.5
