"""The recipes `cross` and `rollout`: what is drawn of a text, how it is labelled, and what is refused."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure

import anylocal.attention
from anylocal.attention import AttentionMap, AttentionMaps, Tokens
from anylocal.drawing import scale_of
from anylocal.errors import ChoiceError, NameNotFoundError, OptionError, PositionError, ShapeError, StateError
from anylocal_bert import plot

mpl.use("Agg")

SOURCE = Tokens(
    [["guten", "Tag", "!", "</s>"], ["hallo", "!", "</s>", "<pad>"]], padding=[[False] * 4, [False, False, False, True]]
)
TARGET = Tokens(
    [["<pad>", "good", "day"], ["<pad>", "hello", "</s>"]],
    padding=[[False] * 3, [False, False, True]],
)


def make(queries: Tokens, keys: Tokens, *, heads: int = 2, seed: int = 0, name: str = "layer.0") -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(2, heads, len(queries), len(keys), generator=generator)
    visible = torch.tensor(np.stack([~keys.is_padding(text) for text in (0, 1)]))
    weights = weights * visible[:, None, None]
    return AttentionMap.from_weights(weights / weights.sum(-1, keepdim=True), name=name, queries=queries, keys=keys)


def layers(count: int = 3) -> AttentionMaps:
    return AttentionMaps(make(SOURCE, SOURCE, seed=number, name=f"layer.{number}") for number in range(count))


def axes() -> Axes:
    return Figure(layout="constrained").subplots()


def covers(ax: Axes) -> list[list[float]]:
    """Return what lies under the grey of padding: left, bottom, width, height."""
    found = [patch for patch in ax.patches if patch.get_gid() == "padding"]
    assert {to_hex(patch.get_facecolor()) for patch in found} <= {"#999999"}
    # A span is a polygon in matplotlib 3.8, and a rectangle since.
    corners = [patch.get_patch_transform().transform(patch.get_path().vertices) for patch in found]
    return [[*low.tolist(), *(high - low).tolist()] for low, high in ((c.min(0), c.max(0)) for c in corners)]


def labels(ruler: Any) -> list[str]:
    """Return what is written along an axis within the view."""
    ruler.axes.figure.draw_without_rendering()
    low, high = sorted(ruler.get_view_interval())
    return [tick.label1.get_text() for tick in ruler.get_major_ticks() if low <= tick.get_loc() <= high]


class TestCross:
    """A row for each target token, a column for each source token."""

    def test_weights(self) -> None:
        """The drawn weights are those of one head, or the mean over heads."""
        attention = make(TARGET, SOURCE)
        one = plot.cross(attention, sample=0, head=1, ax=axes()).images[0].get_array()
        np.testing.assert_array_equal(np.asarray(one), attention[0, 1])
        mean = plot.cross(attention, sample=0, ax=axes()).images[0].get_array()
        np.testing.assert_allclose(np.asarray(mean), attention.head_mean()[0], rtol=1e-6)

    def test_labels(self) -> None:
        """Both axes are named, and all their tokens are labelled."""
        ax = plot.cross(make(TARGET, SOURCE), sample=0, ax=axes())
        assert (ax.get_ylabel(), ax.get_xlabel()) == ("target token", "source token")
        assert labels(ax.yaxis) == ["<pad>", "good", "day"]
        assert labels(ax.xaxis) == ["guten", "Tag", "!", "</s>"]

    @pytest.mark.parametrize("sample", [1, -1])
    def test_padding(self, sample: int) -> None:
        """Padding on both sides is covered, also if the sample is counted from the end."""
        ax = plot.cross(make(TARGET, SOURCE), sample=sample, ax=axes())
        assert covers(ax) == [[2.5, -0.5, 1, 3], [-0.5, 1.5, 4, 1]]

    def test_chosen_rows(self) -> None:
        """The rows of chosen target tokens are drawn in the given order."""
        attention = make(TARGET, SOURCE)
        ax = plot.cross(attention, sample=1, queries=["hello", 0], ax=axes())
        np.testing.assert_allclose(
            np.asarray(ax.images[0].get_array()), attention.head_mean([1, 0])[1].numpy(), rtol=1e-6
        )
        assert covers(ax) == [[2.5, -0.5, 1, 2]]

    def test_chosen_rows_of_padding(self) -> None:
        """A chosen target token that is padding is covered, and does not set the scale."""
        weights = torch.full((2, 1, 3, 4), 0.25)
        weights[1, :, 2] = torch.tensor([1.0, 0, 0, 0])
        attention = AttentionMap.from_weights(weights, queries=TARGET, keys=SOURCE)
        ax = plot.cross(attention, sample=1, queries=[2, "hello"], ax=axes())
        assert covers(ax) == [[2.5, -0.5, 1, 2], [-0.5, -0.5, 4, 1]]
        assert ax.images[0].norm.vmax == 0.25

    def test_windows_of_a_text_share_its_tokens(self) -> None:
        """In a layer of windows, each window has the padding of its text."""
        attention = AttentionMap.from_weights(torch.ones(4, 1, 3, 4), queries=TARGET, keys=SOURCE, windows=2)
        drawn = [plot.cross(attention, sample=at, ax=axes()) for at in range(4)]
        assert [len(covers(ax)) for ax in drawn] == [0, 0, 2, 2]

    def test_self_attention_is_refused(self) -> None:
        """A map of one text is refused, with the recipe that draws it."""
        with pytest.raises(ShapeError, match=r"layer.0.* is self-attention.*Draw it with tokens\."):
            plot.cross(make(SOURCE, SOURCE), sample=0)

    def test_a_step_of_generation_is_self_attention(self) -> None:
        """The last tokens of a text that attend to it are not another text."""
        step = Tokens([["!"], ["</s>"]], start=2)
        keys = Tokens([["guten", "Tag", "!"], ["hallo", "!", "</s>"]])
        with pytest.raises(ShapeError, match="self-attention"):
            plot.cross(make(step, keys), sample=0)

    def test_a_text_that_is_its_own_translation(self) -> None:
        """If both texts are equal, the name of the module shows that there are two."""
        attention = make(SOURCE, SOURCE, name="decoder.block.0.layer.1.EncDecAttention")
        assert plot.cross(attention, sample=0, ax=axes()).get_xlabel() == "source token"

    def test_positions_that_are_no_tokens(self) -> None:
        """A map without tokens is refused, with the recipe that draws it."""
        with pytest.raises(ShapeError, match=r"queries of 'layer.0' are not tokens.*heatmap"):
            plot.cross(AttentionMap.from_weights(torch.eye(3), name="layer.0"))

    def test_a_batch_needs_a_choice(self) -> None:
        """One of several texts must be chosen."""
        with pytest.raises(ChoiceError, match="sample=0 … 1"):
            plot.cross(make(TARGET, SOURCE))


class TestRollout:
    """A bar for each token."""

    def test_values(self) -> None:
        """The lengths of bars are the rollout of the query, in the order of the text, the first on top."""
        ax = plot.rollout(layers(), query="Tag", sample=0, ax=axes())
        bars = list(ax.containers[0])
        expected = layers().rollout()[0, 1]
        np.testing.assert_allclose([bar.get_width() for bar in bars], expected, rtol=1e-6)
        assert [bar.get_y() + bar.get_height() / 2 for bar in bars] == [0, 1, 2, 3]
        assert ax.get_ylim() == (3.5, -0.5)
        assert ax.get_xlim() == pytest.approx((0, 1.02 * expected.max().item()))

    def test_one_layer(self) -> None:
        """A map alone is a sequence of one."""
        (one,) = layers(1)
        given: Any = (one, [one])
        widths = [[bar.get_width() for bar in plot.rollout(maps, sample=0, ax=axes()).containers[0]] for maps in given]
        assert widths[0] == widths[1]

    def test_one_row_is_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the row of the query is computed."""
        asked: list[Any] = []

        def follow(maps: Any, **options: Any) -> torch.Tensor:
            asked.append(options)
            return anylocal.attention.rollout(maps, **options)

        monkeypatch.setattr(plot, "follow", follow)
        plot.rollout(layers(), query=-2, sample=0, residual=0.25, ax=axes())
        assert asked == [{"residual": 0.25, "queries": 2}]

    def test_residual(self) -> None:
        """The share of the residual connection can be set."""
        bars = plot.rollout(layers(), sample=0, residual=0.1, ax=axes()).containers[0]
        expected = layers().rollout(residual=0.1, queries=0)[0]
        np.testing.assert_allclose([bar.get_width() for bar in bars], expected, rtol=1e-6)

    def test_the_first_token_by_default(self) -> None:
        """Without a query, the first token that is not padding is drawn, and named."""
        assert plot.rollout(layers(), sample=0, ax=axes()).get_title() == "rollout of 3 layers, sample 0\nquery guten"
        left = Tokens(["[PAD]", "[CLS]", "hi"], padding=[True, False, False])
        one = AttentionMap.from_weights(torch.full((3, 3), 1 / 3), queries=left, keys=left)
        assert plot.rollout([one], ax=axes()).get_title() == "rollout of 1 layer\nquery [CLS]"

    def test_the_last_token_of_a_decoder_by_default(self) -> None:
        """Where the first token sees only itself, its row tells nothing."""
        left = Tokens(["[PAD]", "a", "cat"], padding=[True, False, False])
        one = AttentionMap.from_weights(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.3, 0.7]]), queries=left, keys=left)
        assert plot.rollout([one], ax=axes()).get_title() == "rollout of 1 layer\nquery cat"

    @pytest.mark.parametrize(("options", "color"), [({}, "C0"), ({"color": "0.2"}, "0.2")])
    def test_one_colour(self, options: dict[str, Any], color: str) -> None:
        """The length alone tells the value: bars have one colour, and there is no colorbar."""
        ax = plot.rollout(layers(), sample=0, ax=axes(), **options)
        assert {to_hex(bar.get_facecolor()) for bar in ax.containers[0]} == {to_hex(color)}
        assert ax.figure.axes == [ax]

    def test_special_tokens_do_not_rule_the_scale(self) -> None:
        """The axis ends at the greatest value of a word, and the value of a longer bar is written beside it."""
        axis = Tokens(["[CLS]", "a", "b"], special=[1, 0, 0])
        weights = torch.tensor([[0.9, 0.06, 0.04]]).expand(3, 3)
        ax = plot.rollout([AttentionMap.from_weights(weights, queries=axis, keys=axis)], query=0, ax=axes())
        row = [bar.get_width() for bar in ax.containers[0]]
        assert row == pytest.approx([0.95, 0.03, 0.02])
        assert ax.get_xlim() == pytest.approx((0, 1.02 * 0.03))
        assert [(text.get_text(), text.get_position()[1]) for text in ax.texts] == [(".95", 0)]

    def test_a_long_bar_is_broken(self) -> None:
        """Two gaps near its end and an arrow beyond show that a bar is longer than the axis."""
        axis = Tokens(["[CLS]", "a", "b"], special=[1, 0, 0])
        weights = torch.tensor([[0.9, 0.06, 0.04]]).expand(3, 3)
        ax = plot.rollout([AttentionMap.from_weights(weights, queries=axis, keys=axis)], query=0, ax=axes())
        ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed
        (gaps,) = (found for found in ax.collections if found.get_gid() == "break")
        assert isinstance(gaps, LineCollection)
        points = [gaps.get_transform().transform(gap) for gap in gaps.get_segments()]
        bar = ax.containers[0][0].get_window_extent()
        assert len(points) == 2
        for gap in points:
            assert ax.bbox.x1 - 30 < gap[:, 0].min() < gap[:, 0].max() < ax.bbox.x1
            assert (gap[:, 1].min(), gap[:, 1].max()) == pytest.approx((bar.y0, bar.y1), abs=0.1 * bar.height)
        (arrow,) = (line for line in ax.lines if line.get_gid() == "break")
        ((x, y),) = arrow.get_transform().transform(arrow.get_xydata())
        assert ax.bbox.x1 < x < ax.texts[0].get_window_extent().x0
        assert bar.y0 < y < bar.y1

    def test_a_bar_that_is_a_little_longer(self) -> None:
        """The axis reaches a bar that is at most a quarter longer than that of any word."""
        axis = Tokens(["[CLS]", "a", "b"], special=[1, 0, 0])
        weights = torch.tensor([[0.36, 0.3, 0.34]]).expand(3, 3)
        one = AttentionMap.from_weights(weights, queries=axis, keys=axis)
        for norm in (None, "sqrt", "log"):
            ax = plot.rollout([one], query=1, residual=0.0, norm=norm, ax=axes())
            assert ax.get_xlim()[1] == pytest.approx(0.36, rel=0.03)
            assert not ax.texts

    def test_numbers_of_near_bars_keep_apart(self) -> None:
        """Of two broken bars that nearly touch, the longer has its number, and each its arrow."""
        axis = Tokens(["[CLS]", "[SEP]", *(f"w{number}" for number in range(126))], special=[1, 1, *[0] * 126])
        weights = torch.tensor([[0.5, 0.4, *[0.1 / 126] * 126]]).expand(128, 128)
        one = AttentionMap.from_weights(weights, queries=axis, keys=axis)
        ax = plot.rollout([one], query=5, residual=0.0, ax=axes())
        assert [text.get_text() for text in ax.texts] == [".50"]
        assert len([line for line in ax.lines if line.get_gid() == "break"]) == 2

    def test_the_longest_bars_are_named(self) -> None:
        """In a text whose labels have not all room, those of the five longest bars are there."""
        axis = Tokens([f"w{number}" for number in range(128)])
        weights = torch.full((128,), 0.001)
        weights[[13, 41, 58, 90, 121]] = 0.1
        one = AttentionMap.from_weights(weights.expand(128, 128), queries=axis, keys=axis)
        ax = plot.rollout([one], query=5, residual=0.0, ax=Figure((4, 3), layout="constrained").subplots())
        assert {"w13", "w41", "w58", "w90", "w121"} < set(labels(ax.yaxis))
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        assert all(float(label.get_fontsize()) >= 6.5 for label in ax.get_yticklabels())

    def test_numbers_are_written_alike(self) -> None:
        """Along the axis as beside a bar: without the 0 before the point."""
        axis = Tokens(["[CLS]", "a", "b"], special=[1, 0, 0])
        weights = torch.tensor([[0.9, 0.06, 0.04]]).expand(3, 3)
        ax = plot.rollout([AttentionMap.from_weights(weights, queries=axis, keys=axis)], query=0, ax=axes())
        assert labels(ax.xaxis) == ["0", ".008", ".016", ".024"]

    def test_a_given_scale(self) -> None:
        """A given scale is that of the axis, and the values beyond it are written."""
        ax = plot.rollout(layers(), sample=0, norm=Normalize(0, 0.01), ax=axes())
        assert ax.get_xlim() == pytest.approx((0, 0.0102))
        assert len(ax.texts) == 4

    @pytest.mark.parametrize("norm", ["sqrt", "log", "rank"])
    def test_named_scales(self, norm: str) -> None:
        """The scales of other recipes are scales of lengths here."""
        ax = plot.rollout(layers(), sample=0, norm=norm, ax=axes())
        ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed
        row = layers().rollout(queries=0)[0].numpy()
        ends = ax.transData.transform([(value, 0) for value in row])[:, 0]
        shares = (ends - ax.bbox.x0) / ax.bbox.width
        np.testing.assert_allclose(shares, np.ma.filled(scale_of(norm, [row])(row)), atol=1e-3)

    def test_numbers_keep_apart(self) -> None:
        """In a column of a paper, the numbers along the axis do not touch."""
        axis = Tokens([f"word {number}" for number in range(126)])
        weights = torch.tensor([0.0145, 0.0013]).repeat(126, 63)
        one = AttentionMap.from_weights(weights, queries=axis, keys=axis)
        ax = plot.rollout([one], residual=0.0, ax=Figure((3.8, 3), layout="constrained").subplots())
        ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed
        boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))

    def test_no_number_at_all(self) -> None:
        """Maps of NaN are drawn, without bars."""
        axis = Tokens(["a", "b"])
        ax = plot.rollout([AttentionMap.from_weights(torch.full((2, 2), np.nan), queries=axis, keys=axis)], ax=axes())
        assert ax.get_xlim() == (0, 1.02)

    @pytest.mark.parametrize(("height", "expected"), [(12, 0.8), (3, 1.0)])
    def test_gaps_between_bars(self, height: float, expected: float) -> None:
        """Where a bar is a few pixels high, bars stand without gaps, which would make a pattern."""
        axis = Tokens([f"word{n}" for n in range(100)])
        one = AttentionMap.from_weights(torch.full((100, 100), 0.01), queries=axis, keys=axis)
        ax = plot.rollout([one], ax=Figure((4, height)).subplots())
        assert {round(bar.get_height(), 6) for bar in ax.containers[0]} == {expected}

    def test_labels(self) -> None:
        """Each bar has its token."""
        ax = plot.rollout(layers(), sample=0, ax=axes())
        assert labels(ax.yaxis) == ["guten", "Tag", "!", "</s>"]
        assert (ax.get_ylabel(), ax.get_xlabel()) == ("token", "attention rollout")

    @pytest.mark.parametrize("sample", [1, -1])
    def test_padding(self, sample: int) -> None:
        """The line of padding is covered from side to side."""
        ax = plot.rollout(layers(), sample=sample, ax=axes())
        assert covers(ax) == [[0, 2.5, 1, 1]]
        assert ax.get_title().startswith("rollout of 3 layers, sample 1")

    @pytest.mark.parametrize(
        ("token", "name"), [("$$", r"\$\$"), ("$5$", r"\$5\$"), ("\n", r"\n"), ("x" * 60, "xxxxxxxxxxxxx…")]
    )
    def test_the_query_in_the_title_is_plain_text(self, token: str, name: str) -> None:
        """The title shows a token as plain text, on one line and shortened, as beside its bar."""
        axis = Tokens([token, "b"])
        one = AttentionMap.from_weights(torch.eye(2), queries=axis, keys=axis)
        ax = plot.rollout([one], query=token, ax=axes())
        assert ax.get_title() == f"rollout of 1 layer\nquery {name}"
        ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # more is known here than is typed

    def test_no_figure_of_a_mistake(self) -> None:
        """A refused scale leaves no empty figure."""
        before = plt.get_fignums()
        with pytest.raises(OptionError, match="'foo' is no scale"):
            plot.rollout(layers(), sample=0, norm="foo")
        assert plt.get_fignums() == before

    def test_a_text_that_is_all_padding(self) -> None:
        """Without a query, a text that is all padding is refused."""
        axis = Tokens([["a", "b"], ["[PAD]", "[PAD]"]], padding=[[0, 0], [1, 1]])
        batch = AttentionMap.from_weights(torch.full((2, 1, 2, 2), 0.5), queries=axis, keys=axis)
        with pytest.raises(PositionError, match=r"Text 1 of Tokens\(2, texts=2\) is all padding.*draw another text"):
            plot.rollout([batch], sample=1)

    def test_a_new_figure_is_high_enough(self) -> None:
        """Each token of a long text has its line in a new figure."""
        axis = Tokens([f"w{number}" for number in range(70)])
        ax = plot.rollout([AttentionMap.from_weights(torch.rand(70, 70), queries=axis, keys=axis)])
        assert len(labels(ax.yaxis)) == 70
        plt.close("all")

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({}, ChoiceError, "sample=0 … 1"),
            ({"sample": 0, "query": "moon"}, NameNotFoundError, "moon"),
            ({"sample": 1, "query": 3}, PositionError, "Query 3 is padding in text 1"),
            ({"sample": 0, "residual": 2}, OptionError, "residual=2"),
        ],
    )
    def test_what_is_not_there(self, options: dict[str, Any], error: type[Exception], message: str) -> None:
        """A text or a query that does not exist, or is padding, is refused."""
        with pytest.raises(error, match=message):
            plot.rollout(layers(), **options)

    def test_maps_that_cannot_be_rolled_out(self) -> None:
        """No maps, maps without tokens, and cross-attention are refused."""
        with pytest.raises(StateError, match="run the model inside the capture"):
            plot.rollout([])
        with pytest.raises(ShapeError, match="not tokens"):
            plot.rollout([AttentionMap.from_weights(torch.eye(3))])
        with pytest.raises(ShapeError, match="not self-attention"):
            plot.rollout([make(TARGET, SOURCE)], sample=0)
