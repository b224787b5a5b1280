"""The recipes over an image: weights in the places of patches, on one scale with the prefix tokens."""

from __future__ import annotations

import base64
import io
import re
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import anylocal.plot
from anylocal._drawing.overlay import LEGIBLE
from anylocal.attention import AttentionMap, AttentionMaps, Axis, Patches, Tokens
from anylocal.drawing import BACKGROUND, short
from anylocal.errors import (
    ChoiceError,
    NameNotFoundError,
    OptionError,
    PositionError,
    ShapeError,
    StateError,
    UnsupportedError,
)
from anylocal.store import load, save
from anylocal_vit import plot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PATCHES = Patches(grid=(3, 4), prefix=("cls", "reg1", "reg2"), image_size=(48, 80))
BARE = Patches(grid=(3, 4), prefix=(), image_size=(48, 80))
IMAGE = np.linspace(0, 255, 48 * 80 * 3).reshape(48, 80, 3).astype(np.uint8)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Check that drawing changes no setting of matplotlib, and close all figures."""
    before = mpl.rcParams.copy()
    yield
    plt.close("all")
    assert before == mpl.rcParams


def make(batch: int = 1, axis: Any = PATCHES, seed: int = 0, **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(batch, 3, len(axis), 4, generator=generator) for _ in "qk")
    return AttentionMap.from_qk(3 * q, k, queries=axis, keys=axis, name="blocks.3.attn", **options)


def one_hot(key: int, axis: Patches = PATCHES) -> AttentionMap:
    """Return a map in which every query attends to one key."""
    weights = torch.zeros(len(axis), len(axis))
    weights[:, key] = 1
    return AttentionMap.from_weights(weights, queries=axis, keys=axis)


def empty(**options: Any) -> Axes:
    """Return axes that pyplot does not know."""
    figure = Figure(layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure.subplots()


def figure_of(ax: Axes) -> Figure:
    assert isinstance(ax.figure, Figure)
    return ax.figure


def values(image: Any) -> np.ndarray[Any, Any]:
    return np.asarray(image.get_array())


def heat(ax: Axes) -> Any:
    return ax.images[1]


def cells(ax: Axes) -> list[Any]:
    """Return the prefix cells."""
    return [each for each in ax.patches if isinstance(each, Rectangle) and each.get_fill()]


def frames(ax: Axes) -> list[Any]:
    """Return the outlines of queries."""
    return [each for each in ax.patches if not each.get_fill()]


def box_of(rectangle: Any) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) in pixels of the image."""
    left, top = rectangle.get_xy()
    return left, top, left + rectangle.get_width(), top + rectangle.get_height()


def outline(ax: Axes) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of the only frame."""
    (frame,) = frames(ax)
    return box_of(frame)


def on_grey(ax: Axes, weights: Any) -> np.ndarray[Any, Any]:
    """Return the colours of weights on the grey that prefix cells are on."""
    colours = heat(ax).get_cmap()(heat(ax).norm(np.asarray(weights)))
    mixed: np.ndarray[Any, Any] = colours[..., :3] * colours[..., 3:] + np.array(to_rgb(BACKGROUND)) * (
        1 - colours[..., 3:]
    )
    return mixed


def check_cells(ax: Axes, names: Sequence[str], weights: Any) -> None:
    """Check the names, the numbers and the colours of the prefix cells."""
    assert [text.get_text() for text in ax.texts] == [
        f"{name} {short(float(weight))}" for name, weight in zip(names, weights, strict=True)
    ]
    drawn = [to_rgb(cell.get_facecolor()) for cell in cells(ax)]
    np.testing.assert_allclose(drawn, on_grey(ax, weights), atol=1e-6)


class TestQuery:
    """What one query attends to."""

    def test_weights(self) -> None:
        """The patches' weights are those of the query and the head, in the grid's shape."""
        attention = make()
        ax = plot.query(attention, IMAGE, query=(1, 2), head=2, ax=empty())
        np.testing.assert_array_equal(PATCHES.split(attention[0, 2, PATCHES.index(1, 2)])[1], values(heat(ax)))

    def test_mean_over_heads(self) -> None:
        """Without a head, the mean over heads is drawn."""
        attention = make()
        ax = plot.query(attention, IMAGE, query="reg1", ax=empty())
        np.testing.assert_allclose(PATCHES.split(attention.head_mean(1)[0])[1], values(heat(ax)), rtol=1e-6)

    def test_sample(self) -> None:
        """The chosen sample of a batch and its image are drawn, and named."""
        attention = make(batch=2)
        images = torch.stack([torch.zeros(3, 48, 80), torch.ones(3, 48, 80)])
        ax = plot.query(attention, images, query=0, sample=1, head=0, ax=empty())
        np.testing.assert_array_equal(PATCHES.split(attention[1, 0, 0])[1], values(heat(ax)))
        np.testing.assert_allclose(values(ax.images[0]), 1)
        assert ax.get_title() == "blocks.3.attn, sample 1, head 0, query cls"

    def test_prefix_cells(self) -> None:
        """Prefix tokens are cells below the image, in order, with their names, numbers and colours."""
        attention = make()
        ax = plot.query(attention, IMAGE, query=5, head=0, ax=empty(figsize=(6, 6)))
        check_cells(ax, PATCHES.prefix, attention[0, 0, 5, :3])

    def test_prefix_cells_lie_below_the_image(self) -> None:
        """The cells lie inside the axes, side by side below the image, as wide as it is together."""
        ax = plot.query(make(), IMAGE, query=5, ax=empty())
        figure_of(ax).draw_without_rendering()
        drawn = [cell.get_window_extent() for cell in cells(ax)]
        axes = ax.get_window_extent()
        _, image_bottom = ax.transData.transform((0, 48))
        assert all(axes.y0 - 1e-6 <= cell.y0 < cell.y1 < image_bottom for cell in drawn)
        assert all(left.x1 <= right.x0 + 1e-6 for left, right in pairwise(drawn))
        assert (drawn[0].x0, drawn[-1].x1) == (pytest.approx(axes.x0), pytest.approx(axes.x1))

    def test_no_prefix(self) -> None:
        """Without prefix tokens there are no cells, and the axes end with the image."""
        ax = plot.query(make(axis=BARE), IMAGE, query=0, colorbar=False, ax=empty())
        assert not [*ax.child_axes, *cells(ax), *ax.texts]
        assert ax.get_ylim() == (48, 0)

    def test_title(self) -> None:
        """The title names the layer, the heads and the query."""
        assert (
            plot.query(make(), IMAGE, query=3, ax=empty()).get_title() == "blocks.3.attn, mean of 3 heads, query (0, 0)"
        )

    @pytest.mark.parametrize("query", ["cls", (2, 3), -1, np.int64(4), [1, 1]])
    def test_any_way_to_name_a_query(self, query: Any) -> None:
        """A query is named by the map's axis."""
        attention = make()
        ax = plot.query(attention, IMAGE, query=query, head=1, ax=empty())
        row = attention[0, 1, PATCHES.position(query)]
        np.testing.assert_array_equal(PATCHES.split(row)[1], values(heat(ax)))


class TestRegistration:
    """Weights are in the places of the patches in the model's input."""

    @pytest.mark.parametrize("axis", [PATCHES, BARE, Patches(grid=(5, 2), image_size=(52, 31))])
    def test_cells_are_the_boxes(self, axis: Patches) -> None:
        """Each cell of the drawn grid is the box of its patch, in pixels."""
        height, width = axis.image_size or (0, 0)
        ax = plot.query(make(axis=axis), np.zeros((height, width)), query=0, ax=empty())
        left, right, bottom, top = heat(ax).get_extent()
        rows, columns = values(heat(ax)).shape
        for row, column in np.ndindex(rows, columns):
            xs = left + (right - left) * np.array([column, column + 1]) / columns
            ys = top + (bottom - top) * np.array([row, row + 1]) / rows
            np.testing.assert_allclose((xs[0], ys[0], xs[1], ys[1]), axis.box((row, column)))

    def test_image_and_weights_share_the_pixels(self) -> None:
        """Image and weights end at the edges of the image, the view below the cells, and pixels are square."""
        with mpl.rc_context({"image.aspect": "auto"}):
            ax = plot.query(make(), IMAGE, query=0, ax=empty())
        assert [[0, 80, 48, 0]] * 2 == [list(image.get_extent()) for image in ax.images]
        bottom = max(box_of(cell)[3] for cell in cells(ax))
        assert [ax.get_xlim(), ax.get_ylim(), ax.get_aspect()] == [(0, 80), (pytest.approx(bottom), 0), 1]

    @pytest.mark.parametrize("origin", ["upper", "lower"])
    @pytest.mark.parametrize("cell", [(0, 0), (0, 3), (2, 1), (2, 3)])
    def test_on_paper(self, cell: tuple[int, int], origin: Any) -> None:
        """In the rendered picture, the one patch attended to is bright and all else is dark."""
        ax = empty(figsize=(4, 4), dpi=100)
        with mpl.rc_context({"image.origin": origin}):
            plot.query(one_hot(PATCHES.index(*cell)), np.zeros((48, 80)), query="cls", colorbar=False, ax=ax)
        figure = figure_of(ax)
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].sum(-1)  # type: ignore[attr-defined]  # Agg's
        for row, column in np.ndindex(3, 4):
            left, top, right, bottom = PATCHES.box((row, column))
            corners = ax.transData.transform([(left + 1, bottom - 1), (right - 1, top + 1)])
            (x0, y0), (x1, y1) = corners.round().astype(int)
            inside = pixels[len(pixels) - y1 : len(pixels) - y0, x0:x1]
            assert (inside.min() > 300) if (row, column) == cell else (inside.max() < 50)

    def test_image_is_upright(self) -> None:
        """The image's first row is on top, whatever the settings say."""
        image = np.zeros((48, 80))
        image[0] = 1
        with mpl.rc_context({"image.origin": "lower"}):
            ax = plot.query(make(), image, query=0, ax=empty())
        assert values(ax.images[0])[0, 0] == 1
        assert ax.images[0].origin == "upper"

    def test_axis_without_image_size(self) -> None:
        """If the map does not know the size of its image, the image's own size is used."""
        axis = Patches(grid=(3, 4))
        ax = plot.query(make(axis=axis), np.zeros((30, 60)), query=(1, 1), ax=empty())
        assert list(heat(ax).get_extent()) == [0, 60, 30, 0]
        assert outline(ax) == (15, 10, 30, 20)


class TestPadded:
    """The picture of an image that the model pads below and to the right."""

    AXIS = Patches(grid=(3, 5), image_size=(48, 80), image_padding=(13, 15))
    IMAGE = np.linspace(0, 1, 35 * 65).reshape(35, 65)

    def drawn(self, recipe: str) -> Axes:
        layer, ax = make(axis=self.AXIS), empty()
        if recipe == "rollout":
            return plot.rollout([layer] * 2, self.IMAGE, query=(2, 4), ax=ax)
        return plot.query(layer, self.IMAGE, query=(2, 4), ax=ax)

    @pytest.mark.parametrize("recipe", ["query", "rollout"])
    def test_patches_are_complete(self, recipe: str) -> None:
        """The last patch begins in the image, and ends beyond it."""
        assert outline(self.drawn(recipe)) == (64, 32, 80, 48)

    @pytest.mark.parametrize("recipe", ["query", "rollout"])
    def test_pixels_keep_their_places(self, recipe: str) -> None:
        """The image is in the upper left corner, pixel by pixel, and padding is grey, as models pad."""
        below = self.drawn(recipe).images[0]
        assert list(below.get_extent()) == [0, 80, 48, 0]
        expected = np.full((48, 80), 0.5)
        expected[:35, :65] = self.IMAGE
        np.testing.assert_array_equal(values(below), expected)

    def test_padded_by_the_user(self) -> None:
        """An image that the user has padded is drawn as it is."""
        image = np.zeros((48, 80))
        ax = plot.query(make(axis=self.AXIS), image, query=(2, 4), ax=empty())
        np.testing.assert_array_equal(values(ax.images[0]), image)

    def test_maps_from_a_file(self, tmp_path: Path) -> None:
        """Maps that were saved draw the same."""
        (loaded,) = load(save(make(axis=self.AXIS), tmp_path / "maps.safetensors"))
        ax = plot.query(loaded, self.IMAGE, query=(2, 4), ax=empty())
        assert outline(ax) == (64, 32, 80, 48)

    @pytest.mark.parametrize("size", [(32, 80), (48, 64), (49, 65), (35, 81), (30, 65)])
    def test_more_than_padding(self, size: tuple[int, int]) -> None:
        """An image that lacks a complete patch, or has too many pixels, is refused."""
        with pytest.raises(ShapeError, match=f"The image is {size[0]} × {size[1]} pixels, and the model saw 48 × 80"):
            plot.query(make(axis=self.AXIS), np.zeros(size), query=0)

    def test_an_image_that_nobody_padded(self) -> None:
        """A smaller image is refused, however little it lacks."""
        axis = Patches(grid=(5, 5), image_size=(80, 80))
        with pytest.raises(ShapeError, match="the model saw 80 × 80"):
            plot.query(make(axis=axis), np.zeros((78, 80)), query=0)


class TestOutline:
    """The outline of the query."""

    @pytest.mark.parametrize("cell", [(0, 0), (1, 2), (2, 3)])
    def test_patch(self, cell: tuple[int, int]) -> None:
        """The frame is the box of the query patch."""
        ax = plot.query(make(), IMAGE, query=cell, ax=empty())
        np.testing.assert_allclose(outline(ax), PATCHES.box(cell))

    def test_prefix(self) -> None:
        """A prefix token has the frame around its cell."""
        ax = plot.query(make(), IMAGE, query="reg2", ax=empty())
        assert outline(ax) == box_of(cells(ax)[2])

    def test_visible_on_dark_and_light(self) -> None:
        """The frame is black on white, visible without colour."""
        (frame,) = frames(plot.query(make(), IMAGE, query=(1, 1), ax=empty()))
        (stroke,) = frame.get_path_effects()
        assert (to_rgb(frame.get_edgecolor()), frame.get_fill()) == ((0, 0, 0), False)
        assert stroke._gc == {"linewidth": 3, "foreground": "white"}
        assert frame.get_linewidth() < 3

    def test_query_that_is_no_patch(self) -> None:
        """A query without a place, such as a pooling layer's or a word, is named, not framed."""
        weights = torch.full((2, 15), 1 / 15)
        attention = AttentionMap.from_weights(weights, queries=Tokens(["a", "cat"]), keys=PATCHES)
        ax = plot.query(attention, IMAGE, query="cat", ax=empty())
        assert ax.get_title() == "head 0, query cat"
        assert not frames(ax)

    def test_prefix_that_is_no_key(self) -> None:
        """A prefix query that is not a key has no cell to frame."""
        attention = AttentionMap.from_weights(torch.full((15, 12), 1 / 12), queries=PATCHES, keys=BARE)
        assert not plot.query(attention, IMAGE, query="cls", ax=empty()).patches


class TestScale:
    """One scale, that of the patches, which the colorbar explains."""

    @pytest.mark.parametrize("key", [0, 7])
    def test_default(self, key: int) -> None:
        """The scale of few patches goes from 0 to the greatest of their weights."""
        attention = make()
        ax = plot.query(attention, IMAGE, query=key, head=1, ax=empty())
        norm = heat(ax).norm
        assert (norm.vmin, norm.vmax) == (0, attention[0, 1, key, 3:].max())

    def test_prefix_does_not_count(self) -> None:
        """A prefix token that takes nearly all attention leaves the scale to the patches, and has its number."""
        weights = torch.full((15, 15), 0.001)
        weights[:, 0] = 0.986
        attention = AttentionMap.from_weights(weights, queries=PATCHES, keys=PATCHES)
        ax = plot.query(attention, IMAGE, query=(0, 0), ax=empty())
        assert heat(ax).norm.vmax == pytest.approx(0.001)
        assert ax.texts[0].get_text() == "cls .99"
        assert heat(ax).colorbar.extend == "max"

    def test_no_weight_on_patches(self) -> None:
        """A prefix token that takes all attention leaves the image bare."""
        ax = plot.query(one_hot(1), IMAGE, query=(0, 0), ax=empty())
        assert (heat(ax).norm.vmax, values(heat(ax)).max()) == (1, 0)

    def test_robust(self) -> None:
        """One sink among many patches does not take the whole scale; the colorbar has a triangle."""
        axis = Patches(grid=(14, 14), image_size=(48, 80))
        weights = torch.rand(1, 197, 197, generator=torch.Generator().manual_seed(0))
        weights[..., 50] = 100
        attention = AttentionMap.from_weights(weights / weights.sum(-1, keepdim=True), queries=axis, keys=axis)
        ax = plot.query(attention, IMAGE, query="cls", ax=empty())
        patches = np.sort(values(heat(ax)).ravel())
        assert patches[-3] <= heat(ax).norm.vmax < patches[-1] / 50
        assert heat(ax).colorbar.extend == "max"

    def test_nothing_clipped(self) -> None:
        """Where no weight is beyond the scale, the colorbar has no triangle."""
        ax = plot.query(make(axis=BARE), IMAGE, query=0, ax=empty())
        assert heat(ax).colorbar.extend == "neither"

    def test_given(self) -> None:
        """A given scale and colormap hold for patches and prefix tokens."""
        norm = Normalize(0, 0.25)
        attention = make()
        ax = plot.query(attention, IMAGE, query=0, norm=norm, cmap="cividis", ax=empty())
        assert heat(ax).norm is norm
        np.testing.assert_allclose(heat(ax).get_cmap()(1.0)[:3], mpl.colormaps["cividis"](1.0)[:3])
        check_cells(ax, PATCHES.prefix, attention.head_mean(0)[0, :3])
        assert (norm.vmin, norm.vmax) == (0, 0.25)

    def test_by_name(self) -> None:
        """A scale can be named, as in matplotlib."""
        ax = plot.query(one_hot(4), IMAGE, query=0, norm="log", ax=empty())
        assert isinstance(heat(ax).norm, LogNorm)

    def test_colorbar(self) -> None:
        """The one colorbar belongs to the weights, and has a label."""
        ax = plot.query(make(), IMAGE, query=0, ax=empty())
        assert heat(ax).colorbar.ax.get_ylabel() == "attention weight"
        assert ax.child_axes == [heat(ax).colorbar.ax]

    def test_colours_are_the_same_everywhere(self) -> None:
        """Cells and colorbar are on middle grey, with the opacity of the weights over the image."""
        attention = make()
        ax = plot.query(attention, IMAGE, query=0, alpha=0.4, ax=empty())
        bar = heat(ax).colorbar
        assert bar.cmap is heat(ax).get_cmap()
        assert [bar.cmap(weight)[3] for weight in (0.0, 1.0)] == [0, pytest.approx(0.4)]
        assert to_rgb(bar.ax.get_facecolor()) == to_rgb(BACKGROUND)
        check_cells(ax, PATCHES.prefix, attention.head_mean(0)[0, :3])

    def test_no_colorbar(self) -> None:
        """Without a colorbar nothing is beside the image."""
        ax = plot.query(make(), IMAGE, query=0, colorbar=False, ax=empty())
        assert heat(ax).colorbar is None
        assert not ax.child_axes


class TestAxes:
    """The axes that are drawn into."""

    def test_given(self) -> None:
        """The given axes are drawn into and returned, all else is their inset, and pyplot has no new figure."""
        ax = empty()
        assert plot.query(make(), IMAGE, query=0, ax=ax) is ax
        assert figure_of(ax).axes == [ax]
        assert plt.get_fignums() == []

    def test_new(self) -> None:
        """By default, a new figure is made that pyplot will show."""
        figure = plot.query(make(), IMAGE, query=0).figure
        assert plt.gcf() is figure

    def test_no_figure_of_a_mistake(self) -> None:
        """A refused call leaves no empty figure."""
        for mistake in ({"query": 99}, {"query": 0, "head": 9}, {"query": 0, "norm": "no norm"}):
            with pytest.raises((PositionError, ValueError)):
                plot.query(make(), IMAGE, **mistake)
        assert plt.get_fignums() == []

    def test_no_grid(self) -> None:
        """No grid and no pixel numbers cover the image, whatever the settings say."""
        with mpl.rc_context({"axes.grid": True}):
            ax = plot.query(make(), IMAGE, query=0, ax=empty())
        figure_of(ax).draw_without_rendering()
        assert not [*ax.get_xticks(), *ax.get_yticks()]
        assert not any(line.get_visible() for line in [*ax.get_xgridlines(), *ax.get_ygridlines()])

    @pytest.mark.parametrize("registers", [1, 4, 16])
    @pytest.mark.parametrize("grid", [(14, 14), (7, 14), (14, 7)])
    @pytest.mark.parametrize("size", [(3.4, 2.6), (2.5, 4)])
    def test_labels_keep_apart(self, size: tuple[float, float], grid: tuple[int, int], registers: int) -> None:
        """In a column of a paper, the names of prefix tokens stay in their cells, and nothing is cut off."""
        names = ("cls", *(f"reg{n}" for n in range(1, registers + 1)))
        axis = Patches(grid=grid, prefix=names, image_size=(grid[0] * 16, grid[1] * 16))
        with mpl.rc_context({"figure.figsize": size}):
            ax = plot.rollout([make(axis=axis)] * 3, np.zeros(axis.image_size or ()), query=(1, 1))
        figure_of(ax).draw_without_rendering()
        box, renderer = figure_of(ax).get_tightbbox(), figure_of(ax).canvas.get_renderer()  # type: ignore[attr-defined]  # Agg's
        assert len(ax.texts) == len(cells(ax)) == len(names)
        for text, cell in zip(ax.texts, cells(ax), strict=True):
            inner, outer = text.get_window_extent(renderer), cell.get_window_extent()
            if float(text.get_fontsize()) < LEGIBLE:
                # Not drawn; only where cells are tiny.
                assert registers == 16 or size[0] < 3 or grid[0] > grid[1]
                continue
            assert outer.x0 <= inner.x0 < inner.x1 <= outer.x1
            assert outer.y0 <= inner.y0 < inner.y1 <= outer.y1
        assert not any(
            one.get_window_extent().overlaps(other.get_window_extent().padded(-1))
            for one, other in combinations(cells(ax), 2)
        )
        assert min(box.x0, box.y0, size[0] - box.x1, size[1] - box.y1) >= 0

    def test_vector_formats_look_the_same(self) -> None:
        """In SVG the weights have the opacity of PNG: matplotlib, merging the images, would square it."""
        file = io.BytesIO()
        ax = plot.query(make(), IMAGE, query=0, alpha=0.6, colorbar=False, ax=empty())
        figure_of(ax).savefig(file, format="svg")
        pictures = [
            Image.open(io.BytesIO(base64.b64decode(data)))
            for data in re.findall(r'xlink:href="data:image/png;base64,([^"]*)"', file.getvalue().decode())
        ]
        opacities = [np.asarray(picture.convert("RGBA"))[..., 3] for picture in pictures]
        assert (opacities[0].min(), opacities[1].max()) == (255, 153)
        expected = 255 * heat(ax).get_cmap()(heat(ax).norm(values(heat(ax))))[..., 3]
        # In the middle of each patch, upside down or not.
        rows, columns = ((np.arange(n) + 0.5) * size / n for n, size in zip((3, 4), opacities[1].shape, strict=True))
        drawn = opacities[1][np.ix_(rows.astype(int), columns.astype(int))]
        np.testing.assert_allclose(np.sort(drawn, None), np.sort(expected, None), atol=1.5)

    def test_saves_as_pdf(self) -> None:
        """The picture is saved as PDF without a warning."""
        file = io.BytesIO()
        figure_of(plot.query(make(), IMAGE, query=0, ax=empty())).savefig(file, format="pdf")
        assert file.getbuffer()


class TestRollout:
    """The attention rollout."""

    def layers(self, axis: Patches = PATCHES, batch: int = 1) -> AttentionMaps:
        return AttentionMaps([make(batch, axis, seed=seed) for seed in range(3)])

    def test_weights(self) -> None:
        """The weights are the rollout of the query, patches and prefix tokens."""
        maps = self.layers(batch=2)
        ax = plot.rollout(maps, IMAGE, query=(1, 1), sample=1, residual=0.25, ax=empty())
        row = maps.rollout(residual=0.25)[1, PATCHES.index(1, 1)]
        prefix, picture = PATCHES.split(row)
        np.testing.assert_allclose(values(heat(ax)), picture, rtol=1e-5)
        check_cells(ax, PATCHES.prefix, prefix)
        np.testing.assert_allclose(outline(ax), PATCHES.box((1, 1)))

    def test_default_query(self) -> None:
        """By default the class token is followed, whatever its position."""
        axis = Patches(grid=(3, 4), prefix=("reg", "cls"), image_size=(48, 80))
        maps = self.layers(axis)
        ax = plot.rollout(maps, IMAGE, ax=empty())
        np.testing.assert_allclose(values(heat(ax)), axis.split(maps.rollout(queries=1)[0])[1], rtol=1e-5)
        assert ax.get_title() == "rollout of 3 layers, query cls"

    def test_default_query_without_class_token(self) -> None:
        """Without a class token, the first position is followed."""
        ax = plot.rollout(self.layers(BARE), IMAGE, ax=empty())
        assert outline(ax) == BARE.box(0)

    def test_legend(self) -> None:
        """The colorbar says that the weights are a rollout, and the title of how many layers."""
        ax = plot.rollout(self.layers(batch=2), IMAGE, sample=1, ax=empty())
        assert heat(ax).colorbar.ax.get_ylabel() == "attention rollout"
        assert ax.get_title() == "rollout of 3 layers, sample 1, query cls"

    def test_options(self) -> None:
        """Scale, colormap, opacity and axes are those given."""
        ax, norm = empty(), Normalize(0, 2)
        options: dict[str, Any] = {"norm": norm, "cmap": "gray", "alpha": 0.3, "colorbar": False}
        assert plot.rollout(self.layers(), IMAGE, ax=ax, **options) is ax
        assert (heat(ax).norm, heat(ax).get_cmap()(1.0)) == (norm, (1, 1, 1, pytest.approx(0.3)))
        assert heat(ax).colorbar is None

    def test_plain_list(self) -> None:
        """Any iterable of maps will do."""
        assert plot.rollout(iter(self.layers()), IMAGE, ax=empty()).images

    def test_no_map(self) -> None:
        """An empty list of maps is refused."""
        with pytest.raises(StateError, match="No attention map to roll out; run the model inside the capture first"):
            plot.rollout([], IMAGE)

    def test_several_samples(self) -> None:
        """In a batch, a sample must be chosen."""
        with pytest.raises(ChoiceError, match="choose it by sample=0 … 1"):
            plot.rollout(self.layers(batch=2), IMAGE)

    def test_wrong_image(self) -> None:
        """The image must have the size of the model's input."""
        with pytest.raises(ShapeError, match="the model saw 48 × 80"):
            plot.rollout(self.layers(), IMAGE[:40])


class TestRefusals:
    """Refused arguments, and their messages."""

    def test_image_of_another_size(self) -> None:
        """The image must have the size of the model's input, and the message says how to get it."""
        message = (
            r"The image is 50 × 80 pixels, and the model saw 48 × 80; give what the model was given, such as "
            r"anylocal_vit\.photograph\(model, file\)\."
        )
        with pytest.raises(ShapeError, match=message):
            plot.query(make(), np.zeros((50, 80, 3)), query=0)

    @pytest.mark.parametrize("axis", [Tokens(["a", "b", "c"]), Axis(3)])
    def test_keys_that_are_no_patches(self, axis: Axis) -> None:
        """The keys must be patches of an image."""
        with pytest.raises(
            ShapeError, match=r"The keys of .* not patches that could be drawn over an image; draw it by heatmap"
        ):
            plot.query(make(axis=axis), IMAGE, query=0)

    def test_several_samples(self) -> None:
        """In a batch, a sample must be chosen."""
        with pytest.raises(ChoiceError, match="holds 2 samples and a picture shows one: choose it by sample=0 … 1"):
            plot.query(make(2), IMAGE, query=0)

    def test_several_maps(self) -> None:
        """One of a model's maps must be chosen."""
        with pytest.raises(ChoiceError, match="query draws one map and got 2; take one by position or by name"):
            plot.query(AttentionMaps([make(), make()]), IMAGE, query=0)

    def test_no_map(self) -> None:
        """A tensor must be made a map first."""
        with pytest.raises(OptionError, match="query draws an AttentionMap and got Tensor; make one by"):
            plot.query(torch.eye(15), IMAGE, query=0)  # type: ignore[arg-type]  # wrong on purpose
        with pytest.raises(OptionError, match="rollout draws an AttentionMap and got Tensor"):
            plot.rollout(make(), IMAGE)  # type: ignore[arg-type]  # wrong on purpose

    def test_windows(self) -> None:
        """A window's keys are not spread over the image."""
        with pytest.raises(UnsupportedError, match="attends within windows, and its keys are not the whole image"):
            plot.query(make(4, windows=4), IMAGE, query=0, sample=0)

    def test_another_number_of_images(self) -> None:
        """The number of images must be one, or that of the samples."""
        with pytest.raises(ShapeError, match="There are 3 images and the map has 2"):
            plot.query(make(2), torch.zeros(3, 3, 48, 80), query=0, sample=0)

    @pytest.mark.parametrize("query", [15, (3, 0), None, 1.5])
    def test_no_such_query(self, query: Any) -> None:
        """A query that does not exist is refused."""
        with pytest.raises(PositionError):
            plot.query(make(), IMAGE, query=query)

    def test_no_such_prefix(self) -> None:
        """A prefix token that does not exist is refused."""
        with pytest.raises(NameNotFoundError, match=r"no prefix token 'register'\..*It has: cls, reg1, reg2"):
            plot.query(make(), IMAGE, query="register")

    def test_statistics_of_pixels(self) -> None:
        """Bytes are not normalised."""
        with pytest.raises(OptionError, match="mean and std undo the normalisation"):
            plot.query(make(), IMAGE, query=0, mean=0.5, std=0.5)


def test_recipes_of_core_are_here() -> None:
    """The recipes for any map are the same objects here."""
    assert (plot.heatmap, plot.heads) == (anylocal.plot.heatmap, anylocal.plot.heads)
