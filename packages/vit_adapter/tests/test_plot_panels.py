"""Recipes of several panels over one image: heads, layers, and layers × heads."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from anylocal.attention import AttentionMap, Patches, PlacedPatches, Tokens
from anylocal.drawing import LEGEND, short
from anylocal.errors import ChoiceError, NameNotFoundError, OptionError, PositionError, ShapeError, StateError
from anylocal.testing import overlaps
from anylocal_vit import plot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATCHES = Patches(grid=(3, 4), prefix=("cls",), image_size=(48, 80))
IMAGE = np.full((48, 80, 3), 0.25)
SIZES = [(4, 3), (7, 5), (12, 8)]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Check that drawing changes no setting of matplotlib, and close all figures."""
    before = mpl.rcParams.copy()
    yield
    plt.close("all")
    assert before == mpl.rcParams


def make(layer: int = 0, heads: int = 3, axis: Any = PATCHES, batch: int = 1, **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(layer)
    # Each head has weights of another size on the patches.
    weights = torch.rand(batch, heads, len(axis), len(axis), generator=generator).pow(4)
    weights[..., 0] += torch.arange(heads)[:, None]
    weights /= weights.sum(-1, keepdim=True)
    return AttentionMap.from_weights(weights, queries=axis, keys=axis, name=f"blocks.{layer}.attn", **options)


def model(layers: int = 2, **options: Any) -> list[AttentionMap]:
    return [make(layer, **options) for layer in range(layers)]


def empty(size: tuple[float, float] = (7, 5), **options: Any) -> Figure:
    """Return a figure that pyplot does not know."""
    figure = Figure(size, **options)
    FigureCanvasAgg(figure)
    return figure


def panels(figure: Any) -> list[Any]:
    return [ax for ax in figure.axes if ax.get_label().startswith("panel")]


def colorbar(figure: Any) -> Any:
    return figure.axes[-1]


def values(ax: Any) -> Any:
    return np.ma.filled(ax.images[1].get_array(), np.nan)


def titles(figure: Any) -> list[str]:
    return [ax.get_title() for ax in panels(figure)]


def texts(figure: Any) -> list[str]:
    """Return the texts of the figure: the heading, and the names of rows and columns."""
    return [text.get_text() for text in figure.texts]


def picture(weights: Any, axis: Patches = PATCHES) -> Any:
    return axis.split(np.asarray(weights))[1]


class TestOverHeads:
    """All heads of a layer and their mean."""

    def test_weights(self) -> None:
        """A panel for each head, and one for the mean."""
        attention = make()
        figure = plot.over_heads(attention, IMAGE, query=(1, 2), figure=empty())
        position = PATCHES.index(1, 2)
        for head, ax in enumerate(panels(figure)[:3]):
            np.testing.assert_allclose(values(ax), picture(attention[0, head, position]), rtol=1e-6)
        np.testing.assert_allclose(values(panels(figure)[3]), picture(attention[0, :, position].mean(0)), rtol=1e-6)
        assert titles(figure) == ["head 0", "head 1", "head 2", "mean"]
        assert texts(figure) == ["blocks.0.attn, query (1, 2)"]

    def test_default_query(self) -> None:
        """The class token, as in the picture of DINO."""
        attention = make()
        figure = plot.over_heads(attention, IMAGE, figure=empty())
        np.testing.assert_allclose(values(panels(figure)[1]), picture(attention[0, 1, 0]), rtol=1e-6)
        assert texts(figure) == ["blocks.0.attn, query cls"]

    def test_one_head(self) -> None:
        """The mean of one head is that head."""
        assert titles(plot.over_heads(make(heads=1), IMAGE, figure=empty())) == ["head 0"]

    def test_sample(self) -> None:
        """The chosen sample and its image are drawn, and named."""
        attention = make(batch=2)
        images = torch.stack([torch.zeros(3, 48, 80), torch.ones(3, 48, 80)])
        figure = plot.over_heads(attention, images, sample=1, figure=empty())
        np.testing.assert_allclose(values(panels(figure)[2]), picture(attention[1, 2, 0]), rtol=1e-6)
        assert all(ax.images[0].get_array().min() > 0.999 for ax in panels(figure))
        assert texts(figure) == ["blocks.0.attn, image 1, query cls"]

    def test_several_queries(self) -> None:
        """Their mean, with each of them outlined."""
        attention = make()
        figure = plot.over_heads(attention, IMAGE, query=[(0, 0), (2, 3)], figure=empty())
        np.testing.assert_allclose(values(panels(figure)[0]), picture(attention[0, 0, [1, 12]].mean(0)), rtol=1e-6)
        assert texts(figure) == ["blocks.0.attn, mean of 2 queries"]
        assert [len(frames(ax)) for ax in panels(figure)] == [2] * 4

    def test_windows(self) -> None:
        """A query's window is drawn, and the rest of the image is bare."""
        axis = PlacedPatches(grid=(2, 2), places=[[0, 1], [2, 3]], image_size=(48, 80))
        weights = torch.rand(2, 2, 2, 2).softmax(-1)
        attention = AttentionMap.from_weights(weights, queries=axis, keys=axis, windows=2)
        figure = plot.over_heads(attention, IMAGE, query=(1, 0), figure=empty())
        np.testing.assert_array_equal(np.isnan(values(panels(figure)[0])), [[True, True], [False, False]])
        np.testing.assert_allclose(values(panels(figure)[1])[1], weights[1, 1, 0], rtol=1e-6)
        assert texts(figure) == ["query (1, 0) in window 1"]

    def test_columns(self) -> None:
        """As many panels in a row as asked."""
        figure = plot.over_heads(make(heads=5), IMAGE, columns=2, figure=empty())
        assert [len({round(ax.get_position().x0, 3) for ax in panels(figure)}), rows_of(figure)] == [2, 3]


def frames(ax: Any) -> list[tuple[float, float, float, float]]:
    """Return (left, top, right, bottom) of each outline of a query."""
    return [
        (*each.get_xy(), each.get_x() + each.get_width(), each.get_y() + each.get_height())
        for each in ax.patches
        if not each.get_fill()
    ]


def cells(ax: Any) -> list[Any]:
    return [each for each in ax.patches if isinstance(each, Rectangle) and each.get_fill()]


def rows_of(figure: Any) -> int:
    return len({round(ax.get_position().y0, 3) for ax in panels(figure)})


class TestOverLayers:
    """One panel for each layer."""

    def test_mean_over_heads(self) -> None:
        """Without a head, the mean over heads is drawn."""
        maps = model(3)
        figure = plot.over_layers(maps, IMAGE, figure=empty())
        for layer, ax in zip(maps, panels(figure), strict=True):
            np.testing.assert_allclose(values(ax), picture(layer[0, :, 0].mean(0)), rtol=1e-6)
        assert titles(figure) == ["layer 0", "layer 1", "layer 2"]
        assert texts(figure) == ["blocks.*.attn, query cls, mean of 3 heads"]

    def test_head(self) -> None:
        """The chosen head of each layer is drawn, and named once."""
        maps = model(2)
        figure = plot.over_layers(maps, IMAGE, query=(2, 0), head=2, figure=empty())
        for layer, ax in zip(maps, panels(figure), strict=True):
            np.testing.assert_allclose(values(ax), picture(layer[0, 2, PATCHES.index(2, 0)]), rtol=1e-6)
        assert texts(figure) == ["blocks.*.attn, query (2, 0), head 2"]

    def test_layers(self) -> None:
        """The chosen layers, in the order asked, with their own numbers; negative ones count from the end."""
        maps = model(4)
        figure = plot.over_layers(maps, IMAGE, layers=[-1, 1], figure=empty())
        assert titles(figure) == ["layer 3", "layer 1"]
        np.testing.assert_allclose(values(panels(figure)[0]), picture(maps[3][0, :, 0].mean(0)), rtol=1e-6)

    def test_one_layer(self) -> None:
        """A single chosen layer keeps its number as well."""
        figure = plot.over_layers(model(4), IMAGE, layers=[2], figure=empty())
        assert "2" in "".join([*titles(figure), *texts(figure)])

    def test_grids_of_several_sizes(self) -> None:
        """The patches of each layer cover the image, however many they are."""
        coarse = Patches(grid=(1, 2), prefix=("cls",), image_size=(48, 80))
        maps = [make(0), make(1, axis=coarse)]
        figure = plot.over_layers(maps, IMAGE, figure=empty())
        assert [values(ax).shape for ax in panels(figure)] == [(3, 4), (1, 2)]
        assert [list(ax.images[1].get_extent()) for ax in panels(figure)] == [[0, 80, 48, 0]] * 2


class TestGrid:
    """Layers × heads."""

    def test_weights(self) -> None:
        """Each layer is a row, each head a column, and both are named once."""
        maps = model(2)
        figure = plot.grid(maps, IMAGE, figure=empty())
        for number, ax in enumerate(panels(figure)):
            layer, head = divmod(number, 3)
            np.testing.assert_allclose(values(ax), picture(maps[layer][0, head, 0]), rtol=1e-6)
        assert sorted(texts(figure)) == [
            "blocks.*.attn, query cls",
            "head 0",
            "head 1",
            "head 2",
            "layer 0",
            "layer 1",
        ]
        assert (rows_of(figure), set(titles(figure))) == (2, {""})

    def test_choice(self) -> None:
        """Layers and heads in the order asked."""
        maps = model(3)
        figure = plot.grid(maps, IMAGE, layers=[2, 0], heads=[1], figure=empty((3, 5)))
        for layer, ax in zip((2, 0), panels(figure), strict=True):
            np.testing.assert_allclose(values(ax), picture(maps[layer][0, 1, 0]), rtol=1e-6)
        assert {"layer 2", "layer 0", "head 1"} <= set(texts(figure))

    def test_a_wide_figure_has_layers_along_x(self) -> None:
        """So that panels are larger."""
        maps = model(4)
        figure = plot.grid(maps, IMAGE, heads=[0, 2], figure=empty((8, 3)))
        assert rows_of(figure) == 2
        np.testing.assert_allclose(values(panels(figure)[4]), picture(maps[0][0, 2, 0]), rtol=1e-6)
        top, *_ = (text for text in figure.texts if text.get_text() == "layer 0")
        left, *_ = (text for text in figure.texts if text.get_text() == "head 0")
        assert (top.get_horizontalalignment(), left.get_horizontalalignment()) == ("center", "right")

    def test_layers_of_other_numbers_of_heads(self) -> None:
        """By default, the heads that every layer has."""
        figure = plot.grid([make(0, heads=3), make(1, heads=2)], IMAGE, figure=empty())
        assert len(panels(figure)) == 4


def drawn(recipe: str, maps: Sequence[AttentionMap] | None = None, **options: Any) -> Any:
    maps = model() if maps is None else maps
    options = {"figure": empty(), **options}
    if recipe == "over_heads":
        return plot.over_heads(maps[0], IMAGE, **options)
    return getattr(plot, recipe)(maps, IMAGE, **options)


RECIPES = ["over_heads", "over_layers", "grid"]


@pytest.mark.parametrize("recipe", RECIPES)
class TestAll:
    """What all three recipes do."""

    def test_query_is_outlined_in_each_panel(self, recipe: str) -> None:
        """In its place in the image, or around its cell."""
        for ax in panels(drawn(recipe, query=(1, 3))):
            np.testing.assert_allclose(frames(ax), [PATCHES.box((1, 3))])
        for ax in panels(drawn(recipe, query="cls")):
            (cell,) = cells(ax)
            assert frames(ax) == [(*cell.get_xy(), cell.get_x() + cell.get_width(), cell.get_y() + cell.get_height())]

    def test_a_scale_for_each_panel(self, recipe: str) -> None:
        """By default, each has its own, whose top is written in the panel, and 1 on the colorbar."""
        figure = drawn(recipe, figure=empty((12, 8)))
        norms = [ax.images[1].norm for ax in panels(figure)]
        assert len(set(map(id, norms))) == len(norms)
        for ax, norm in zip(panels(figure), norms, strict=True):
            assert (norm.vmin, norm.vmax) == (0, pytest.approx(values(ax).max()))
            assert f"1 = {short(norm.vmax)}" in [text.get_text() for text in ax.texts]
        assert "relative" in colorbar(figure).get_ylabel()

    def test_one_scale_for_all(self, recipe: str) -> None:
        """To compare panels: the colorbar is in weights, and no number is in the panels."""
        figure = drawn(recipe, share="all")
        norms = [ax.images[1].norm for ax in panels(figure)]
        assert len(set(map(id, norms))) == 1
        assert norms[0].vmax == pytest.approx(max(values(ax).max() for ax in panels(figure)))
        assert colorbar(figure).get_ylabel() == LEGEND
        assert all(len(ax.texts) == len(cells(ax)) for ax in panels(figure))

    def test_one_scale_for_each_layer(self, recipe: str) -> None:
        """Panels of a layer share a scale, those of several do not."""
        figure = drawn(recipe, share="layer")
        norms = [ax.images[1].norm for ax in panels(figure)]
        layers = {"over_heads": [0] * 4, "over_layers": [0, 1], "grid": [0, 0, 0, 1, 1, 1]}[recipe]
        for (one, here), (other, there) in combinations(zip(norms, layers, strict=True), 2):
            assert (one is other) == (here == there)

    def test_threshold(self, recipe: str) -> None:
        """The patches drawn are the smallest set that holds the share of the patches' weight."""
        bare = [values(ax).ravel() for ax in panels(drawn(recipe))]
        for ax, weights in zip(panels(drawn(recipe, threshold=0.6)), bare, strict=True):
            held, expected = 0.0, set()
            for position in sorted(range(len(weights)), key=lambda at, weights=weights: -weights[at]):  # type: ignore[misc]  # a default
                if held >= 0.6 * weights.sum():
                    break
                held += weights[position]
                expected.add(position)
            assert set(np.flatnonzero(np.isfinite(values(ax).ravel()))) == expected
            assert len(expected) < len(weights)

    def test_smooth(self, recipe: str) -> None:
        """Patches by default, interpolated where asked."""
        for smooth, expected in ((False, "nearest"), (True, "catrom")):
            shown = {ax.images[1].get_interpolation() for ax in panels(drawn(recipe, smooth=smooth))}
            assert shown == {expected}

    def test_scale_colormap_and_opacity(self, recipe: str) -> None:
        """They are those given, in the panels and the colorbar."""
        norm = mpl.colors.Normalize(0, 0.5)
        figure = drawn(recipe, norm=norm, cmap="gray", alpha=0.3)
        for ax in panels(figure):
            assert ax.images[1].norm is norm
            assert ax.images[1].get_cmap()(1.0) == (1, 1, 1, pytest.approx(0.3))

    def test_image_in_colour(self, recipe: str) -> None:
        """The image below weights that let it through keeps its colours, denormalised where asked."""
        image = np.zeros((48, 80, 3))
        image[..., 0] = 1
        options: dict[str, Any] = {"figure": empty(), "mean": 0.0, "std": 0.5, "alpha": 0.0}
        maps: Any = model()
        figure = getattr(plot, recipe)(maps[0] if recipe == "over_heads" else maps, image, **options)
        assert panels(figure)[0].images[0].get_array()[0, 0].tolist() == [0.5, 0, 0]

    def test_a_given_figure(self, recipe: str) -> None:
        """It is drawn into and returned, keeps its size, and pyplot has no new one."""
        figure = empty((6, 4))
        assert drawn(recipe, figure=figure) is figure
        assert figure.get_size_inches().tolist() == [6, 4]
        assert plt.get_fignums() == []

    def test_a_part_of_a_figure(self, recipe: str) -> None:
        """Panels stay inside a SubFigure."""
        figure = empty((12, 5))
        left, right = cast("Any", figure.subfigures(1, 2))
        assert drawn(recipe, figure=right) is right
        assert not left.axes
        figure.draw_without_rendering()
        assert all(ax.get_window_extent().x0 >= right.bbox.x0 for ax in right.axes)
        assert all(ax.get_window_extent().x1 <= right.bbox.x1 for ax in right.axes)
        # Their places have the shape of the image: they are computed for the part's own size.
        for ax in panels(right):
            place = ax.get_position(original=True)
            np.testing.assert_allclose(ax.get_position().extents, place.extents, atol=1e-3)

    def test_a_new_figure(self, recipe: str) -> None:
        """By default a new one that pyplot shows, as wide as the settings say and as high as the panels are."""
        with mpl.rc_context({"figure.figsize": (5, 9)}):
            figure = drawn(recipe, figure=None)
        assert plt.gcf() is figure
        wide, high = figure.get_size_inches()
        assert wide == 5
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        assert 0 <= box.y0 < 0.3
        assert high - 0.3 < box.y1 <= high

    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize("heads", [1, 6, 12, 16])
    def test_nothing_overlaps(self, recipe: str, heads: int, size: tuple[float, float]) -> None:
        """Titles, panels, names, the heading and the colorbar keep apart, inside the figure."""
        axis = Patches(grid=(4, 4), prefix=("cls", "reg1", "reg2", "reg3", "reg4"), image_size=(56, 56))
        layers = {"over_heads": 1, "over_layers": heads, "grid": 12 if heads <= 6 else 2}[recipe]
        maps = model(layers, heads=1 if recipe == "over_layers" else heads, axis=axis)
        figure = empty(size)
        image = np.zeros((56, 56))
        getattr(plot, recipe)(maps[0] if recipe == "over_heads" else maps, image, query=(1, 1), figure=figure)
        assert not overlaps(figure)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"share": "none"}, OptionError, "share='none' is unknown"),
            ({"query": (3, 0)}, PositionError, "Row index 3"),
            ({"query": "reg1"}, NameNotFoundError, "no prefix token 'reg1'"),
            ({"query": []}, PositionError, "holds no query"),
            ({"sample": 1}, PositionError, "index 1"),
            ({"cmap": "no colormap"}, OptionError, "is no colormap"),
            ({"norm": "no norm"}, OptionError, "norm='no norm'"),
        ],
    )
    def test_mistakes(self, recipe: str, options: Any, error: Any, message: str) -> None:
        """They are refused, and leave no figure."""
        with pytest.raises(error, match=message):
            drawn(recipe, figure=None, **options)
        assert plt.get_fignums() == []

    def test_several_samples(self, recipe: str) -> None:
        """In a batch, a sample must be chosen."""
        with pytest.raises(ChoiceError, match="choose it by sample=0 … 1"):
            drawn(recipe, model(batch=2))

    def test_keys_that_are_no_patches(self, recipe: str) -> None:
        """They have no place in an image."""
        with pytest.raises(ShapeError, match="not patches that could be drawn over an image"):
            drawn(recipe, model(axis=Tokens(["a", "b", "c"])), query=0)

    def test_no_room(self, recipe: str) -> None:
        """Rather refused than drawn as dots."""
        maps = model(12, heads=16)
        with pytest.raises(OptionError, match=r"do not fit into a figure of 0\.8 × 0\.6 inches; give a larger figure"):
            drawn(recipe, maps, figure=empty((0.8, 0.6)))


@pytest.mark.parametrize("recipe", ["over_layers", "grid"])
class TestMaps:
    """What the recipes of several layers take."""

    def test_several_forward_passes(self, recipe: str) -> None:
        """The maps must be of one forward pass."""
        with pytest.raises(ChoiceError, match="forward pass"):
            drawn(recipe, [make(0, forward=0), make(1, forward=1)])

    def test_no_map(self, recipe: str) -> None:
        """An empty list is refused."""
        with pytest.raises(StateError, match="run the model inside the capture first"):
            drawn(recipe, [])

    def test_no_such_layer(self, recipe: str) -> None:
        """A layer that does not exist is refused."""
        with pytest.raises(PositionError, match="2"):
            drawn(recipe, layers=[2])

    def test_iterator(self, recipe: str) -> None:
        """Any iterable of maps will do."""
        options: Any = {"figure": empty()}
        assert getattr(plot, recipe)(iter(model()), IMAGE, **options).axes


@pytest.mark.parametrize(("recipe", "option"), [("over_layers", {"head": 3}), ("grid", {"heads": [3]})])
def test_no_such_head(recipe: str, option: Any) -> None:
    """A head that does not exist is refused."""
    with pytest.raises(PositionError, match="ead index 3"):
        drawn(recipe, figure=None, **option)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("layout", [None, "constrained"])
@pytest.mark.parametrize("size", [(4, 3), (7, 5)], ids=str)
def test_query_in_subplots(size: tuple[float, float], layout: Any) -> None:
    """Six maps in a figure keep apart, whether or not it makes room for labels."""
    figure = empty(size, layout=layout)
    attention = make(heads=6)
    for head, ax in enumerate(figure.subplots(2, 3).flat):
        plot.query(attention, IMAGE, query="cls", head=head, ax=ax)
    assert not overlaps(figure)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0.6}, ["fewest patches with 60% of the patches' weight"]),
        ({"smooth": True}, ["interpolated"]),
        ({}, []),
    ],
)
def test_a_heading_says_what_is_left_out_or_added(options: dict[str, Any], words: list[str]) -> None:
    """Without it, a patch that the threshold leaves out looks like one without attention."""
    keys = Patches(grid=(2, 2), prefix=("cls",), image_size=(32, 32))
    attention = AttentionMap.from_weights(torch.rand(1, 2, 5, 5).softmax(-1), queries=keys, keys=keys)
    heading = plot.over_heads(attention, np.zeros((32, 32, 3)), **options).texts[0].get_text()
    plt.close("all")
    assert [
        word for word in ("fewest patches with 60% of the patches' weight", "interpolated") if word in heading
    ] == words
    title = plot.query(attention, np.zeros((32, 32, 3)), query="cls", **options).get_title()
    plt.close("all")
    assert [
        word for word in ("fewest patches with 60% of the patches' weight", "interpolated") if word in title
    ] == words


@pytest.mark.parametrize("size", [(4, 3), (7, 5)])
def test_the_title_of_a_query_is_inside_a_figure_without_a_layout_engine(size: tuple[float, float]) -> None:
    """Nobody makes room above the axes: its type is made smaller."""
    figure, ax = plt.subplots(figsize=size, layout="none")
    maps: Any = model()
    plot.query(maps[0], IMAGE, query="cls", head=1, threshold=0.6, smooth=True, ax=ax)
    figure.draw_without_rendering()
    assert ax.title.get_window_extent().y1 <= figure.bbox.y1 + 1
    plt.close(figure)
