"""The recipes along the layers: attention to prefix tokens, and attention distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import anylocal.attention as numbers
import anylocal.plot
from anylocal.attention import AttentionMap, AttentionMaps, Axis, Patches, PlacedPatches, Tokens
from anylocal.errors import ChoiceError, OptionError, PositionError, ShapeError, StateError
from anylocal_vit import plot

if TYPE_CHECKING:
    from collections.abc import Iterator

PATCHES = Patches(grid=(3, 4), prefix=("cls", "reg"), image_size=(48, 80))
BARE = Patches(grid=(3, 4), prefix=(), image_size=(48, 80))
UNSIZED = Patches(grid=(3, 4), prefix=("cls", "reg"))
WINDOWS = PlacedPatches(grid=(2, 4), places=[[0, 1, 4, 5], [2, 3, 6, 7]], image_size=(48, 80))


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Check that drawing changes no setting of matplotlib, and close all figures."""
    before = mpl.rcParams.copy()
    yield
    plt.close("all")
    assert before == mpl.rcParams


def make(
    queries: Axis = PATCHES, keys: Axis | None = None, *, batch: int = 1, heads: int = 3, seed: int = 0, **options: Any
) -> AttentionMap:
    keys = queries if keys is None else keys
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(batch, heads, len(axis), 4, generator=generator) for axis in (queries, keys))
    return AttentionMap.from_qk(3 * q, k, queries=queries, keys=keys, name=f"blocks.{seed}.attn", **options)


def layers(*heads: int, axis: Axis = PATCHES, batch: int = 1) -> AttentionMaps:
    return AttentionMaps(make(axis, batch=batch, heads=number, seed=seed) for seed, number in enumerate(heads))


def empty(**options: Any) -> Axes:
    """Return axes that pyplot does not know."""
    figure = Figure(layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure.subplots()


def dots(ax: Axes, line: int = 0) -> np.ndarray[Any, Any]:
    return np.asarray(ax.collections[line].get_offsets())


def heights(ax: Axes, line: int = 0) -> np.ndarray[Any, Any]:
    return np.asarray(ax.lines[line].get_ydata(), dtype=float)


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    assert found is not None
    return [found.get_title().get_text(), *(text.get_text() for text in found.get_texts())]


class TestPrefix:
    """The attention to prefix tokens."""

    def test_dots(self) -> None:
        """For each token, each head of each layer has a dot at its share."""
        maps = layers(3, 2)
        ax = plot.prefix(maps, ax=empty())
        for token in range(2):
            expected = np.concatenate([numbers.prefix_mass(item)[0, :, token] for item in maps])
            np.testing.assert_allclose(dots(ax, token)[:, 1], expected, rtol=1e-6)

    def test_dots_stand_side_by_side(self) -> None:
        """The dots of two tokens stand to the left and to the right of their layer, where their lines meet."""
        ax = plot.prefix(layers(3, 2), ax=empty())
        np.testing.assert_allclose(dots(ax, 0)[:, 0], [-0.25, -0.25, -0.25, 0.75, 0.75])
        np.testing.assert_allclose(dots(ax, 1)[:, 0], [0.25, 0.25, 0.25, 1.25, 1.25])
        assert [[0, 1]] * 2 == [np.asarray(line.get_xdata()).tolist() for line in ax.lines]

    def test_dots_of_one_token(self) -> None:
        """The dots of a single token stand at their layer, and the legend names it all the same."""
        ax = plot.prefix(layers(3, 3, axis=Patches(grid=(3, 4))), ax=empty())
        assert set(dots(ax)[:, 0]) == {0, 1}
        assert legend(ax) == ["prefix token\n(mean of heads)", "cls", "one head"]

    def test_lines(self) -> None:
        """A line for each token goes through the mean of the heads."""
        maps = layers(3, 2)
        ax = plot.prefix(maps, ax=empty())
        for token in range(2):
            expected = [numbers.prefix_mass(item)[0, :, token].mean().item() for item in maps]
            np.testing.assert_allclose(heights(ax, token), expected, rtol=1e-6)
        assert len(ax.lines) == 2

    def test_labels(self) -> None:
        """Axes and legend have labels."""
        ax = plot.prefix(layers(3, 3), ax=empty())
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("layer", "attention weight\non prefix tokens", "")
        assert legend(ax) == ["prefix token\n(mean of heads)", "cls", "reg", "one head"]

    def test_dots_at_zero(self) -> None:
        """The dots of heads that give nothing to the token are drawn whole, at the edge of the axes."""
        ax = plot.prefix(layers(3, 3), ax=empty())
        assert not any(heads.get_clip_on() for heads in ax.collections)

    def test_lines_are_distinguishable(self) -> None:
        """Each token has a colour and a form of its own, and its dots have the same."""
        ax = plot.prefix(layers(3, 3), ax=empty())
        assert len({to_rgb(line.get_color()) for line in ax.lines}) == 2
        assert [line.get_marker() for line in ax.lines] == ["o", "s"]
        for line, heads in zip(ax.lines, ax.collections, strict=True):
            np.testing.assert_allclose(np.asarray(heads.get_facecolor())[0, :3], to_rgb(line.get_color()))
        round_, square = (np.shape(heads.get_paths()[0].vertices)[0] for heads in ax.collections)
        assert round_ > square

    def test_more_tokens_than_forms(self) -> None:
        """All registers are drawn, however many."""
        axis = Patches(grid=(1, 2), prefix=("cls", *(f"reg{n}" for n in range(16))))
        with mpl.rc_context({"axes.prop_cycle": cycler(color=["red", "blue"])}):
            ax = plot.prefix(layers(2, 2, axis=axis), ax=empty())
        assert len(ax.lines) == 17
        assert len({(line.get_color(), line.get_marker()) for line in ax.lines}) == 14

    def test_scale(self) -> None:
        """Shares start at 0, and the dots of all tokens are inside."""
        ax = plot.prefix(layers(3, 3), ax=empty())
        np.testing.assert_allclose(ax.get_ylim(), (0, 1.06 * max(dots(ax, 0)[:, 1].max(), dots(ax, 1)[:, 1].max())))
        assert ax.get_xlim() == (-0.5, 1.5)

    def test_mean_over_the_batch(self) -> None:
        """Without a sample the mean over the batch is drawn, and a chosen one alone."""
        maps = layers(3, batch=2)
        share = numbers.prefix_mass(maps[0])[..., 1]
        both, one = plot.prefix(maps, ax=empty()), plot.prefix(maps, sample=1, ax=empty())
        np.testing.assert_allclose(dots(both, 1)[:, 1], share.mean(0), rtol=1e-6)
        np.testing.assert_allclose(dots(one, 1)[:, 1], share[1], rtol=1e-6)
        assert [ax.get_title() for ax in (both, one)] == ["mean of 2 samples", "sample 1"]

    def test_layers_without_a_token(self) -> None:
        """A layer without some of the tokens, or without patches, keeps its place along x, and the lines skip it."""
        only = Patches(grid=(3, 4), prefix=("reg",), image_size=(48, 80))
        maps = [make(BARE), make(), make(keys=only), make(keys=Axis(5))]
        ax = plot.prefix(maps, ax=empty())
        assert legend(ax) == ["prefix token\n(mean of heads)", "cls", "reg", "one head"]
        assert [False, True, False, False] == np.isfinite(heights(ax, 0)).tolist()
        assert [False, True, True, False] == np.isfinite(heights(ax, 1)).tolist()
        assert heights(ax, 1)[2] == pytest.approx(numbers.prefix_mass(maps[2]).mean().item())
        assert set(dots(ax, 0)[:, 0]) == {0.75}
        assert ax.get_xlim() == (-0.5, 3.5)

    def test_no_layer_has_tokens(self) -> None:
        """Maps without prefix tokens are refused."""
        with pytest.raises(
            ShapeError, match=r"No layer's keys have prefix tokens, those of .* are Patches.*; give the layers"
        ):
            plot.prefix([make(BARE)])
        with pytest.raises(ShapeError, match="No layer's keys have prefix tokens"):
            plot.prefix([make(Tokens(["a", "b"]))])
        assert plt.get_fignums() == []

    @pytest.mark.parametrize("registers", [0, 1, 4])
    @pytest.mark.parametrize("size", [(3.3, 2.6), (6.4, 4.8)])
    def test_nothing_overlaps(self, size: tuple[float, float], registers: int) -> None:
        """In the width of a paper's column nothing is cut off, and the legend covers no line."""
        axis = Patches(grid=(3, 4), prefix=("cls", *(f"reg{n}" for n in range(registers))))
        with mpl.rc_context({"figure.figsize": size}):
            ax = plot.prefix(layers(*[3] * 12, axis=axis, batch=2))
        figure: Any = ax.figure
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        assert min(box.x0, box.y0, size[0] - box.x1, size[1] - box.y1) >= 0
        found = ax.get_legend()
        assert found is not None
        assert not registers or found.get_window_extent().x0 >= ax.get_window_extent().x1


class TestDistance:
    """The mean attention distance."""

    def test_dots_and_line(self) -> None:
        """Each head of each layer has a dot at its distance, and the line goes through the mean of the heads."""
        maps = layers(3, 2)
        ax = plot.distance(maps, ax=empty())
        expected = [(layer, value) for layer, item in enumerate(maps) for value in numbers.distance(item)[0].tolist()]
        np.testing.assert_allclose(dots(ax), expected, rtol=1e-6)
        np.testing.assert_allclose(heights(ax), [numbers.distance(item).mean().item() for item in maps], rtol=1e-6)

    def test_labels(self) -> None:
        """Axes and legend have labels, with the unit."""
        ax = plot.distance(layers(3, 3), ax=empty())
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "mean attention\ndistance (pixels)")
        assert legend(ax) == ["", "mean of heads", "head", "uniform attention"]
        assert plot.distance(layers(3, axis=UNSIZED), ax=empty()).get_ylabel() == "mean attention\ndistance (patches)"

    @pytest.mark.parametrize("size", [(48, 80), None])
    def test_the_distance_of_uniform_attention(self, size: Any) -> None:
        """A grey line is at the mean distance of all pairs of patches, in the unit of the dots."""
        axis = Patches(grid=(3, 4), prefix=("cls",), image_size=size)
        places = np.array([(row, column) for row in range(3) for column in range(4)], float)
        places *= (16, 20) if size else (1, 1)
        expected = np.linalg.norm(places[:, None] - places, axis=-1).mean()
        ax = plot.distance(layers(3, 3, axis=axis), ax=empty())
        line = ax.lines[1]
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected, rtol=1e-6)
        assert np.asarray(line.get_xdata()).tolist() == [-0.5, 0.5, 0.5, 1.5]
        assert to_rgb(line.get_color()) == (0.5, 0.5, 0.5)

    @pytest.mark.parametrize(("queries", "keys"), [(UNSIZED, BARE), (BARE, UNSIZED)])
    def test_size_of_one_axis(self, queries: Axis, keys: Axis) -> None:
        """Queries or keys that know the size of their image are enough."""
        ax = plot.distance([make(queries, keys)], ax=empty())
        assert ax.get_ylabel() == "mean attention\ndistance (pixels)"

    def test_mean_over_the_batch(self) -> None:
        """Without a sample the mean over the batch is drawn, and a chosen one alone."""
        maps = layers(3, batch=2)
        far = numbers.distance(maps[0])
        both, one = plot.distance(maps, ax=empty()), plot.distance(maps, sample=-1, ax=empty())
        np.testing.assert_allclose(dots(both)[:, 1], far.mean(0), rtol=1e-6)
        np.testing.assert_allclose(dots(one)[:, 1], far[1], rtol=1e-6)
        assert [ax.get_title() for ax in (both, one)] == ["mean of 2 samples", "sample 1"]

    def test_windows(self) -> None:
        """In a windowed layer, a sample is an image."""
        maps = [make(WINDOWS, batch=4, windows=2)]
        ax = plot.distance(maps, sample=1, ax=empty())
        np.testing.assert_allclose(dots(ax)[:, 1], numbers.distance(maps[0])[1], rtol=1e-6)
        assert ax.get_title() == "sample 1"

    def test_layers_without_patches(self) -> None:
        """A layer of class attention keeps its place along x, and the line skips it."""
        maps = [make(), make(Axis(1), PATCHES, seed=1), make(seed=2)]
        ax = plot.distance(maps, ax=empty())
        assert [True, False, True] == np.isfinite(heights(ax)).tolist()
        assert set(dots(ax)[:, 0]) == {0, 2}
        assert heights(ax)[2] == pytest.approx(numbers.distance(maps[2]).mean().item())

    def test_layers_at_the_end_without_patches(self) -> None:
        """Layers without a distance keep their places at the end, too, and need no unit."""
        ax = plot.distance([make(), make(Axis(1), UNSIZED)], ax=empty())
        assert ax.get_xlim() == (-0.5, 1.5)
        assert ax.get_ylabel() == "mean attention\ndistance (pixels)"

    def test_no_layer_has_patches(self) -> None:
        """Maps without patches are refused, by the message of the first."""
        with pytest.raises(ShapeError, match=r"queries of .*blocks\.4\.attn.* are Axis\(1\), not patches of an image"):
            plot.distance([make(Axis(1), PATCHES, seed=4), make(Axis(2), PATCHES, seed=5)])
        assert plt.get_fignums() == []

    def test_two_units(self) -> None:
        """Pixels and patches cannot share an axis."""
        with pytest.raises(
            ShapeError, match=r"Some layers know the size of their image .* give the axes of all of them"
        ):
            plot.distance([make(), make(UNSIZED)])
        assert plt.get_fignums() == []

    def test_scale(self) -> None:
        """Distances start at 0, and all dots are inside."""
        ax = plot.distance(layers(3, 3), ax=empty())
        np.testing.assert_allclose(ax.get_ylim(), (0, 1.06 * dots(ax)[:, 1].max()))

    @pytest.mark.parametrize("size", [(3.3, 2.6), (6.4, 4.8)])
    def test_nothing_is_cut_off(self, size: tuple[float, float]) -> None:
        """In the width of a paper's column no text is cut off, and no label is longer than its axis."""
        with mpl.rc_context({"figure.figsize": size}):
            ax = plot.distance(layers(*[3] * 12, batch=2))
        figure: Any = ax.figure
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        assert min(box.x0, box.y0, size[0] - box.x1, size[1] - box.y1) >= 0
        assert ax.yaxis.label.get_window_extent().height <= ax.get_window_extent().height


@pytest.mark.parametrize("recipe", [plot.prefix, plot.distance])
class TestBoth:
    """Both recipes."""

    def test_axes(self, recipe: Any) -> None:
        """The given axes are drawn into and returned; by default, a new figure is made that pyplot will show."""
        ax = empty()
        assert recipe(layers(1), ax=ax) is ax
        assert plt.get_fignums() == []
        assert recipe(layers(1)).figure is plt.gcf()

    def test_any_iterable(self, recipe: Any) -> None:
        """The maps may be a generator."""
        assert recipe(iter(layers(1, 1)), ax=empty()).lines

    def test_no_map(self, recipe: Any) -> None:
        """An empty list of maps is refused."""
        with pytest.raises(StateError, match=f"{recipe.__name__} needs at least one map and got none; run the"):
            recipe([])

    def test_several_forward_passes(self, recipe: Any) -> None:
        """Maps of several forward passes are refused."""
        with pytest.raises(ChoiceError, match=rf"{recipe.__name__} takes one forward pass .* one of maps\.forwards"):
            recipe([make(), make(forward=1)])

    def test_one_map(self, recipe: Any) -> None:
        """A single map counts as one layer."""
        drawn, expected = recipe(make(), ax=empty()), recipe([make()], ax=empty())
        assert [list(line.get_ydata()) for line in drawn.lines] == [list(line.get_ydata()) for line in expected.lines]

    def test_what_is_no_map(self, recipe: Any) -> None:
        """A tensor must be made a map first."""
        with pytest.raises(OptionError, match=f"{recipe.__name__} takes maps and got Tensor; .*AttentionMap"):
            recipe([torch.ones(2, 2)])

    def test_no_such_sample(self, recipe: Any) -> None:
        """A sample that does not exist is refused."""
        with pytest.raises(PositionError, match=r"Sample index 2 of .* is out of range: there are 2"):
            recipe(layers(1, batch=2), sample=2)


def test_recipes_of_core_are_here() -> None:
    """The recipes for any maps are the same objects here."""
    assert (plot.entropy, plot.difference) == (anylocal.plot.entropy, anylocal.plot.difference)
