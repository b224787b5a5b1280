"""The recipe `model`: a thumbnail for each head of each layer, where, on which scale, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from anylocal import plot
from anylocal._drawing.scale import FRACTION, short
from anylocal.attention import AttentionMap, AttentionMaps
from anylocal.errors import ChoiceError, OptionError, PositionError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Drawing changes no setting of matplotlib, and the tests leave no figure."""
    before = mpl.rcParams.copy()
    yield
    plt.close("all")
    assert before == mpl.rcParams


def make(heads: int, seed: int = 0, *, batch: int = 1, length: int = 5, **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(batch, heads, length, length, generator=generator).softmax(-1)
    return AttentionMap.from_weights(weights, **{"name": f"blocks.{seed}.attn", **options})


def layers(*heads: int, **options: Any) -> AttentionMaps:
    return AttentionMaps(make(number, seed, **options) for seed, number in enumerate(heads))


def empty(width: float = 6.4, height: float = 4.8) -> Figure:
    """Return a figure that pyplot does not know."""
    figure = Figure((width, height))
    FigureCanvasAgg(figure)
    return figure


def grid(figure: Figure) -> Axes:
    return figure.axes[0]


def arrays(figure: Figure) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(image.get_array()) for image in grid(figure).images]


def ticks(figure: Figure, name: str) -> dict[float, str]:
    """Return the labels that are drawn along an axis, by their places."""
    figure.draw_without_rendering()
    ruler = getattr(grid(figure), f"{name}axis")
    low, high = sorted(ruler.get_view_interval())
    return {tick.get_loc(): tick.label1.get_text() for tick in ruler.get_major_ticks() if low <= tick.get_loc() <= high}


class TestThumbnails:
    """What is drawn, and where."""

    def test_weights(self) -> None:
        """Each head of each layer is drawn as it is, layer by layer."""
        maps = layers(3, 2)
        expected = [layer[0, head].numpy() for layer in maps for head in range(layer.shape[1])]
        np.testing.assert_array_equal(arrays(plot.model(maps, figure=empty())), expected)

    def test_places(self) -> None:
        """Each lies around its head and its layer, its first query on top, and what a layer lacks stays empty."""
        images = grid(plot.model(layers(3, 2), figure=empty())).images
        extents = np.array([image.get_extent() for image in images])
        centres = np.stack([extents[:, :2].mean(1), extents[:, 2:].mean(1)], 1)
        np.testing.assert_allclose(centres, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)], atol=1e-9)
        assert (extents[:, 2] > extents[:, 3]).all()
        assert {image.origin for image in images} == {"upper"}

    def test_they_do_not_touch(self) -> None:
        """A thumbnail is a square, nearly as large as its cell."""
        (left, right, bottom, top) = grid(plot.model(layers(2), figure=empty())).images[0].get_extent()
        assert (right - left, bottom - top) == pytest.approx((0.94, 0.94))

    def test_all_cells_are_inside(self) -> None:
        """The axes hold the widest layer and all layers, the first on top, in square cells."""
        ax = grid(plot.model(layers(2, 4, 1), figure=empty()))
        assert (ax.get_xlim(), ax.get_ylim(), ax.get_aspect()) == ((-0.5, 3.5), (2.5, -0.5), 1)

    def test_sample(self) -> None:
        """A chosen sample is drawn, and named, counted from the start."""
        maps = layers(1, 1, batch=3)
        figure = plot.model(maps, sample=-1, figure=empty())
        np.testing.assert_array_equal(arrays(figure), [layer[2, 0].numpy() for layer in maps])
        assert grid(figure).get_title() == "blocks.*.attn\nsample 2"

    def test_windows(self) -> None:
        """A windowed layer is drawn as the mean over the windows of the image."""
        windowed = make(1, batch=6, windows=3)
        figure = plot.model([windowed, make(1, 1, batch=2)], sample=1, figure=empty())
        np.testing.assert_allclose(arrays(figure)[0], windowed[3:, 0].mean(0), rtol=1e-6)

    def test_long_maps_are_averaged(self) -> None:
        """Of a map that is larger than a thumbnail can show, neighbours are averaged, at the end too."""
        weights = torch.rand(101, 151, generator=torch.Generator().manual_seed(0))
        (array,) = arrays(plot.model([AttentionMap.from_weights(weights)], reduce="mean", figure=empty()))
        assert array.shape == (51, 51)
        assert array[3, 5] == pytest.approx(weights[5:7, 14:17].mean().item())
        assert array[-1, -1] == pytest.approx(weights[99:, 148:].mean().item())

    def test_by_maximum(self) -> None:
        """By default a block of neighbours is drawn as its maximum, in which a narrow line stays as strong as it is."""
        weights = torch.rand(101, 151, generator=torch.Generator().manual_seed(0))
        (array,) = arrays(plot.model([AttentionMap.from_weights(weights)], figure=empty()))
        assert array[3, 5] == weights[5:7, 14:17].max()

    def test_unknown_reduction(self) -> None:
        """Another way to make a map small is refused with those that there are."""
        with pytest.raises(OptionError, match='reduce=\'min\' is unknown; give "max" or "mean"'):
            plot.model(layers(1), reduce="min", figure=empty())  # type: ignore[arg-type]  # wrong on purpose

    def test_64_tokens_are_drawn_as_they_are(self) -> None:
        """What a thumbnail can show is not averaged."""
        layer = make(1, length=64)
        np.testing.assert_array_equal(arrays(plot.model([layer], figure=empty()))[0], layer[0, 0])

    def test_dots_are_averages(self) -> None:
        """No weight is skipped where several share a dot of the picture, whatever the rcParams say."""
        with mpl.rc_context({"image.interpolation": "nearest"}):
            images = grid(plot.model(layers(1), figure=empty())).images
        # Newer matplotlib calls it "auto".
        assert images[0].get_interpolation() in {"antialiased", "auto"}


class TestScale:
    """One scale, with its legend."""

    def test_own(self) -> None:
        """Each thumbnail has its own scale by default, whose top is written into it."""
        maps = layers(3, 2)
        ax = grid(plot.model(maps, figure=empty()))
        tops = [layer[0, head].max().item() for layer in maps for head in range(layer.shape[1])]
        assert [image.norm.vmax for image in ax.images] == tops
        assert [text.get_text() for text in ax.texts] == [f"1 = {short(top)}" for top in tops]

    def test_tops_without_room(self) -> None:
        """Where thumbnails are too small for a number, the colorbar tells the range of the tops."""
        maps = layers(*[12] * 12)
        tops = [layer[0, head].max().item() for layer in maps for head in range(12)]
        figure = plot.model(maps, figure=empty(4, 3))
        assert not grid(figure).texts
        label = grid(figure).child_axes[0].get_ylabel()
        assert f"({short(min(tops))} to {short(max(tops))})" in label

    def test_layers(self) -> None:
        """The heads of a layer can share a scale."""
        maps = layers(3, 2)
        images = grid(plot.model(maps, share="layer", figure=empty())).images
        tops = [layer.tensor().max().item() for layer in maps]
        assert [image.norm.vmax for image in images] == [tops[0]] * 3 + [tops[1]] * 2

    def test_shared(self) -> None:
        """All thumbnails can share a scale, from 0 to the greatest weight of all."""
        maps = layers(3, 2)
        ax = grid(plot.model(maps, share="all", figure=empty()))
        (scale,) = {image.norm for image in ax.images}
        assert (scale.vmin, scale.vmax) == (0, max(layer.tensor().max().item() for layer in maps))
        assert not ax.texts

    def test_chosen(self) -> None:
        """A given scale and colormap are those of all thumbnails."""
        scale = Normalize(0, 0.5)
        images = grid(plot.model(layers(2, 2), norm=scale, cmap="cividis", figure=empty())).images
        assert {(image.norm, image.get_cmap().name) for image in images} == {(scale, "cividis")}

    def test_legend(self) -> None:
        """There is one colorbar, and it says what its numbers are."""
        for share, label in (("head", FRACTION), ("all", "attention weight")):
            figure = plot.model(layers(3, 2), share=share, figure=empty())  # type: ignore[arg-type]  # it is one of the words
            figure.draw_without_rendering()
            labels = [inset.get_ylabel() for ax in figure.axes for inset in ax.child_axes]
            assert labels == [f"{label}\n(square-root scale)"]
            figure = plot.model(layers(3, 2), norm="linear", share=share, figure=empty())  # type: ignore[arg-type]  # as above
            assert [inset.get_ylabel() for ax in figure.axes for inset in ax.child_axes] == [label]


class TestNames:
    """What is written beside the thumbnails."""

    def test_numbers(self) -> None:
        """Columns are numbered by heads, and rows as their modules are."""
        maps = AttentionMaps(make(4, number) for number in (7, 8, 9))
        figure = plot.model(maps, figure=empty())
        assert ticks(figure, "x") == {0: "0", 1: "1", 2: "2", 3: "3"}
        assert ticks(figure, "y") == {0: "7", 1: "8", 2: "9"}
        assert (grid(figure).get_xlabel(), grid(figure).get_ylabel()) == ("head", "layer")
        assert grid(figure).get_title() == "blocks.*.attn"

    def test_names_of_modules(self) -> None:
        """Names that differ in more than a number stand behind the number of the layer, where there is room."""
        maps = AttentionMaps(make(2, name=name) for name in ("encoder.0.attn", "decoder.0.attn"))
        assert ticks(plot.model(maps, figure=empty()), "y") == {0: "0  encoder", 1: "1  decoder"}
        assert ticks(plot.model(maps, figure=empty(width=1.5)), "y") == {0: "0", 1: "1"}

    def test_without_names(self) -> None:
        """Maps without names are counted, and the title is empty."""
        figure = plot.model([make(2, name=""), make(2, name="")], figure=empty())
        assert ticks(figure, "y") == {0: "0", 1: "1"}
        assert not grid(figure).get_title()

    def test_a_module_that_ran_twice(self) -> None:
        """Layers that share a module are counted, and the title is its name."""
        figure = plot.model([make(2, name="layer.attn")] * 2, figure=empty())
        assert ticks(figure, "y") == {0: "0", 1: "1"}
        assert grid(figure).get_title() == "layer.attn"

    def test_a_column_of_a_paper(self) -> None:
        """Twelve layers of twelve heads have all their rows and every second head numbered in 3.3 inches."""
        with mpl.rc_context({"figure.figsize": (3.3, 2.5), "font.size": 8}):
            figure = plot.model(layers(*[12] * 12))
            assert list(ticks(figure, "y").values()) == [str(number) for number in range(12)]
            assert len(ticks(figure, "x")) >= 6
        assert figure.get_figwidth() == 3.3


class TestFigure:
    """Where it is drawn."""

    def test_given(self) -> None:
        """A given figure is drawn into, keeps its size, and is returned."""
        figure = empty(5, 3)
        assert plot.model(layers(2), figure=figure) is figure
        assert figure.get_size_inches().tolist() == [5, 3]
        assert plt.get_fignums() == []

    def test_new(self) -> None:
        """A new figure is as wide as the rcParams say, and higher with more layers."""
        few, many = (plot.model(layers(*[6] * number)) for number in (3, 9))
        assert few.get_figwidth() == many.get_figwidth() == mpl.rcParams["figure.figsize"][0]
        assert few.get_figheight() < many.get_figheight()

    def test_cells_fill_the_width(self) -> None:
        """In a new figure, the cells take what labels and legend leave of the width."""
        figure = plot.model(layers(*[12] * 6))
        figure.draw_without_rendering()
        assert grid(figure).get_position().width > 0.75


class TestAcross:
    """Layers side by side, where maps become larger so."""

    def test_wide(self) -> None:
        """In a wide figure, many layers of few heads have a column each, and both axes say what they are."""
        maps = layers(3, 2, *[3] * 7)
        figure = plot.model(maps, figure=empty(8, 4))
        extents = np.array([image.get_extent() for image in grid(figure).images])
        places = np.stack([extents[:, :2].mean(1), extents[:, 2:].mean(1)], 1)
        expected = [(layer, head) for layer, item in enumerate(maps) for head in range(item.shape[1])]
        np.testing.assert_allclose(places, expected, atol=1e-9)
        assert (grid(figure).get_xlabel(), grid(figure).get_ylabel()) == ("layer", "head")
        assert ticks(figure, "x") == {number: str(number) for number in range(9)}
        assert ticks(figure, "y") == {number: str(number) for number in range(3)}
        assert (grid(figure).get_xlim(), grid(figure).get_ylim()) == ((-0.5, 8.5), (2.5, -0.5))

    def test_high(self) -> None:
        """In a high figure they have a row each."""
        assert grid(plot.model(layers(*[3] * 9), figure=empty(4, 8))).get_ylabel() == "layer"

    def test_names_of_modules(self) -> None:
        """Columns are numbered only."""
        maps = [make(3, seed, name=name) for seed, name in enumerate([f"{side}.0.attn" for side in "abcdefghi"])]
        assert ticks(plot.model(maps, figure=empty(8, 4)), "x") == {number: str(number) for number in range(9)}

    def test_a_new_figure(self) -> None:
        """Twelve layers of six heads fill the width of a new figure."""
        figure = plot.model(layers(*[6] * 12))
        figure.draw_without_rendering()
        assert grid(figure).get_xlabel() == "layer"
        assert grid(figure).get_position().width > 0.7
        assert figure.get_figheight() < figure.get_figwidth()

    def test_a_single_row(self) -> None:
        """Of one head the layers stay rows: beside a single row there is no room for a colorbar."""
        assert grid(plot.model(layers(*[1] * 9), figure=empty(8, 4))).get_ylabel() == "layer"


class TestRefused:
    """What cannot be drawn in one picture."""

    def test_several_forwards(self) -> None:
        """Maps of several forwards are refused with where each is."""
        with pytest.raises(ChoiceError, match=r"model takes one forward pass .* maps\.forwards"):
            plot.model([make(2), make(2, forward=1)])

    def test_several_samples(self) -> None:
        """Of a batch, a sample must be chosen."""
        with pytest.raises(ChoiceError, match=r"sample=0 … 1"):
            plot.model(layers(2, batch=2))

    def test_no_such_sample(self) -> None:
        """A sample that is not there is refused."""
        with pytest.raises(PositionError, match="2"):
            plot.model(layers(2, batch=2), sample=2)

    def test_no_map(self) -> None:
        """Without a map there is nothing to draw."""
        with pytest.raises(StateError, match="run the model inside the capture"):
            plot.model([])

    def test_no_maps_of_attention(self) -> None:
        """Plain matrices are refused."""
        with pytest.raises(OptionError, match="from_weights"):
            plot.model([np.eye(3)])  # type: ignore[list-item]  # what is refused


@pytest.mark.parametrize("layout", [None, "constrained"])
@pytest.mark.parametrize("recipe", ["heads", "model"])
def test_a_part_of_a_figure_is_drawn_into(recipe: str, layout: str | None) -> None:
    """Beside what else the user has in the figure, and as wide as that part is."""
    attention = AttentionMap.from_weights(torch.rand(1, 6, 4, 4).softmax(-1), name="layer")
    figure = Figure((9, 4), layout=layout)  # type: ignore[arg-type]  # its stub knows no variable
    parts: Any = figure.subfigures(1, 2)
    left, right = parts
    if recipe == "heads":
        assert plot.heads(attention, figure=left) is left
    else:
        assert plot.model([attention], figure=left) is left
    assert left.axes
    assert not right.axes
    figure.draw_without_rendering()
    assert all(ax.get_window_extent().x1 <= 4.5 * figure.dpi for ax in left.axes)
