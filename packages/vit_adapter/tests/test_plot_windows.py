"""Windows over the image, several queries at once, and the choice of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from anylocal.attention import AttentionMap, AttentionMaps, Axis, Patches, PlacedPatches
from anylocal.drawing import short
from anylocal.errors import (
    ChoiceError,
    NameNotFoundError,
    OptionError,
    PositionError,
    ShapeError,
    UnsupportedError,
)
from anylocal_vit import plot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATCHES = Patches(grid=(3, 4), prefix=("cls", "reg1"), image_size=(48, 80))
# Windows of 2 x 2 over 3 x 4 patches, side by side: those below reach beyond the edge.
PLAIN = PlacedPatches(
    grid=(3, 4), places=[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, -1, -1], [10, 11, -1, -1]], image_size=(48, 80)
)
# The same, shifted by one to the right and below: they wrap around the image, in several parts.
SHIFTED = PlacedPatches(
    grid=(3, 4), places=[[5, 6, 9, 10], [7, 4, 11, 8], [-1, -1, 1, 2], [-1, -1, 3, 0]], image_size=(48, 80)
)
# Each with its own prefix token.
TOKENED = PlacedPatches(grid=(3, 4), places=SHIFTED.places, prefix=("carrier",), image_size=(48, 80))
# Keys of a window reach one column further than its queries.
REACHING = PlacedPatches(grid=(1, 4), places=[[0, 1, 2], [1, 2, 3]], image_size=(16, 64))
HALVES = PlacedPatches(grid=(1, 4), places=[[0, 1], [2, 3]], image_size=(16, 64))
IMAGE = np.full((48, 80), 0.25)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Check that drawing changes no setting of matplotlib, and close all figures."""
    before = mpl.rcParams.copy()
    yield
    plt.close("all")
    assert before == mpl.rcParams


def make(
    axis: Any = SHIFTED, images: int = 1, *, keys: Any = None, seed: int = 0, name: str = "blocks.1.attn"
) -> AttentionMap:
    """Return a map whose images have the windows of the axis."""
    windows = axis.windows if isinstance(axis, PlacedPatches) else 1
    generator = torch.Generator().manual_seed(seed)
    keys = axis if keys is None else keys
    q, k = (torch.randn(images * windows, 3, len(each), 4, generator=generator) for each in (axis, keys))
    return AttentionMap.from_qk(3 * q, k, queries=axis, keys=keys, windows=windows, name=name)


def empty(**options: Any) -> Axes:
    """Return axes that pyplot does not know."""
    figure = Figure(layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure.subplots()


def values(image: Any) -> np.ndarray[Any, Any]:
    return np.ma.filled(image.get_array(), np.nan)


def heat(ax: Axes) -> np.ndarray[Any, Any]:
    return values(ax.images[1])


def placed(axis: PlacedPatches, window: int, row: Any) -> np.ndarray[Any, Any]:
    """Put one row of a window in the grid, one patch after the other, NaN elsewhere."""
    grid = np.full(axis.grid, np.nan)
    for position, weight in enumerate(row):
        cell = axis.cell(position, window)
        if cell is not None:
            grid[cell] = weight
    return grid


def frames(ax: Any, *, filled: bool = False) -> list[tuple[float, float, float, float]]:
    """Return (left, top, right, bottom) of each frame, or of the prefix cells, which are filled."""
    return [
        (*each.get_xy(), each.get_x() + each.get_width(), each.get_y() + each.get_height())
        for each in ax.patches
        if isinstance(each, Rectangle) and each.get_fill() is filled
    ]


def cells(ax: Any) -> list[tuple[float, float, float, float]]:
    return frames(ax, filled=True)


def numbers(ax: Any, names: Sequence[str]) -> list[str]:
    """Return the weights that are written in the prefix cells."""
    words = [text.get_text().rsplit(" ", 1) for text in ax.texts]
    assert [name for name, _ in words] == list(names)
    return [number for _, number in words]


def box(row: int, column: int) -> tuple[float, float, float, float]:
    return column * 20.0, row * 16.0, column * 20.0 + 20, row * 16.0 + 16


Line = tuple[tuple[float, float], tuple[float, float]]


def lines(ax: Any) -> set[Line]:
    """Return the white lines between patches, in pixels; the black ones below are the same."""
    black, white = ax.collections
    assert [to_rgb(each.get_edgecolor()[0]) for each in (black, white)] == [(0, 0, 0), (1, 1, 1)]
    assert black.get_linewidth() > white.get_linewidth()
    found = [
        [(tuple(start.tolist()), tuple(end.tolist())) for start, end in each.get_segments()] for each in (black, white)
    ]
    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0])
    return set(found[0])


def between(axis: PlacedPatches, windows: dict[tuple[int, int], int | None]) -> set[Line]:
    """Return the lines where two neighbours, one of them in the image, are in different windows."""
    height, width = 48 / axis.grid[0], 80 / axis.grid[1]
    found: set[Line] = set()
    for row, column in np.ndindex(axis.grid[0] + 1, axis.grid[1] + 1):
        here = windows.get((row, column))
        x, y = column * width, row * height
        if here != windows.get((row, column - 1)) and row < axis.grid[0]:
            found.add(((x, y), (x, y + height)))
        if here != windows.get((row - 1, column)) and column < axis.grid[1]:
            found.add(((x, y), (x + width, y)))
    return found


def window_of(axis: PlacedPatches) -> dict[tuple[int, int], int | None]:
    return {cell: axis.find(*cell)[0] for cell in np.ndindex(*axis.grid)}


def rendered(ax: Axes) -> Any:
    """Return a function from a place in the axes to its colour, between 0 and 1."""
    figure: Any = ax.figure
    figure.canvas.draw()
    canvas = np.asarray(figure.canvas.buffer_rgba())

    def colour(x: float, y: float) -> np.ndarray[Any, Any]:
        across, up = ax.transData.transform((x, y)).round().astype(int)
        return np.asarray(canvas[len(canvas) - 1 - up, across, :3] / 255)

    return colour


class TestQueryOfAWindow:
    """One query within its window, and the rest of the image bare."""

    @pytest.mark.parametrize("axis", [PLAIN, SHIFTED], ids=["plain", "shifted"])
    @pytest.mark.parametrize("cell", [(0, 0), (1, 2), (2, 3), (-1, -1)])
    def test_weights(self, axis: PlacedPatches, cell: tuple[int, int]) -> None:
        """A patch is found in its window, whose weights are in the places of its patches; others are NaN."""
        attention = make(axis)
        window, position = axis.find(*cell)
        ax = plot.query(attention, IMAGE, query=cell, head=1, ax=empty())
        np.testing.assert_array_equal(heat(ax), placed(axis, window, attention[window, 1, position]))

    def test_mean_over_heads(self) -> None:
        """Without a head, the mean over heads is drawn."""
        attention = make()
        expected = placed(SHIFTED, 1, attention.head_mean(1)[1])
        np.testing.assert_allclose(heat(plot.query(attention, IMAGE, query=(1, 0), ax=empty())), expected, rtol=1e-6)

    def test_sample_is_an_image(self) -> None:
        """A sample is an image of the batch, and the title names its window."""
        attention = make(images=2)
        images = torch.stack([torch.zeros(3, 48, 80), torch.ones(3, 48, 80)])
        ax = plot.query(attention, images, query=(1, 3), sample=-1, head=0, ax=empty())
        np.testing.assert_array_equal(heat(ax), placed(SHIFTED, 1, attention[5, 0, 0]))
        np.testing.assert_allclose(values(ax.images[0]), 1)
        assert ax.get_title() == "blocks.1.attn, image 1, head 0\nquery (1, 3) in window 1"

    def test_windows_of_each_image(self) -> None:
        """If the windows of each image differ, those of the chosen image are drawn."""
        axis = PlacedPatches((1, 4), [[0, 1], [2, 3], [1, 0], [3, 2]], image_size=(48, 80))
        weights = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        attention = AttentionMap.from_weights(weights, queries=axis, keys=axis, windows=2)
        ax = plot.query(attention, IMAGE, query=(0, 3), sample=1, ax=empty())
        np.testing.assert_array_equal(heat(ax), placed(axis, 3, weights[3, 0, 0]))
        assert frames(ax) == [(60, 0, 80, 48)]
        assert ((40, 0), (40, 48)) in lines(ax)
        assert ax.get_title() == "image 1, head 0, query (0, 3) in window 1"

    def test_windows_that_lie_the_same(self) -> None:
        """Places given once hold for every image of the batch."""
        axis = PlacedPatches((2, 2), [[3, 2, 1, 0]], image_size=(48, 80))
        attention = AttentionMap.from_weights(torch.rand(2, 1, 4, 4), queries=axis, keys=axis)
        ax = plot.query(attention, IMAGE, query=(0, 0), sample=1, ax=empty())
        np.testing.assert_array_equal(heat(ax), placed(axis, 0, attention[1, 0, 3]))

    def test_outline(self) -> None:
        """The query patch is framed in its place in the image."""
        assert frames(plot.query(make(), IMAGE, query=(0, 3), ax=empty())) == [box(0, 3)]

    @pytest.mark.parametrize("axis", [PLAIN, SHIFTED], ids=["plain", "shifted"])
    @pytest.mark.parametrize("cell", [(0, 0), (1, 2)])
    def test_borders(self, axis: PlacedPatches, cell: tuple[int, int]) -> None:
        """Lines surround each part of the query's window, also at the edge of the image, where they are not clipped."""
        ax = plot.query(make(axis), IMAGE, query=cell, ax=empty())
        window = axis.find(*cell)[0]
        inside = {each: 1 for each, at in window_of(axis).items() if at == window}
        assert lines(ax) == between(axis, dict(inside))
        assert not any(each.get_clip_on() for each in ax.collections)

    def test_borders_of_the_second_image(self) -> None:
        """Windows are counted from the first of their image."""
        assert lines(plot.query(make(images=2), IMAGE, query=(1, 1), sample=1, ax=empty())) == lines(
            plot.query(make(), IMAGE, query=(1, 1), ax=empty())
        )

    def test_no_borders_without_windows(self) -> None:
        """A layer without windows has no such lines."""
        assert not plot.query(make(PATCHES), IMAGE, query=(0, 0), ax=empty()).collections

    def test_view(self) -> None:
        """Lines and frames do not enlarge the view beyond the image."""
        ax = plot.query(make(), IMAGE, query=(0, 0), ax=empty())
        assert (ax.get_xlim(), ax.get_ylim()) == ((0, 80), (48, 0))

    def test_scale(self) -> None:
        """The scale goes from 0 to the greatest weight of the window."""
        attention = make()
        norm = plot.query(attention, IMAGE, query=(1, 1), head=0, ax=empty()).images[1].norm
        assert (norm.vmin, norm.vmax) == (0, float(attention[0, 0, 0].max()))

    def test_on_paper(self) -> None:
        """In the rendered picture, what the window attends to is coloured, and the image is bare elsewhere."""
        weights = torch.zeros(4, 1, 4, 4)
        weights[..., 3] = 1
        attention = AttentionMap.from_weights(weights, queries=SHIFTED, keys=SHIFTED, windows=4)
        ax = empty(figsize=(4, 4), dpi=100)
        colour = rendered(plot.query(attention, IMAGE, query=(1, 1), cmap="gray", alpha=1, colorbar=False, ax=ax))
        np.testing.assert_allclose(colour(50, 40), 1, atol=0.01)
        for bare in ((50, 24), (10, 8), (70, 24), (50, 8), (10, 40)):
            np.testing.assert_allclose(colour(*bare), 0.25, atol=0.01)

    def test_borders_on_paper(self) -> None:
        """In the rendered picture, a line is white, black on both sides, and unbroken."""
        ax = empty(figsize=(4, 4), dpi=200)
        colour = rendered(plot.query(make(), np.full((48, 80), 0.5), query=(1, 1), alpha=0, colorbar=False, ax=ax))
        shades = [colour(60, y).mean() for y in np.linspace(20, 44, 30)]
        assert min(shades) > 0.9
        nearby = [colour(60 + x, 26).mean() for x in np.linspace(-2, 2, 41)]
        left, right = nearby[:20], nearby[21:]
        assert max(min(left), min(right)) < 0.2

    def test_prefix_cells(self) -> None:
        """The prefix tokens of the query's window are cells below the image."""
        attention = make(TOKENED)
        ax = plot.query(attention, IMAGE, query=(1, 1), head=0, ax=empty())
        assert numbers(ax, ["carrier"]) == [short(float(attention[0, 0, 1, 0]))]
        np.testing.assert_array_equal(heat(ax), placed(TOKENED, 0, attention[0, 0, 1]))

    @pytest.mark.parametrize("query", [1, "carrier", ["carrier"]])
    def test_query_that_tells_no_window(self, query: Any) -> None:
        """A position is in every window, and the message names the recipe that draws it in all of them."""
        with pytest.raises(ChoiceError, match=r"does not say in which; give a patch .* every window by windows\("):
            plot.query(make(TOKENED), IMAGE, query=query)
        assert plt.get_fignums() == []

    def test_queries_without_places(self) -> None:
        """Queries that are only counted do not determine a window either."""
        attention = AttentionMap.from_weights(torch.full((2, 1, 1, 2), 0.5), queries=Axis(1), keys=HALVES, windows=2)
        with pytest.raises(ChoiceError, match="does not say in which"):
            plot.query(attention, np.zeros((16, 64)), query=(0, 0))

    def test_no_such_image(self) -> None:
        """Samples of windowed layers are images."""
        with pytest.raises(PositionError, match=r"Image index 2 of .* is out of range: there are 2"):
            plot.query(make(images=2), IMAGE, query=(0, 0), sample=2)
        with pytest.raises(ChoiceError, match="holds 2 images and a picture shows one: choose it by sample=0 … 1"):
            plot.query(make(images=2), IMAGE, query=(0, 0))

    def test_another_number_of_images(self) -> None:
        """The number of images must be one, or that of the batch."""
        with pytest.raises(ShapeError, match="There are 3 images and the map has 2"):
            plot.query(make(images=2), torch.zeros(3, 3, 48, 80), query=(0, 0), sample=0)

    def test_no_such_patch(self) -> None:
        """A patch that does not exist is refused."""
        with pytest.raises(PositionError, match="Row index 3 of"):
            plot.query(make(), IMAGE, query=(3, 0))

    def test_image_of_another_size(self) -> None:
        """The image must have the size of the model's input."""
        with pytest.raises(ShapeError, match="The image is 40 × 80 pixels, and the model saw 48 × 80"):
            plot.query(make(), IMAGE[:40], query=(0, 0))


class TestPatchesInAnyOrder:
    """All patches of the image, in another order, and padded."""

    AXIS = PlacedPatches((2, 2), [[3, 0, 1, 2], [1, 2, 3, -1]], prefix=("cls",), image_size=(48, 80))

    def layer(self, seed: int = 0) -> AttentionMap:
        weights = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
        return AttentionMap.from_weights(weights / weights.sum(-1, keepdim=True), queries=self.AXIS, keys=self.AXIS)

    @pytest.mark.parametrize("query", [(1, 0), 2])
    def test_query(self, query: Any) -> None:
        """Queries and keys are the sample's, by place or by position; missing patches stay bare."""
        attention = self.layer()
        ax = plot.query(attention, IMAGE, query=query, sample=1, ax=empty())
        np.testing.assert_array_equal(heat(ax), placed(self.AXIS, 1, attention[1, 0, 2]))
        assert frames(ax) == [(0, 24, 40, 48)]
        assert ax.get_title() == "sample 1, head 0, query (1, 0)"

    def test_prefix(self) -> None:
        """A prefix token has the frame around its cell."""
        ax = plot.query(self.layer(), IMAGE, query="cls", sample=0, ax=empty())
        assert frames(ax) == cells(ax)

    def test_padding(self) -> None:
        """A query that is padding has no frame, and is named so."""
        ax = plot.query(self.layer(), IMAGE, query=4, sample=1, ax=empty())
        assert not frames(ax)
        assert ax.get_title() == "sample 1, head 0, query padding"

    def test_rollout(self) -> None:
        """The rollout is drawn in order as well."""
        maps = AttentionMaps([self.layer(0), self.layer(1)])
        ax = plot.rollout(maps, IMAGE, sample=1, query=(1, 1), ax=empty())
        np.testing.assert_allclose(heat(ax), placed(self.AXIS, 1, maps.rollout(queries=3)[1]), rtol=1e-5)
        assert frames(ax) == [(40, 24, 80, 48)]
        assert ax.get_title() == "rollout of 2 layers, sample 1, query (1, 1)"


class TestSeveralQueries:
    """The mean over several queries."""

    @pytest.mark.parametrize(
        ("query", "positions"),
        [
            ([(0, 1), (2, 3)], [3, 13]),
            ([(0, 1), (2, 3), (0, 0)], [3, 13, 2]),
            (["cls", (1, 1)], [0, 7]),
            ([5, 6, 7], [5, 6, 7]),
            (((0, 0), (0, 1)), [2, 3]),
            (np.array([[0, 1], [2, 3]]), [3, 13]),
            (torch.tensor([5, 6, 7]), [5, 6, 7]),
            ([5, 5, 6], [5, 5, 6]),
        ],
    )
    def test_mean(self, query: Any, positions: list[int]) -> None:
        """The mean of their rows is drawn, and the title has their number."""
        attention = make(PATCHES)
        ax = plot.query(attention, IMAGE, query=query, head=1, ax=empty())
        prefix, picture = PATCHES.split(attention[0, 1, positions].mean(0))
        np.testing.assert_allclose(heat(ax), picture, rtol=1e-6)
        assert numbers(ax, PATCHES.prefix) == [short(float(weight)) for weight in prefix]
        assert ax.get_title() == f"blocks.1.attn, head 1, mean of {len(positions)} queries"

    def test_outlines(self) -> None:
        """Each query is framed: patches over the image, prefix tokens below it."""
        ax = plot.query(make(PATCHES), IMAGE, query=["reg1", (0, 1), (2, 3)], ax=empty())
        assert frames(ax) == [cells(ax)[1], box(0, 1), box(2, 3)]

    @pytest.mark.parametrize("query", [[1, 2], (1, 2), np.array([1, 2]), [(1, 2)], torch.tensor([1, 2])])
    def test_one_patch(self, query: Any) -> None:
        """Two plain integers are one patch, and so is a list of one."""
        ax = plot.query(make(PATCHES), IMAGE, query=query, ax=empty())
        assert frames(ax) == [box(1, 2)]
        assert ax.get_title() == "blocks.1.attn, mean of 3 heads, query (1, 2)"

    def test_of_one_window(self) -> None:
        """Queries of one window share its border."""
        attention = make()
        ax = plot.query(attention, IMAGE, query=[(1, 1), (2, 2)], head=0, ax=empty())
        np.testing.assert_allclose(heat(ax), placed(SHIFTED, 0, attention[0, 0, [0, 3]].mean(0)), rtol=1e-6)
        assert ax.get_title() == "blocks.1.attn, head 0, mean of 2 queries"
        assert lines(ax) == lines(plot.query(attention, IMAGE, query=(1, 1), ax=empty()))

    def test_of_several_windows(self) -> None:
        """A query has no weights in other windows: each window has its share of the mean, and its own border."""
        attention = make(images=2)
        ax = plot.query(attention, IMAGE, query=[(1, 1), (1, 3), (2, 0)], sample=1, head=0, ax=empty())
        one = placed(SHIFTED, 0, attention[4, 0, 0] / 3)
        two = placed(SHIFTED, 1, (attention[5, 0, 0] + attention[5, 0, 3]) / 3)
        np.testing.assert_allclose(heat(ax), np.where(np.isnan(one), two, one), rtol=1e-6)
        assert ax.get_title() == "blocks.1.attn, image 1, head 0\nmean of 3 queries"
        assert frames(ax) == [box(1, 1), box(1, 3), box(2, 0)]
        both: dict[tuple[int, int], int | None] = {
            cell: window for cell, window in window_of(SHIFTED).items() if window in {0, 1}
        }
        assert lines(ax) == between(SHIFTED, both)

    def test_of_several_windows_of_one_image(self) -> None:
        """A single image is not named."""
        ax = plot.query(make(), IMAGE, query=[(1, 1), (1, 3)], ax=empty())
        assert ax.get_title() == "blocks.1.attn, mean of 3 heads\nmean of 2 queries"

    def test_none(self) -> None:
        """An empty list of queries is refused."""
        with pytest.raises(PositionError, match=r"query=\[\] holds no query to draw; give one"):
            plot.query(make(PATCHES), IMAGE, query=[])

    def test_one_that_is_not_there(self) -> None:
        """A list with a query that does not exist is refused."""
        with pytest.raises(NameNotFoundError, match="no prefix token 'reg2'"):
            plot.query(make(PATCHES), IMAGE, query=["cls", "reg2"])


class TestLayer:
    """The choice of a layer."""

    MAPS = AttentionMaps(make(PATCHES, seed=seed, name=f"blocks.{seed}.attn") for seed in range(3))

    @pytest.mark.parametrize("layer", [1, -2, "blocks.1.attn"])
    @pytest.mark.parametrize("kind", [list, AttentionMaps])
    def test_chosen(self, kind: Any, layer: Any) -> None:
        """A layer is chosen by position or by name, from the maps or from a list of them."""
        ax = plot.query(kind(self.MAPS), IMAGE, layer=layer, query=(0, 0), head=0, ax=empty())
        np.testing.assert_array_equal(heat(ax), PATCHES.split(self.MAPS[1][0, 0, 2])[1])
        assert ax.get_title().startswith("blocks.1.attn")

    def test_missing(self) -> None:
        """One of several maps must be chosen, and the message says how."""
        with pytest.raises(ChoiceError, match="got 3; take one by position or by name, such as layer=0"):
            plot.query(self.MAPS, IMAGE, query=(0, 0))

    def test_of_one_map(self) -> None:
        """One map has no layers to choose from."""
        with pytest.raises(OptionError, match=r"layer=0 chooses from several maps, and .* is one; leave it out"):
            plot.query(self.MAPS[0], IMAGE, layer=0, query=(0, 0))

    @pytest.mark.parametrize(("layer", "error"), [(3, PositionError), ("blocks.9.attn", NameNotFoundError)])
    def test_not_there(self, layer: Any, error: Any) -> None:
        """A layer that does not exist is refused."""
        with pytest.raises(error, match=r"Map index 3|blocks\.9"):
            plot.query(self.MAPS, IMAGE, layer=layer, query=(0, 0))

    def test_no_map(self) -> None:
        """A tensor must be made a map first, with a layer or without."""
        for layer in (None, 0):
            with pytest.raises(OptionError, match="query draws an AttentionMap and got Tensor; make one by"):
                plot.query(torch.eye(3), IMAGE, layer=layer, query=(0, 0))  # type: ignore[arg-type]  # wrong on purpose


class TestWindows:
    """All windows of a layer in their places."""

    @pytest.mark.parametrize("axis", [PLAIN, SHIFTED], ids=["plain", "shifted"])
    def test_mean_over_queries(self, axis: PlacedPatches) -> None:
        """Each patch has the mean of its weights over the queries of its window, without padding."""
        attention = make(axis)
        ax = plot.windows(attention, IMAGE, head=1, ax=empty())
        for cell in np.ndindex(3, 4):
            window, position = axis.find(*cell)
            real = [at for at in range(4) if axis.cell(at, window) is not None]
            np.testing.assert_allclose(heat(ax)[cell], attention[window, 1, real, position].mean(), rtol=1e-6)

    def test_query(self) -> None:
        """One place of every window is drawn; where it is padding, the image stays bare."""
        attention = make()
        ax = plot.windows(attention, IMAGE, query=(0, 1), head=1, ax=empty())
        one, two = (placed(SHIFTED, window, attention[window, 1, 1]) for window in (0, 1))
        np.testing.assert_array_equal(heat(ax), np.where(np.isnan(one), two, one))
        assert frames(ax) == [box(1, 2), box(1, 0)]
        assert ax.get_title() == "blocks.1.attn, head 1\nquery (0, 1) of each window"

    @pytest.mark.parametrize("query", [(1, 0), (-1, -2), 2, -2, np.array([1, 0])])
    def test_ways_to_name_a_query(self, query: Any) -> None:
        """A query is named by its place in the window, or by its position; negative ones count from the end."""
        ax = plot.windows(make(), IMAGE, query=query, ax=empty())
        assert frames(ax) == [box(2, 1), box(2, 3), box(0, 1), box(0, 3)]
        assert not np.isnan(heat(ax)).any()

    @pytest.mark.parametrize(
        ("places", "query", "cells"),
        [
            ([[0, 1, 2, 4, 5, 6]], (1, 2), [(1, 2)]),
            ([[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]], (2, 0), [(2, 0), (2, 2)]),
            ([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], (0, 3), [(0, 3), (1, 3), (2, 3)]),
            ([[0, 4, 8], [1, 5, 9]], (2, 0), [(2, 0), (2, 1)]),
            ([[0, 2, 8, 10], [1, 3, 9, 11]], (1, 1), [(2, 2), (2, 3)]),
            ([[3, 0, -1, -1], [7, 4, 11, 8]], (0, 1), [(0, 0), (1, 0)]),
            ([[0, 1, 4, -1], [2, -1, -1, -1]], (1, 0), [(1, 0)]),
        ],
        ids=["wide", "high", "rows", "columns", "strided", "the first hangs over", "all hang over"],
    )
    def test_windows_of_any_shape(self, places: Any, query: tuple[int, int], cells: list[tuple[int, int]]) -> None:
        """Rows and columns are those of the window, whatever its shape."""
        places = places if len(places) > 1 else [*places, [8, 9, 10, -1, -1, -1]]
        axis = PlacedPatches((3, 4), places, image_size=(48, 80))
        assert frames(plot.windows(make(axis), IMAGE, query=query, ax=empty())) == [box(*cell) for cell in cells]

    def test_prefix_query(self) -> None:
        """A prefix token of every window can be the query, and is framed once for all."""
        attention = make(TOKENED)
        ax = plot.windows(attention, IMAGE, query="carrier", head=0, ax=empty())
        expected = np.concatenate([placed(TOKENED, window, attention[window, 0, 0])[None] for window in range(4)])
        np.testing.assert_array_equal(heat(ax), np.nanmax(expected, 0))
        assert numbers(ax, ["carrier"]) == [short(float(attention[:, 0, 0, 0].mean()))]
        assert ax.get_title() == "blocks.1.attn, head 0\nquery carrier of each window"
        assert frames(ax) == cells(ax)

    def test_padding_after_prefix_tokens(self) -> None:
        """The first patch of a window may be padding, and is no prefix token then."""
        ax = plot.windows(make(TOKENED), IMAGE, query=(0, 0), ax=empty())
        assert frames(ax) == [box(1, 1), box(1, 3)]
        assert np.isnan(heat(ax)[0]).all()

    def test_prefix_tokens_do_not_ask(self) -> None:
        """The mean is over patches, without prefix tokens."""
        attention = make(TOKENED)
        ax = plot.windows(attention, IMAGE, head=0, ax=empty())
        np.testing.assert_allclose(heat(ax)[1, 1], attention[0, 0, 1:, 1].mean(), rtol=1e-6)

    def test_image_and_heads(self) -> None:
        """The chosen image's windows are drawn, the mean over heads by default."""
        attention = make(images=2)
        images = torch.stack([torch.zeros(3, 48, 80), torch.ones(3, 48, 80)])
        ax = plot.windows(attention, images, sample=1, ax=empty())
        np.testing.assert_allclose(heat(ax)[1, 1], attention[4, :, :, 0].mean(), rtol=1e-6)
        np.testing.assert_allclose(values(ax.images[0]), 1)
        assert ax.get_title() == "blocks.1.attn, image 1, mean of 3 heads\nmean of all queries"

    @pytest.mark.parametrize("axis", [PLAIN, SHIFTED], ids=["plain", "shifted"])
    def test_borders(self, axis: PlacedPatches) -> None:
        """Lines are where neighbours belong to different windows, and nowhere else: not at the edge of the image."""
        windows = window_of(axis)
        for row, column in np.ndindex(3, 4):
            # Beyond the edge, the same window continues.
            windows.setdefault((row, -1), windows[row, 0])
            windows.setdefault((row, 4), windows[row, 3])
            windows.setdefault((-1, column), windows[0, column])
            windows.setdefault((3, column), windows[2, column])
        ax = plot.windows(make(axis), IMAGE, ax=empty())
        assert lines(ax) == between(axis, windows)
        assert all(each.get_clip_on() for each in ax.collections)

    def test_no_borders_of_scattered_windows(self) -> None:
        """Windows of patches from all over the image have no borders: lines around every patch would hide it."""
        axis = PlacedPatches((2, 4), [[0, 2], [1, 3], [4, 6], [5, 7]], image_size=(48, 80))
        assert not plot.windows(make(axis), IMAGE, ax=empty()).collections
        assert len(lines(plot.query(make(axis), IMAGE, query=(0, 2), ax=empty()))) == 8

    def test_borders_of_stripes(self) -> None:
        """Windows of one row, or of one column, have borders between them."""
        for places, expected in (
            ([[0, 1], [2, 3]], {((0, 24), (40, 24)), ((40, 24), (80, 24))}),
            ([[0, 2], [1, 3]], {((40, 0), (40, 24)), ((40, 24), (40, 48))}),
        ):
            axis = PlacedPatches((2, 2), places, image_size=(48, 80))
            assert lines(plot.windows(make(axis), IMAGE, ax=empty())) == expected

    @pytest.mark.parametrize("size", [(3.3, 2.6), (6.4, 4.8)])
    def test_nothing_is_cut_off(self, size: tuple[float, float]) -> None:
        """In the width of a paper's column, the titles of both recipes are not cut off."""
        attention = make(images=2, name="layers.1.blocks.1.attn")
        with mpl.rc_context({"figure.figsize": size}):
            for ax in (
                plot.query(attention, IMAGE, query=(1, 1), sample=1),
                plot.windows(attention, IMAGE, sample=1),
                plot.windows(attention, IMAGE, sample=1, query=(0, 0)),
            ):
                figure: Any = ax.figure
                figure.draw_without_rendering()
                box = figure.get_tightbbox()
                assert min(box.x0, box.y0, size[0] - box.x1, size[1] - box.y1) >= 0

    def test_borders_of_overlapping_keys(self) -> None:
        """Keys may be in several windows: the borders are those of the queries, and the weights their mean."""
        attention = make(HALVES, keys=REACHING)
        ax = plot.windows(attention, np.zeros((16, 64)), query=(0, 1), head=0, ax=empty())
        one, two = attention[0, 0, 1], attention[1, 0, 1]
        expected = [one[0], (one[1] + two[0]) / 2, (one[2] + two[1]) / 2, two[2]]
        np.testing.assert_allclose(heat(ax), [expected], rtol=1e-6)
        assert lines(ax) == {((32, 0), (32, 16))}

    def test_queries_without_places(self) -> None:
        """If only the keys have places, the borders are theirs, and a query is a position."""
        weights = torch.rand(2, 1, 3, 2, generator=torch.Generator().manual_seed(0))
        attention = AttentionMap.from_weights(weights, queries=Axis(3), keys=HALVES, windows=2)
        ax = plot.windows(attention, np.zeros((16, 64)), query=1, ax=empty())
        np.testing.assert_array_equal(heat(ax), weights[:, 0, 1].reshape(1, 4))
        assert lines(ax) == {((32, 0), (32, 16))}
        assert not ax.patches
        mean = plot.windows(attention, np.zeros((16, 64)), ax=empty())
        np.testing.assert_allclose(heat(mean), weights.mean(2).reshape(1, 4), rtol=1e-6)

    def test_scale_and_legend(self) -> None:
        """One scale for all windows, from 0 to the greatest weight, which the colorbar explains."""
        ax = plot.windows(make(), IMAGE, ax=empty())
        norm, bar = ax.images[1].norm, ax.images[1].colorbar
        assert (norm.vmin, norm.vmax) == (0, np.nanmax(heat(ax)))
        assert bar is not None
        assert bar.ax.get_ylabel() == "attention weight"

    def test_options(self) -> None:
        """Scale, colormap, opacity and axes are those given."""
        ax, norm = empty(), Normalize(0, 2)
        assert plot.windows(make(), IMAGE, norm=norm, cmap="gray", alpha=0.3, colorbar=False, ax=ax) is ax
        drawn = ax.images[1]
        assert [drawn.norm, drawn.get_cmap()(1.0), drawn.colorbar] == [norm, (1, 1, 1, pytest.approx(0.3)), None]
        assert plt.get_fignums() == []

    def test_normalised_image(self) -> None:
        """A normalised image is denormalised."""
        ax = plot.windows(make(), np.full((48, 80), -1.0), mean=0.75, std=0.5, ax=empty())
        np.testing.assert_allclose(values(ax.images[0]), 0.25)

    def test_padded_image(self) -> None:
        """In a padded image, windows and patches reach beyond its edges at full size."""
        padded = PlacedPatches(HALVES.grid, HALVES.places, image_size=HALVES.image_size, image_padding=(4, 14))
        ax = plot.windows(make(padded), np.zeros((12, 50)), query=(0, 1), ax=empty())
        assert [list(image.get_extent()) for image in ax.images] == [[0, 64, 16, 0]] * 2
        assert frames(ax) == [(16, 0, 32, 16), (48, 0, 64, 16)]

    def test_on_paper(self) -> None:
        """In the rendered picture, every patch is coloured by its weight, with lines between windows only."""
        weights = torch.tensor([0.0, 1.0]).repeat(2, 1, 2, 1)
        attention = AttentionMap.from_weights(weights, queries=HALVES, keys=HALVES, windows=2)
        ax = empty(figsize=(4, 2), dpi=200)
        colour = rendered(plot.windows(attention, np.zeros((16, 64)), cmap="gray", alpha=1, colorbar=False, ax=ax))
        shades = [colour(x, 8).mean() for x in (8, 15, 17, 24, 32, 40, 47, 49, 56)]
        np.testing.assert_allclose(shades, [0, 0, 1, 1, 1, 0, 0, 1, 1], atol=0.1)
        assert min(colour(x, 8).mean() for x in np.linspace(30, 32, 20)) < 0.3

    @pytest.mark.parametrize("axis", [PATCHES, PlacedPatches((3, 4), [list(range(12))], image_size=(48, 80))])
    def test_no_windows(self, axis: Any) -> None:
        """A layer without windows is refused, and the message names the recipe for it."""
        with pytest.raises(UnsupportedError, match="attends to the whole image, not within windows; draw it by query"):
            plot.windows(make(axis), IMAGE)

    def test_windows_without_places(self) -> None:
        """Windows without places are refused."""
        attention = AttentionMap.from_weights(torch.rand(4, 1, 4, 4), windows=4)
        with pytest.raises(UnsupportedError, match="its keys are not the whole image; draw it by heatmap"):
            plot.windows(attention, IMAGE)

    def test_several_maps(self) -> None:
        """One of a model's maps must be chosen."""
        with pytest.raises(ChoiceError, match="windows draws one map and got 2"):
            plot.windows(AttentionMaps([make(), make()]), IMAGE)  # type: ignore[arg-type]  # wrong on purpose

    def test_several_images(self) -> None:
        """In a batch, an image must be chosen."""
        with pytest.raises(ChoiceError, match="holds 2 images and a picture shows one: choose it by sample=0 … 1"):
            plot.windows(make(images=2), IMAGE)

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ((2, 0), r"Window row index 2 of .* is out of range: there are 2"),
            ((0, 2), r"Window column index 2"),
            (4, "4"),
        ],
    )
    def test_no_such_query(self, query: Any, message: str) -> None:
        """A place that windows do not have is refused."""
        with pytest.raises(PositionError, match=message):
            plot.windows(make(), IMAGE, query=query)
        assert plt.get_fignums() == []

    def test_windows_that_are_no_rectangles(self) -> None:
        """Windows without rows and columns take positions only."""
        axis = PlacedPatches((3, 4), [[0, 1, 4], [2, 3, 6]], image_size=(48, 80))
        with pytest.raises(
            ShapeError, match="are not made of rows and columns; give the query's position in its window"
        ):
            plot.windows(make(axis), IMAGE, query=(0, 0))
        assert frames(plot.windows(make(axis), IMAGE, query=2, ax=empty())) == [box(1, 0), box(1, 2)]

    def test_query_that_is_padding_everywhere(self) -> None:
        """A query that is padding in every window is refused."""
        axis = PlacedPatches((1, 2), [[0, -1], [1, -1]], image_size=(48, 80))
        with pytest.raises(PositionError, match=r"Query 1 is padding in every window of .*; give another"):
            plot.windows(make(axis), IMAGE, query=1)
