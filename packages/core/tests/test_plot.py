"""The recipes of `anylocal.plot`: what is drawn, on which scale, into which axes, and what is refused."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, CenteredNorm, LogNorm, NoNorm, Normalize
from matplotlib.figure import Figure
from packaging.version import Version

from anylocal import plot
from anylocal._drawing.scale import FRACTION, short
from anylocal.attention import AttentionMap, AttentionMaps, Patches, Tokens
from anylocal.errors import ChoiceError, NameNotFoundError, OptionError, PositionError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterator

PATCHES = Patches(grid=(2, 3), prefix=("cls", "reg"))
TOKENS = Tokens([["[CLS]", "a", "b"], ["[CLS]", "c", "[PAD]"]])


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Drawing changes no setting of matplotlib, and the tests leave no figure."""
    before = mpl.rcParams.copy()
    yield
    plt.close("all")
    assert before == mpl.rcParams


def make(batch: int = 1, heads: int = 3, axis: Any = PATCHES, **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(batch, heads, len(axis), 4, generator=generator) for _ in "qk")
    return AttentionMap.from_qk(3 * q, k, queries=axis, keys=axis, name="blocks.3.attn", **options)


def empty() -> Axes:
    """Return axes that pyplot does not know."""
    return Figure(layout="constrained").subplots()


def limits(norm: Any) -> tuple[float, float]:
    return float(norm.vmin), float(norm.vmax)


def lay_out(ax: Axes) -> Figure:
    assert isinstance(ax.figure, Figure)
    ax.figure.draw_without_rendering()
    return ax.figure


def drawn(ax: Axes) -> np.ndarray[Any, Any]:
    (image,) = ax.images
    array = image.get_array()
    assert array is not None
    return np.asarray(array)


class TestValues:
    """What `heatmap` draws are the map's values."""

    def test_one_head(self) -> None:
        """A chosen head is drawn as it is."""
        attention = make()
        np.testing.assert_array_equal(attention[0, 2], drawn(plot.heatmap(attention, head=2, ax=empty())))

    def test_last_head(self) -> None:
        """A negative head counts from the end, and the title says which it is."""
        attention = make()
        ax = plot.heatmap(attention, head=-1, ax=empty())
        np.testing.assert_array_equal(attention[0, 2], drawn(ax))
        assert ax.get_title() == "blocks.3.attn\nhead 2"

    def test_mean_over_heads(self) -> None:
        """Without a head, the mean over heads is drawn."""
        attention = make()
        np.testing.assert_allclose(attention.head_mean()[0], drawn(plot.heatmap(attention, ax=empty())), rtol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_mean_in_half_precision(self, dtype: torch.dtype) -> None:
        """The mean of weights in half precision is not rounded to half precision."""
        step = torch.finfo(dtype).eps
        weights = torch.tensor([1, 1, 1 + step], dtype=dtype).reshape(1, 3, 1, 1)
        array = drawn(plot.heatmap(AttentionMap.from_weights(weights), ax=empty()))
        np.testing.assert_allclose(array, 1 + step / 3, rtol=1e-6)

    @pytest.mark.parametrize("sample", [1, -1])
    def test_sample(self, sample: int) -> None:
        """A chosen sample of the batch is drawn, and named, counted from the start."""
        attention = make(batch=2)
        ax = plot.heatmap(attention, sample=sample, head=0, ax=empty())
        np.testing.assert_array_equal(attention[1, 0], drawn(ax))
        assert ax.get_title() == "blocks.3.attn\nsample 1, head 0"

    def test_only_the_sample_is_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a batch, and of the queries, only what is drawn is computed."""
        attention = make(batch=4)
        taken = []
        take = attention.rows.take
        monkeypatch.setattr(attention.rows, "take", lambda *picks: taken.append(take(*picks)) or taken[-1])  # type: ignore[func-returns-value]  # more is known here than is typed
        plot.heatmap(attention, sample=2, queries=[0, 5], ax=empty())
        assert {(1, 1, 2, 8)} == {tuple(rows.shape) for rows in taken}

    @pytest.mark.parametrize(
        ("queries", "rows"),
        [
            (4, [4]),
            ("reg", [1]),
            (slice(6, None), [6, 7]),
            ([-1, 0], [7, 0]),
            (np.array([3, 2]), [3, 2]),
            (torch.tensor(5), [5]),
            (torch.tensor([1, 5]), [1, 5]),
            (np.arange(8) == 3, [3]),
            (["cls", (1, 2)], [0, 7]),
        ],
    )
    def test_queries(self, queries: Any, rows: list[int]) -> None:
        """Chosen queries are the rows, in the order in which they were asked for."""
        attention = make()
        array = drawn(plot.heatmap(attention, head=1, queries=queries, ax=empty()))
        np.testing.assert_array_equal(attention[0, 1, rows], array)

    def test_array(self) -> None:
        """A plain matrix is drawn as it is, also some of its rows."""
        matrix = np.arange(12.0).reshape(3, 4)
        np.testing.assert_array_equal(matrix[[2, 0]], drawn(plot.heatmap(matrix, queries=[-1, 0], ax=empty())))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
    def test_tensor(self, dtype: torch.dtype) -> None:
        """A plain tensor of any type is drawn, with its gradient left alone."""
        matrix = torch.eye(3, dtype=dtype)
        matrix.requires_grad_(dtype.is_floating_point)
        np.testing.assert_array_equal(np.eye(3), drawn(plot.heatmap(matrix, ax=empty())))

    def test_array_without_torch(self) -> None:
        """To draw an array, torch need not be installed, and it takes nothing of pyplot to draw into a figure."""
        code = """
import sys
sys.modules["torch"] = None
import numpy as np
from matplotlib.figure import Figure
from anylocal import plot
assert plot.heatmap(np.eye(3), ax=Figure().subplots()).images
assert "matplotlib.pyplot" not in sys.modules
"""
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


class TestScale:
    """One scale, which the colorbar explains."""

    def test_default(self) -> None:
        """The scale goes from 0 to the greatest weight on a patch, and says that those of prefix tokens are clipped."""
        attention = make()
        image = plot.heatmap(attention, head=0, queries=[0, 1], ax=empty()).images[0]
        assert limits(image.norm) == (0, float(attention[0, 0, :2, 2:].max()))
        assert image.colorbar is not None
        assert image.colorbar.extend == "max"

    def test_given(self) -> None:
        """A given scale is used as it is."""
        norm = Normalize(0, 0.5)
        image = plot.heatmap(make(), norm=norm, ax=empty()).images[0]
        assert image.norm is norm
        assert limits(norm) == (0, 0.5)

    def test_without_limits(self) -> None:
        """A scale without limits gets those of what is drawn; a logarithmic one starts above 0."""
        norm = LogNorm()
        plot.heatmap(np.array([[0.0, 0.01], [0.1, 1.0]]), norm=norm, ax=empty())
        assert limits(norm) == (0.01, 1.0)

    def test_by_name(self) -> None:
        """A scale can be named, as in matplotlib."""
        assert isinstance(plot.heatmap(np.eye(3), norm="log", ax=empty()).images[0].norm, LogNorm)

    @pytest.mark.parametrize(
        ("matrix", "expected"),
        [
            (np.zeros((2, 2)), (0, 1)),
            (np.array([[-0.5, 0.25]]), (-0.5, 0.25)),
            (np.array([[-2.0, -1.0]]), (-2, 0)),
            (np.array([[np.nan, 0.5]]), (0, 0.5)),
            (np.array([[np.nan, np.nan]]), (0, 1)),
        ],
    )
    def test_odd_values(self, matrix: Any, expected: tuple[float, float]) -> None:
        """Zeros, negative values and gaps have a scale too."""
        ax = plot.heatmap(matrix, ax=empty())
        lay_out(ax)
        assert limits(ax.images[0].norm) == expected

    def test_default_colormap(self) -> None:
        """The colormap is the documented one, whatever the settings say."""
        with mpl.rc_context({"image.cmap": "jet"}):
            assert plot.heatmap(np.eye(3), ax=empty()).images[0].get_cmap().name == "magma"

    def test_given_colormap(self) -> None:
        """A given colormap is used."""
        assert plot.heatmap(np.eye(3), cmap="cividis", ax=empty()).images[0].get_cmap().name == "cividis"

    def test_what_arithmetic_makes(self) -> None:
        """Below 0 it has a scale with 0 in the middle and colours of its own, and it is not called weights."""
        image = plot.heatmap(make() - 0.2, ax=empty()).images[0]
        low, high = limits(image.norm)
        assert low == -high
        assert image.get_cmap().name == "coolwarm"
        assert image.colorbar is not None
        assert image.colorbar.ax.get_ylabel() == "value"

    def test_what_arithmetic_makes_above_0(self) -> None:
        """It has the scale of weights."""
        image = plot.heatmap(2 * make(), ax=empty()).images[0]
        assert limits(image.norm)[0] == 0
        assert image.get_cmap().name == "magma"

    @pytest.mark.parametrize("layout", [None, "constrained", "tight"])
    def test_colorbar(self, layout: Any) -> None:
        """The colorbar belongs to the image and says what it means."""
        ax = Figure(layout=layout).subplots()
        image = plot.heatmap(make(), ax=ax).images[0]
        assert image.colorbar is not None
        assert image.colorbar.ax.get_ylabel() == "attention weight"

    def test_colorbar_is_as_high_as_the_matrix(self) -> None:
        """In a figure that lays itself out, the colorbar ends where the matrix ends."""
        ax = Figure((6, 3), layout="constrained").subplots()
        bar = plot.heatmap(make(), ax=ax).images[0].colorbar
        lay_out(ax)
        assert bar is not None
        np.testing.assert_allclose(bar.ax.get_window_extent().intervaly, ax.get_window_extent().intervaly)

    def test_no_colorbar(self) -> None:
        """Without a colorbar there is nothing besides the matrix."""
        ax = plot.heatmap(make(), colorbar=False, ax=empty())
        assert ax.images[0].colorbar is None
        assert not ax.child_axes
        assert ax.figure.axes == [ax]


class TestAxes:
    """Where it is drawn."""

    def test_given(self) -> None:
        """The given axes are drawn into and returned, and pyplot has no new figure."""
        ax = empty()
        assert plot.heatmap(make(), ax=ax) is ax
        assert plt.get_fignums() == []

    def test_new(self) -> None:
        """By default there is a new figure, of the size set, that pyplot will show."""
        plt.figure()
        with mpl.rc_context({"figure.figsize": (3.4, 2.5)}):
            figure = plot.heatmap(make()).figure
        assert plt.gcf() is figure
        assert len(plt.get_fignums()) == 2
        assert figure.get_size_inches().tolist() == [3.4, 2.5]

    def test_subfigure(self) -> None:
        """Axes of a subfigure are axes too."""
        right: Any = Figure(layout="constrained").subfigures(1, 2)[1]  # type: ignore[index]  # more is known here than is typed
        ax = plot.heatmap(make(), ax=right.subplots())
        assert ax.figure is right

    def test_no_figure_of_a_mistake(self) -> None:
        """What is refused leaves no empty figure behind."""
        for mistake in ({"sample": 5}, {"head": 5}, {"queries": 99}, {"norm": "no norm"}):
            with pytest.raises((PositionError, ValueError)):
                plot.heatmap(make(), **mistake)
        assert plt.get_fignums() == []

    @pytest.mark.parametrize("recipe", [plot.heatmap, plot.heads, lambda one, **options: plot.model([one], **options)])
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"norm": "log"},
                r"norm='log' has no place for weights from 0 to 0; leave it out, or give one with limits",
            ),
            ({"norm": LogNorm(vmin=0, vmax=1)}, "norm=LogNorm has no place for weights from 0 to 0"),
            ({"norm": "lgo"}, 'norm=\'lgo\' is no scale; give "linear", "sqrt", "log", "rank", another name'),
            ({"cmap": "magm"}, r"cmap='magm' is no colormap\. Did you mean 'magma'\?"),
            ({"cmap": 5}, r"cmap=5 is no colormap\. Give the name of one"),
        ],
    )
    def test_no_figure_of_a_scale_or_colormap(self, recipe: Any, options: dict[str, Any], message: str) -> None:
        """A scale without a place for the weights, or a colormap that is none, is refused before there is a figure."""
        with pytest.raises(OptionError, match=message):
            recipe(AttentionMap.from_weights(torch.zeros(3, 3)), **options)
        assert plt.get_fignums() == []

    @pytest.mark.parametrize(
        "norm",
        [LogNorm(1e-3, 1), "symlog", BoundaryNorm([0, 0.5, 1], 256), CenteredNorm(), NoNorm()],
        ids=lambda norm: str(norm).partition(" object")[0],
    )
    def test_scales_that_have_a_place_for_0(self, norm: Any) -> None:
        """Other scales draw a map of zeros, also those that cannot be inverted."""
        ax = plot.heatmap(np.zeros((3, 3)), norm=norm, ax=empty())
        lay_out(ax)
        assert not drawn(ax).any()

    def test_first_query_on_top(self) -> None:
        """The first query is on top, and no grid covers the weights, whatever the settings say."""
        with mpl.rc_context({"image.origin": "lower", "axes.grid": True}):
            ax = plot.heatmap(make(), ax=empty())
        bottom, top = ax.get_ylim()
        assert bottom > top
        assert ax.images[0].origin == "upper"
        assert not any(line.get_visible() for line in [*ax.get_xgridlines(), *ax.get_ygridlines()])

    @pytest.mark.parametrize(("shape", "aspect"), [((5, 20), 1), ((21, 5), "auto"), ((1, 200), "auto")])
    def test_aspect(self, shape: tuple[int, int], aspect: Any) -> None:
        """Cells are square, unless a few queries would be a thread."""
        with mpl.rc_context({"image.aspect": "auto"}):
            assert plot.heatmap(np.ones(shape), ax=empty()).get_aspect() == aspect

    @pytest.mark.parametrize("matrix", [np.eye(1, 40), make(axis=Tokens([f"w{n}" for n in range(40)]))])
    @pytest.mark.parametrize("rows", [1, 3])
    def test_rows_of_a_strip_are_low(self, matrix: Any, rows: int) -> None:
        """A few rows of many columns do not fill the axes, and the colorbar is high enough for its numbers."""
        matrix = np.tile(matrix, (rows, 1)) if isinstance(matrix, np.ndarray) else matrix
        ax = plot.heatmap(matrix, queries=slice(rows), ax=Figure((7, 5), layout="constrained").subplots())
        lay_out(ax)
        assert 0.25 < ax.get_window_extent().height / 100 / rows < 0.45
        colorbar = ax.images[0].colorbar
        assert colorbar is not None
        assert colorbar.ax.get_window_extent().height > 80

    def test_a_new_figure_of_a_strip_is_low(self) -> None:
        """A new figure is as high as one row needs."""
        assert lay_out(plot.heatmap(np.eye(1, 40))).get_figheight() < 3

    @pytest.mark.parametrize("axis", [Patches(grid=(10, 20)), Tokens([f"w{n}" for n in range(201)])], ids=["p", "t"])
    def test_the_strongest_keys_of_a_strip_are_named(self, axis: Any) -> None:
        """Of some rows, the keys of the greatest weights are labelled where not all have room."""
        weights = np.full((2, 201), 0.001)
        weights[0, 33], weights[1, 77], weights[1, 150] = 0.2, 0.3, 0.1
        attention = AttentionMap.from_weights(weights, queries=Tokens(["a", "b"]), keys=axis)
        ax = plot.heatmap(attention, ax=empty())
        lay_out(ax)
        assert {33, 77, 150} < set(ax.get_xticks())
        boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))

    @pytest.mark.parametrize("name", ["svg", "pdf", "png"])
    def test_saves(self, name: str) -> None:
        """The picture is saved in vector formats without a warning."""
        file = io.BytesIO()
        lay_out(plot.heatmap(make(), ax=empty())).savefig(file, format=name)
        assert file.getbuffer()


class TestTitle:
    """The title says what is drawn."""

    def test_one_head_only(self) -> None:
        """There is no mean over one head."""
        assert plot.heatmap(make(heads=1), ax=empty()).get_title() == "blocks.3.attn\nhead 0"

    def test_mean(self) -> None:
        """A mean says over how many heads."""
        assert plot.heatmap(make(), ax=empty()).get_title() == "blocks.3.attn\nmean of 3 heads"

    def test_window(self) -> None:
        """Of a windowed layer, the image and its window are named."""
        attention = make(batch=6, windows=3)
        assert plot.heatmap(attention, sample=4, ax=empty()).get_title().endswith("image 1, window 1, mean of 3 heads")
        ax = plot.heatmap(make(batch=3, windows=3), sample=2, ax=empty())
        assert ax.get_title() == "blocks.3.attn\nwindow 2, mean of 3 heads"

    def test_long_name(self) -> None:
        """A long name of a layer is broken at a dot."""
        attention = AttentionMap.from_weights(torch.eye(2), name="bert.encoder.layer.10.attention.self")
        assert plot.heatmap(attention, ax=empty()).get_title() == "bert.encoder.layer.10.attention.\nself\nhead 0"

    def test_name_with_dollars(self) -> None:
        """A name is no formula."""
        attention = AttentionMap.from_weights(torch.eye(2), name="a$_b$")
        assert plot.heatmap(attention, ax=empty()).get_title() == "a\\$_b\\$\nhead 0"
        assert plot.model([attention], figure=Figure()).axes[0].get_title() == "a\\$_b\\$"

    def test_array(self) -> None:
        """A plain matrix has no title."""
        assert not plot.heatmap(np.eye(2), ax=empty()).get_title()


class TestHeads:
    """All heads of a map."""

    def test_values(self) -> None:
        """Every head is drawn, in order, then their mean."""
        attention = make(batch=2)
        figure = plot.heads(attention, sample=1, figure=Figure())
        *panels, mean, _ = figure.axes
        for head, ax in enumerate(panels):
            np.testing.assert_array_equal(attention[1, head], drawn(ax))
        np.testing.assert_allclose(attention.head_mean()[1], drawn(mean), rtol=1e-6)
        assert [ax.get_title() for ax in figure.axes] == ["head 0", "head 1", "head 2", "mean", ""]

    def test_own_scales(self) -> None:
        """Each panel has its own scale, whose top is written into it, and the colorbar is in fractions of that."""
        attention = make()
        *panels, bar = plot.heads(attention, norm="linear", figure=Figure((9, 5))).axes
        tops = [limits(ax.images[0].norm)[1] for ax in panels]
        patches = np.asarray(attention[0])[:, 2:, 2:]
        assert tops == pytest.approx([*patches.max((1, 2)), patches.mean(0).max()])
        assert [[text.get_text() for text in ax.texts] for ax in panels] == [[f"1 = {short(top)}"] for top in tops]
        assert bar.get_ylabel() == FRACTION
        np.testing.assert_allclose(bar.get_ylim(), (0, 1))

    def test_structure_is_visible(self) -> None:
        """By default weights are drawn by their root, which shows the weak among the strong."""
        norm: Any = plot.heads(make(), figure=Figure()).axes[0].images[0].norm
        assert norm(norm.vmax / 4) == pytest.approx(0.5)

    @pytest.mark.parametrize("share", ["all", "layer"])
    def test_one_scale(self, share: Any) -> None:
        """All panels and the only colorbar can share one scale, up to the greatest weight of any head on a patch."""
        attention = make()
        *panels, bar = plot.heads(attention, norm="linear", share=share, figure=Figure((9, 5))).axes
        (norm,) = {ax.images[0].norm for ax in panels}
        assert limits(norm) == (0, float(attention[0, :, 2:, 2:].max()))
        assert bar.get_ylabel() == "attention weight"
        np.testing.assert_allclose(bar.get_ylim(), limits(norm))
        assert not any(ax.texts for ax in panels)

    def test_a_difference(self) -> None:
        """All panels of what arithmetic makes share one scale with 0 in its middle."""
        *panels, bar = plot.heads(make() - 0.2, figure=Figure((9, 5))).axes
        (norm,) = {ax.images[0].norm for ax in panels}
        assert limits(norm)[0] == -limits(norm)[1]
        assert {ax.images[0].get_cmap().name for ax in panels} == {"coolwarm"}
        assert bar.get_ylabel().startswith("value")

    @pytest.mark.parametrize(("reduce", "name"), [("max", "amax"), ("mean", "mean")])
    def test_long_maps_are_reduced(self, reduce: Any, name: str) -> None:
        """Of more than 260 positions, the maximum or the mean of neighbours is drawn, and prefix tokens stay alone."""
        attention = make(heads=1, axis=Patches(grid=(20, 20), prefix=("cls",)))
        ax = plot.heads(attention, reduce=reduce, figure=Figure()).axes[0]
        weights = np.asarray(attention[0, 0])
        assert drawn(ax).shape == (201, 201)
        assert drawn(ax)[0, 0] == weights[0, 0]
        assert drawn(ax)[1, 3] == pytest.approx(getattr(np, name)(weights[1:3, 5:7]))
        assert tuple(ax.images[0].get_extent()) == (-0.5, 400.5, 400.5, -0.5)

    def test_given_scale_and_colormap(self) -> None:
        """A scale without limits gets those of all heads, not of the first."""
        norm, attention = LogNorm(), make()
        *panels, _ = plot.heads(attention, norm=norm, cmap="cividis", figure=Figure()).axes
        assert {norm} == {ax.images[0].norm for ax in panels}
        assert {"cividis"} == {ax.images[0].get_cmap().name for ax in panels}
        patches = attention[:, :, 2:, 2:]
        assert limits(norm) == (float(patches.min()), float(patches.max()))

    def test_title(self) -> None:
        """The figure is titled by the layer, and by the sample where there are several."""
        assert plot.heads(make(), figure=Figure()).get_suptitle() == "blocks.3.attn"
        assert plot.heads(make(2), sample=1, figure=Figure()).get_suptitle() == "blocks.3.attn\nsample 1"

    @pytest.mark.parametrize(("heads", "columns"), [(1, 2), (3, 2), (6, 4), (12, 5), (16, 6)])
    def test_columns(self, heads: int, columns: int) -> None:
        """Panels form a rectangle somewhat wider than high."""
        assert columns_of(plot.heads(make(heads=heads), figure=Figure((7, 5)))) == columns

    def test_columns_of_a_narrow_figure(self) -> None:
        """A figure for one column of a paper has fewer, and is higher."""
        with mpl.rc_context({"figure.figsize": (3.4, 2.5)}):
            figure = plot.heads(make(heads=12))
        assert columns_of(figure) == 3
        assert figure.get_figwidth() == 3.4
        assert figure.get_figheight() > 4

    def test_columns_of_a_low_figure(self) -> None:
        """A given figure that is low has more, in which panels are larger."""
        assert columns_of(plot.heads(make(heads=12), figure=Figure((10, 2)))) == 13

    @pytest.mark.parametrize(("size", "heads"), [((7, 2), 4), ((3.5, 4), 12), ((3.4, 5.5), 16), ((9, 2), 16)])
    @pytest.mark.parametrize("parts", [1, 2])
    def test_titles_are_not_covered(self, size: tuple[float, float], heads: int, parts: int) -> None:
        """In a given figure, or a part of one, no panel, title or bar covers the title of a panel."""
        whole = Figure((parts * size[0], size[1]), layout="compressed")
        figure: Any = whole.subfigures(1, parts, squeeze=False)[0, 0]
        *panels, bar = plot.heads(make(heads=heads), figure=figure).axes
        whole.draw_without_rendering()
        titles = [ax.title.get_window_extent() for ax in panels]
        around = bar.get_tightbbox()
        assert around is not None
        over = [around, *(ax.get_window_extent() for ax in panels)]
        assert not any(title.overlaps(box) for title in titles for box in over)
        assert not any(one.overlaps(other) for one, other in combinations(titles, 2))

    def test_columns_given(self) -> None:
        """The number of panels in a row can be given."""
        assert columns_of(plot.heads(make(), columns=4, figure=Figure())) == 4

    def test_panels_stand_side_by_side(self) -> None:
        """In a figure far too wide, square panels stand together all the same."""
        figure = plot.heads(make(), columns=4, figure=Figure((9, 2)))
        figure.draw_without_rendering()
        one, other, *_ = (ax.get_window_extent() for ax in figure.axes)
        assert 0 < other.x0 - one.x1 < one.width / 2

    def test_given_figure(self) -> None:
        """A given figure keeps its size, is returned, and is not known to pyplot."""
        figure = Figure((5, 2))
        assert plot.heads(make(), figure=figure) is figure
        assert figure.get_size_inches().tolist() == [5, 2]
        assert plt.get_fignums() == []

    def test_new_figure(self) -> None:
        """By default there is a new figure that pyplot will show."""
        assert plt.figure(plot.heads(make()).number) is plt.gcf()
        assert len(plt.get_fignums()) == 1

    def test_labels_outside_only(self) -> None:
        """Positions are named at the outer edge only, and what they are is said once."""
        figure = plot.heads(make(), columns=2, figure=Figure())
        figure.draw_without_rendering()
        shown = [
            tuple(
                any(label.get_visible() for label in labels) for labels in (ax.get_yticklabels(), ax.get_xticklabels())
            )
            for ax in figure.axes[:4]
        ]
        assert shown == [(True, False), (False, False), (True, True), (False, True)]
        assert [ax.get_xlabel() for ax in figure.axes[:4]] == ["", "", "key (row, column)", ""]
        assert [ax.get_ylabel() for ax in figure.axes[:4]] == ["", "", "query (row, column)", ""]

    @pytest.mark.skipif(Version(mpl.__version__) < Version("3.9"), reason="it makes room for all labels")
    def test_labels_above_an_empty_place(self) -> None:
        """The panels above the empty places of the last row name their columns, and the rows stand no wider apart."""
        figure = plot.heads(make(heads=4), columns=3, figure=Figure((7, 5)))
        figure.draw_without_rendering()
        named = [any(label.get_visible() for label in ax.get_xticklabels()) for ax in figure.axes[:5]]
        assert named == [False, False, True, True, True]
        upper, lower = (figure.axes[number].get_window_extent() for number in (0, 3))
        assert upper.y0 - lower.y1 < 0.3 * upper.height

    def test_every_token_is_labelled(self) -> None:
        """Labels of tokens become smaller, down to what can be read, before any is left out."""
        axis = Tokens([f"word{number}" for number in range(16)])
        figure = plot.heads(make(heads=12, axis=axis), figure=Figure((12, 8)))
        figure.draw_without_rendering()
        ax = figure.axes[12]
        assert len(ax.get_xticks()) == len(ax.get_yticks()) == 16
        assert 4.5 <= float(ax.get_xticklabels()[0].get_fontsize()) < 10

    def test_the_name_of_the_scale(self) -> None:
        """The colorbar says that the scale is by the root, which it is by default."""
        assert plot.heads(make(), figure=Figure()).axes[-1].get_ylabel() == f"{FRACTION}\n(square-root scale)"
        assert plot.heads(make(), norm=None, figure=Figure()).axes[-1].get_ylabel() == FRACTION

    def test_saves(self) -> None:
        """The picture is saved as SVG without a warning."""
        file = io.BytesIO()
        plot.heads(make(), figure=Figure()).savefig(file, format="svg")
        assert b"</svg>" in file.getvalue()


def columns_of(figure: Figure) -> int:
    return int(figure.axes[0].get_subplotspec().get_gridspec().ncols)  # type: ignore[union-attr]  # more is known here than is typed


class TestRefusals:
    """What is refused, and in which words."""

    def test_several_samples(self) -> None:
        """Of a batch, a sample must be chosen."""
        with pytest.raises(ChoiceError, match=r"batch=2.* holds 2 samples .* choose it by sample=0 … 1\."):
            plot.heatmap(make(2), ax=empty())
        with pytest.raises(ChoiceError, match="choose it by sample"):
            plot.heads(make(2), figure=Figure())

    def test_no_such_sample(self) -> None:
        """There must be such a sample."""
        with pytest.raises(PositionError, match=r"Sample index 2 of AttentionMap\(.*\) is out of range: there are 2"):
            plot.heatmap(make(2), sample=2, ax=empty())

    @pytest.mark.parametrize("head", [3, -4, "mean"])
    def test_no_such_head(self, head: Any) -> None:
        """There must be such a head."""
        with pytest.raises(
            PositionError,
            match=r"Head index .* of AttentionMap\(.*\) is (out of range: there are|not an integer; give one below) 3",
        ):
            plot.heatmap(make(), head=head, ax=empty())

    def test_no_such_query(self) -> None:
        """There must be such a query, by number or by name."""
        with pytest.raises(PositionError, match="out of range"):
            plot.heatmap(make(), queries=[0, 8], ax=empty())
        with pytest.raises(NameNotFoundError, match=r"no prefix token 'clz'\. Did you mean 'cls'\?"):
            plot.heatmap(make(), queries="clz", ax=empty())
        with pytest.raises(PositionError, match="Query index 3 is out of range: there are 3"):
            plot.heatmap(np.eye(3), queries=[3], ax=empty())

    def test_token_of_another_text(self) -> None:
        """Tokens are those of the chosen text."""
        with pytest.raises(NameNotFoundError, match=r"Text 1 .* has no token 'a'"):
            plot.heatmap(make(2, axis=TOKENS), sample=1, queries="a", ax=empty())

    def test_no_query_at_all(self) -> None:
        """Some query must be selected."""
        with pytest.raises(PositionError, match=r"queries=\[\] selects none of the 8 queries"):
            plot.heatmap(make(), queries=[], ax=empty())

    @pytest.mark.parametrize("shape", [(4,), (2, 4, 4), (0, 4)])
    def test_array_that_is_no_matrix(self, shape: tuple[int, ...]) -> None:
        """A plain array must be one matrix."""
        with pytest.raises(ShapeError, match=r"shape \(query, key\) and got \(.*AttentionMap\.from_weights"):
            plot.heatmap(np.zeros(shape), ax=empty())

    @pytest.mark.parametrize("choice", [{"sample": 0}, {"head": 1}])
    def test_choice_from_a_matrix(self, choice: dict[str, Any]) -> None:
        """A matrix has no samples and no heads."""
        with pytest.raises(OptionError, match="a plain matrix has neither; leave them out"):
            plot.heatmap(np.eye(2), ax=empty(), **choice)

    def test_heads_of_an_array(self) -> None:
        """An array has no heads, but can be made a map."""
        with pytest.raises(OptionError, match=r"got ndarray; make one by AttentionMap\.from_weights"):
            plot.heads(np.ones((3, 4, 4)), figure=Figure())  # type: ignore[arg-type]  # wrong on purpose

    def test_several_maps(self) -> None:
        """Of a model's maps, one must be chosen."""
        maps: Any = AttentionMaps([make(), make()])
        for recipe in (plot.heatmap, plot.heads):
            with pytest.raises(
                ChoiceError, match=r"draws one map and got 2; take one by position or by name, such as maps\[0\]"
            ):
                recipe(maps)

    def test_the_argument_of_another_recipe(self) -> None:
        """The message names the recipe's own."""
        with pytest.raises(OptionError, match=r"heatmap takes queries=, which rows it draws, any number of them"):
            plot.heatmap(make(), query=0, ax=empty())  # type: ignore[call-arg]  # wrong on purpose

    def test_list_of_numbers(self) -> None:
        """A list is no map, and no array either."""
        with pytest.raises(OptionError, match="heatmap draws an AttentionMap and got list"):
            plot.heatmap([[1.0, 0.0], [0.0, 1.0]])  # type: ignore[arg-type]  # wrong on purpose

    def test_no_columns(self) -> None:
        """A row has one panel at least."""
        with pytest.raises(OptionError, match="columns=0 is no number of panels in a row; give 1 or more"):
            plot.heads(make(), columns=0, figure=Figure())

    def test_no_matplotlib(self) -> None:
        """Without matplotlib, the message says how to get it."""
        code = "import sys; sys.modules['matplotlib'] = None; import anylocal.plot"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        last = result.stderr.strip().splitlines()[-1]
        assert last == (
            "anylocal.errors.DependencyError: anylocal.plot needs matplotlib, which is not installed: "
            'pip install "anylocal[plot]". [dependency]'
        )
