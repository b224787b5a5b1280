"""The recipes `entropy` and `difference`: what is drawn, where, in which colours, and what is refused."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure

from anylocal import attention as numbers
from anylocal import plot
from anylocal._maps import statistics
from anylocal.attention import AttentionMap, AttentionMaps, Axis, Patches, Tokens
from anylocal.errors import ChoiceError, OptionError, PositionError, ShapeError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

PATCHES = Patches(grid=(2, 3), prefix=("cls", "reg"))


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Drawing changes no setting of matplotlib, and the tests leave no figure."""
    before = mpl.rcParams.copy()
    yield
    plt.close("all")
    assert before == mpl.rcParams


def make(
    batch: int = 1, heads: int = 3, axis: Any = PATCHES, seed: int = 0, name: str = "blocks.3.attn", **options: Any
) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(batch, heads, len(axis), 4, generator=generator) for _ in "qk")
    return AttentionMap.from_qk(3 * q, k, queries=axis, keys=axis, name=name, **options)


def layers(*heads: int, batch: int = 1, **options: Any) -> AttentionMaps:
    return AttentionMaps(make(batch, number, seed=seed, **options) for seed, number in enumerate(heads))


def empty(**options: Any) -> Axes:
    """Return axes that pyplot does not know."""
    figure = Figure(layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure.subplots()


def figure_of(ax: Axes) -> Figure:
    assert isinstance(ax.figure, Figure)
    return ax.figure


def drawn(ax: Axes) -> np.ndarray[Any, Any]:
    (image,) = ax.images
    return np.asarray(image.get_array())


def dots(ax: Axes, number: int = 0) -> np.ndarray[Any, Any]:
    return np.asarray(ax.collections[number].get_offsets())


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def pixel(ax: Axes, x: float, y: float) -> tuple[float, ...]:
    """Return the colour at a place of the axes, as it is rendered: between 0 and 1."""
    figure = figure_of(ax)
    figure.canvas.draw()
    canvas = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]  # more is known here than is typed
    across, up = ax.transData.transform((x, y)).round().astype(int)
    return tuple(canvas[len(canvas) - 1 - up, across, :3] / 255)


class TestEntropy:
    """How evenly the heads of each layer spread their attention."""

    def test_dots(self) -> None:
        """Each head of each layer has a dot at its entropy, at the layer's place."""
        maps = layers(3, 2, 3)
        found = dots(plot.entropy(maps, ax=empty()))
        expected = [(layer, value) for layer, item in enumerate(maps) for value in numbers.entropy(item)[0].tolist()]
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_line(self) -> None:
        """The line goes through the mean of the heads of each layer."""
        maps = layers(3, 2, 3)
        line = plot.entropy(maps, ax=empty()).lines[0]
        assert np.asarray(line.get_xdata()).tolist() == [0, 1, 2]
        np.testing.assert_allclose(
            np.asarray(line.get_ydata()), [numbers.entropy(item).mean().item() for item in maps], rtol=1e-6
        )

    def test_mean_over_the_batch(self) -> None:
        """Without a sample, the mean over the batch is drawn, and the title says so."""
        maps = layers(3, 3, batch=4)
        ax = plot.entropy(maps, ax=empty())
        np.testing.assert_allclose(dots(ax)[:3, 1], numbers.entropy(maps[0]).mean(0), rtol=1e-6)
        assert ax.get_title() == "mean of 4 samples"

    def test_a_text_of_nothing_but_padding(self) -> None:
        """A sample without any number is left out of the mean."""
        axis = Tokens([["a", "b"], ["x", "x"]], padding=[[0, 0], [1, 1]])
        (layer,) = maps = layers(3, batch=2, axis=axis)
        np.testing.assert_allclose(dots(plot.entropy(maps, ax=empty()))[:, 1], numbers.entropy(layer)[0], rtol=1e-6)

    def test_texts_of_nothing_but_padding(self) -> None:
        """Where no sample has a number there is no dot, which at 0 would say something else."""
        axis = Tokens(["x", "x"], padding=[1, 1])
        assert np.isnan(dots(plot.entropy(layers(3, batch=2, axis=axis), ax=empty()))[:, 1]).all()

    @pytest.mark.parametrize("sample", [2, -2])
    def test_sample(self, sample: int) -> None:
        """A chosen sample is drawn, and named, counted from the start."""
        maps = layers(3, 3, batch=4)
        ax = plot.entropy(maps, sample=sample, ax=empty())
        np.testing.assert_allclose(dots(ax)[3:, 1], numbers.entropy(maps[1])[2], rtol=1e-6)
        assert ax.get_title() == "sample 2"

    def test_windows_are_of_images(self) -> None:
        """Of a windowed layer, a sample is an image: all its windows together."""
        maps = AttentionMaps([make(6, windows=3)])
        ax = plot.entropy(maps, sample=1, ax=empty())
        np.testing.assert_allclose(dots(ax)[:, 1], numbers.entropy(maps[0])[1], rtol=1e-6)
        assert ax.get_title() == "sample 1"

    def test_labels(self) -> None:
        """Axes and legend say what is drawn; of one sample, no title is needed."""
        ax = plot.entropy(layers(3, 3), ax=empty())
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("layer", "entropy (nats)", "")
        assert legend(ax) == ["mean of heads", "head", "uniform attention"]

    def test_scales(self) -> None:
        """Entropies start at 0, all dots are inside, and each layer has its room."""
        ax = plot.entropy(layers(3, 3, 3), ax=empty())
        bottom, top = ax.get_ylim()
        assert bottom == 0
        assert top == pytest.approx(1.06 * np.log(8))
        assert dots(ax)[:, 1].max() < top
        assert ax.get_xlim() == (-0.5, 2.5)

    def test_uniform_attention(self) -> None:
        """A thin grey line is at the logarithm of the number of keys of each layer."""
        flat = [AttentionMap.from_weights(torch.eye(n)) for n in (4, 9)]
        line = plot.entropy(flat, ax=empty()).lines[1]
        np.testing.assert_allclose(np.asarray(line.get_xdata()), [-0.5, 0.5, 0.5, 1.5])
        np.testing.assert_allclose(np.asarray(line.get_ydata()), np.log([4, 4, 9, 9]), rtol=1e-6)
        assert to_rgb(line.get_color()) == (0.5, 0.5, 0.5)

    def test_uniform_attention_to_padded_texts(self) -> None:
        """Padding is no key, and of several texts the mean is drawn."""
        axis = Tokens([["a", "b", "c"], ["x", "y", "z"]], padding=[[0, 0, 0], [0, 1, 1]])
        maps = layers(3, batch=2, axis=axis)
        for sample, expected in ((0, np.log(3)), (1, 0), (None, np.log(3) / 2)):
            line = plot.entropy(maps, sample=sample, ax=empty()).lines[1]
            np.testing.assert_allclose(np.asarray(line.get_ydata()), expected, rtol=1e-6)

    def test_the_legend_keeps_off_the_lines(self) -> None:
        """It lies on none of the lines where there is room elsewhere."""
        ax = plot.entropy([AttentionMap.from_weights(torch.eye(9))] * 3, ax=empty())
        figure_of(ax).draw_without_rendering()
        found = ax.get_legend()
        assert found is not None
        box = found.get_window_extent()
        low, high = ax.transData.transform([(0, 0), (0, np.log(9))])[:, 1]
        assert low < box.y0 < box.y1 < high

    def test_no_entropy_at_all(self) -> None:
        """Attention to one key only, of every query, is drawn at 0."""
        ax = plot.entropy([AttentionMap.from_weights(torch.eye(3))], ax=empty())
        assert ax.get_ylim() == pytest.approx((0, 1.06 * np.log(3)))

    def test_no_number_at_all(self) -> None:
        """Maps that hold NaN only have a picture, without dots."""
        ax = plot.entropy([AttentionMap.from_weights(torch.full((2, 2), torch.nan))], ax=empty())
        figure_of(ax).canvas.draw()
        assert ax.get_ylim() == pytest.approx((0, 1.06 * np.log(2)))

    @pytest.mark.parametrize(
        ("depth", "expected"), [(1, [0]), (3, [0, 1, 2]), (48, [0, 5, 10, 15, 20, 25, 30, 35, 40, 45])]
    )
    def test_ticks_are_layers(self, depth: int, expected: list[int]) -> None:
        """Ticks are whole numbers of layers, at regular distances, as many as have room."""
        ax = plot.entropy(layers(*[1] * depth), ax=empty(figsize=(4, 3)))
        figure_of(ax).draw_without_rendering()
        assert [label.get_text() for label in ax.get_xticklabels()] == [str(tick) for tick in expected]
        assert np.asarray(ax.get_xticks()).tolist() == expected

    def test_colours(self) -> None:
        """Line and dots have the first colour of the settings, the dots paler, and below the line."""
        with mpl.rc_context({"axes.prop_cycle": cycler(color=["#ff0000"])}):
            ax = plot.entropy(layers(3, 3), ax=empty())
        line, (heads,) = ax.lines[0], ax.collections
        assert heads.get_sizes().tolist() == [(0.7 * line.get_markersize()) ** 2]  # type: ignore[attr-defined]  # a collection of markers
        assert to_rgb(line.get_color()) == (1, 0, 0)
        np.testing.assert_allclose(np.asarray(heads.get_facecolor()), [(1, 0, 0, 0.45)])
        assert heads.get_zorder() < line.get_zorder()

    def test_colours_of_a_second_line(self) -> None:
        """Beside what was drawn before, the dots have the colour of their line all the same."""
        ax = empty()
        ax.plot([0, 1], [1, 1])
        plot.entropy(layers(3, 3), ax=ax)
        expected = to_rgb(ax.lines[1].get_color())
        np.testing.assert_allclose(np.asarray(ax.collections[0].get_facecolor())[0, :3], expected)

    def test_on_paper(self) -> None:
        """In the rendered picture, the line is where its mean is."""
        layer = AttentionMap.from_weights(torch.full((1, 4, 4), 0.25))
        with mpl.rc_context({"axes.prop_cycle": cycler(color=["#ff0000"])}):
            ax = plot.entropy([layer, layer], ax=empty())
        np.testing.assert_allclose(pixel(ax, 0.5, np.log(4)), (1, 0, 0), atol=0.02)
        assert pixel(ax, 0.5, np.log(4) / 2) == (1, 1, 1)

    def test_half_precision(self) -> None:
        """Weights in bfloat16, which NumPy has not, are drawn."""
        layer = AttentionMap.from_weights(torch.full((2, 2), 0.5, dtype=torch.bfloat16))
        assert dots(plot.entropy([layer], ax=empty()))[0, 1] == pytest.approx(np.log(2))

    def test_no_graph_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a map with a graph no further one is made, which would hold every row."""
        seen = []
        entropy = statistics.entropy
        monkeypatch.setattr(statistics, "entropy", lambda item: seen.append(entropy(item)) or seen[-1])  # type: ignore[func-returns-value]  # appends, then gives it
        plot.entropy([AttentionMap.from_weights(torch.eye(3, requires_grad=True))], ax=empty())
        assert {item.requires_grad for item in seen} == {False}

    def test_any_iterable(self) -> None:
        """A generator of maps will do."""
        assert plot.entropy(iter(layers(1, 1)), ax=empty()).lines

    def test_given_axes(self) -> None:
        """The given axes are drawn into and returned, a second model beside the first, and pyplot has no new figure."""
        ax = empty()
        assert plot.entropy(layers(1, 1), ax=ax) is ax
        flat = AttentionMap.from_weights(torch.full((1, 99, 99), 1 / 99))
        plot.entropy([flat, flat], ax=ax)
        assert [line.get_label() for line in ax.lines] == ["mean of heads", "uniform attention"] * 2
        assert ax.get_ylim()[1] == pytest.approx(1.06 * np.log(99))
        assert plt.get_fignums() == []

    def test_new_axes(self) -> None:
        """By default there is a new figure that pyplot will show."""
        assert plot.entropy(layers(1)).figure is plt.gcf()

    @pytest.mark.parametrize("size", [(3.3, 2.6), (6.4, 4.8)])
    def test_nothing_is_cut_off(self, size: tuple[float, float]) -> None:
        """In a column of a paper, all that is written is on the paper."""
        with mpl.rc_context({"figure.figsize": size}):
            figure = figure_of(plot.entropy(layers(3, 3, batch=2)))
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        assert min(box.x0, box.y0, size[0] - box.x1, size[1] - box.y1) >= 0

    def test_no_map(self) -> None:
        """There must be a map, and no figure is left of a mistake."""
        with pytest.raises(StateError, match="entropy needs at least one map and got none; run the model"):
            plot.entropy([])
        assert plt.get_fignums() == []

    def test_several_forwards(self) -> None:
        """Layers are those of one forward."""
        with pytest.raises(ChoiceError, match=r"entropy takes one forward pass .* choose one of maps\.forwards"):
            plot.entropy([make(), make(forward=1)])

    def test_no_such_sample(self) -> None:
        """There must be such a sample."""
        with pytest.raises(PositionError, match=r"Sample index 2 of .* is out of range: there are 2"):
            plot.entropy(layers(3, 3, batch=2), sample=2)
        assert plt.get_fignums() == []

    def test_one_map(self) -> None:
        """One map is that of a forward with one layer."""
        one = make()
        ax = plot.entropy(one, ax=empty())  # type: ignore[arg-type]  # understood all the same
        np.testing.assert_array_equal(dots(ax), dots(plot.entropy([one], ax=empty())))

    def test_what_is_no_map(self) -> None:
        """Of a tensor, which has no forward, a map must be made first."""
        with pytest.raises(OptionError, match=r"entropy takes maps and got Tensor; .*AttentionMap\.from_weights"):
            plot.entropy([torch.ones(2, 2)])  # type: ignore[list-item]  # wrong on purpose


class TestDifference:
    """What one map has more than another."""

    def test_values(self) -> None:
        """The second map is taken from the first: of the same sample, head and queries."""
        one, two = make(2, seed=1), make(2, seed=2)
        ax = plot.difference(one, two, sample=1, head=2, queries=["reg", (1, 2)], ax=empty())
        np.testing.assert_array_equal(one[1, 2, [1, 7]] - two[1, 2, [1, 7]], drawn(ax))

    def test_mean_over_heads(self) -> None:
        """Without a head, the means over heads are compared."""
        one, two = make(seed=1), make(seed=2)
        expected = one.head_mean()[0] - two.head_mean()[0]
        np.testing.assert_allclose(expected, drawn(plot.difference(one, two, ax=empty())), atol=1e-7)

    def test_arrays(self) -> None:
        """Plain matrices can be compared as well."""
        ax = plot.difference(np.eye(3), np.full((3, 3), 0.25), queries=[2, 0], ax=empty())
        np.testing.assert_array_equal([[-0.25, -0.25, 0.75], [0.75, -0.25, -0.25]], drawn(ax))
        assert not ax.get_title()

    @pytest.mark.parametrize("sign", [1, -1])
    def test_scale(self, sign: int) -> None:
        """0 is in the middle of the scale, which reaches to the greatest difference, be it above or below."""
        ax = plot.difference(sign * np.array([[0.5, 0.0]]), sign * np.array([[0.0, 0.125]]), ax=empty())
        norm = ax.images[0].norm
        assert (norm.vmin, norm.vmax) == (-0.5, 0.5)

    def test_no_difference(self) -> None:
        """Equal maps are in the middle of a scale all the same."""
        norm = plot.difference(np.eye(2), np.eye(2), ax=empty()).images[0].norm
        assert (norm.vmin, norm.vmax) == (-1, 1)

    def test_gaps(self) -> None:
        """Where there is no number, the scale is that of the others."""
        norm = plot.difference(np.array([[np.nan, 0.5]]), np.zeros((1, 2)), ax=empty()).images[0].norm
        assert (norm.vmin, norm.vmax) == (-0.5, 0.5)

    def test_given_scale(self) -> None:
        """A given scale holds; one without limits gets those around 0."""
        given, open_ended = Normalize(-1, 3), Normalize()
        one, two = np.array([[0.75, 0.0]]), np.array([[0.0, 0.25]])
        assert plot.difference(one, two, norm=given, ax=empty()).images[0].norm is given
        plot.difference(one, two, norm=open_ended, ax=empty())
        assert [(-1, 3), (-0.75, 0.75)] == [(norm.vmin, norm.vmax) for norm in (given, open_ended)]

    def test_colormap(self) -> None:
        """The colormap is the documented one, whatever the settings say, or the one given."""
        with mpl.rc_context({"image.cmap": "jet"}):
            assert plot.difference(np.eye(2), np.eye(2), ax=empty()).images[0].get_cmap().name == "coolwarm"
        ax = plot.difference(np.eye(2), np.eye(2), cmap="PuOr", ax=empty())
        assert ax.images[0].get_cmap().name == "PuOr"

    def test_on_paper(self) -> None:
        """In the rendered picture, more is red, less is blue, and no difference is a light grey."""
        ax = plot.difference(np.array([[1.0, 0, 0.5]]), np.array([[0, 1, 0.5]]), ax=empty())
        more, less, same = (pixel(ax, column, 0) for column in range(3))
        assert more[0] > 2 * max(more[1:])
        assert less[2] > 2 * max(less[:2])
        np.testing.assert_allclose(same, 0.865, atol=0.01)

    def test_colorbar(self) -> None:
        """The legend says that these are differences; without it there is only the matrix."""
        ax = plot.difference(np.eye(2), np.eye(2), ax=empty())
        assert ax.images[0].colorbar is not None
        assert ax.images[0].colorbar.ax.get_ylabel() == "difference of\nattention weights"
        assert not plot.difference(np.eye(2), np.eye(2), colorbar=False, ax=empty()).child_axes

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (("blocks.3.attn", "blocks.3.attn"), "blocks.3.attn\nmean of 3 heads"),
            (("blocks.3.attn", "blocks.5.attn"), "blocks.3.attn\n− blocks.5.attn\nmean of 3 heads"),
            (("blocks.3.attn", ""), "blocks.3.attn\n− other\nmean of 3 heads"),
        ],
    )
    def test_title(self, names: tuple[str, str], expected: str) -> None:
        """The title names the layer, both where they differ, and the head."""
        one, two = (make(name=name) for name in names)
        assert plot.difference(one, two, ax=empty()).get_title() == expected

    def test_ticks(self) -> None:
        """Positions are named as in a heatmap."""
        ax = plot.difference(make(), make(seed=1), queries=["cls", (0, 1)], ax=empty())
        figure_of(ax).draw_without_rendering()
        assert [label.get_text() for label in ax.get_yticklabels()] == ["cls", "(0, 1)"]
        assert (ax.get_ylabel(), ax.get_xlabel()) == ("query (row, column)", "key (row, column)")

    def test_given_axes(self) -> None:
        """The given axes are drawn into and returned, and pyplot has no new figure."""
        ax = empty()
        assert plot.difference(np.eye(2), np.eye(2), ax=ax) is ax
        assert plt.get_fignums() == []

    def test_saves(self) -> None:
        """The picture is saved as PDF without a warning."""
        file = io.BytesIO()
        figure_of(plot.difference(make(), make(seed=1), ax=empty())).savefig(file, format="pdf")
        assert file.getbuffer()

    def test_other_shapes_are_refused(self) -> None:
        """Maps of other shapes have no difference, even where the part that is drawn would fit."""
        with pytest.raises(
            ShapeError, match=r"one shape and got \(1, 3, 8, 8\) and \(1, 2, 8, 8\); choose layers that"
        ):
            plot.difference(make(), make(heads=2), head=0)
        assert plt.get_fignums() == []

    def test_a_map_and_a_matrix_are_refused(self) -> None:
        """A matrix is not taken from a map: which head and sample it was is not known."""
        with pytest.raises(ShapeError, match=r"one shape and got \(1, 3, 8, 8\) and \(8, 8\)"):
            plot.difference(make(), np.eye(8))

    @pytest.mark.parametrize("kind", ["queries", "keys"])
    def test_other_positions_are_refused(self, kind: str) -> None:
        """Weights of other words, or of patches cut otherwise, have no difference."""
        weights = torch.full((1, 1, 2, 2), 0.5)
        here, there = Tokens(["a", "b"]), Tokens(["a", "c"])
        one = AttentionMap.from_weights(weights, queries=here, keys=here)
        two = AttentionMap.from_weights(weights, **{"queries": here, "keys": here, kind: there})  # type: ignore[arg-type]  # all values are axes
        with pytest.raises(ShapeError, match=rf"same positions, and the {kind} are Tokens.* give maps of one text"):
            plot.difference(one, two)

    def test_positions_that_are_only_counted(self) -> None:
        """A map of which only the number of positions is known goes with any, and the other names them."""
        bare = AttentionMap.from_weights(make().tensor(), queries=Axis(8), keys=Axis(8))
        assert plot.difference(make(), bare, ax=empty()).get_xlabel() == "key (row, column)"

    def test_refusals_of_a_heatmap(self) -> None:
        """What a heatmap refuses is refused in the same words."""
        with pytest.raises(ChoiceError, match="choose it by sample=0 … 1"):
            plot.difference(make(2), make(2))
        with pytest.raises(ChoiceError, match="difference draws one map and got 2"):
            plot.difference(make(), AttentionMaps([make(), make()]))  # type: ignore[arg-type]  # wrong on purpose
