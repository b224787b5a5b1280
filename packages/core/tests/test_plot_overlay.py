"""Weights over an image: colours, prefix cells, and panels that share one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
plt = pytest.importorskip("matplotlib.pyplot")

from matplotlib.colors import Normalize  # noqa: E402  # matplotlib may not be there
from matplotlib.figure import Figure  # noqa: E402  # as above
from matplotlib.patches import Polygon  # noqa: E402  # as above

from anylocal._drawing.image_panels import Look, Panel, draw_panels, fitted, text_width  # noqa: E402  # as above
from anylocal._drawing.overlay import (  # noqa: E402  # as above
    CELL,
    GAMMA,
    OPACITY,
    draw_overlay,
    overlay_colormap,
    smallest_set,
)
from anylocal._drawing.scale import FRACTION  # noqa: E402  # as above
from anylocal.attention import Patches  # noqa: E402  # as above
from anylocal.errors import OptionError  # noqa: E402  # as above

KEYS = Patches(grid=(2, 3), prefix=("cls",), image_size=(32, 48))
PIXELS = np.full((32, 48, 3), 0.5)
ROW = np.array([0.4, 0.0, 0.1, 0.2, 0.3, 0.0, 0.0])


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """Leave no figure behind."""
    yield
    plt.close("all")


def look(**changes: Any) -> Look:
    options: dict[str, Any] = {"norm": None, "cmap": "plasma", "alpha": OPACITY, "share": "head"} | changes
    return Look(PIXELS, **options)


def test_opacity_grows_with_the_weight() -> None:
    """From nothing to the greatest opacity, by the documented power."""
    colours = overlay_colormap("plasma")
    opacities = [colours(weight)[3] for weight in (0.0, 0.5, 1.0)]
    assert np.allclose(opacities, [0.0, OPACITY * 0.5**GAMMA, OPACITY], atol=0.005)


def test_where_there_is_no_weight_the_image_keeps_its_colours() -> None:
    """A patch without weight is not veiled by the lowest colour."""
    figure = plt.figure(figsize=(4, 4), dpi=50)
    ax = figure.add_axes((0, 0, 1, 1))
    image = np.zeros((32, 48, 3))
    image[..., 0] = 1
    draw_overlay(ax, ROW, KEYS, image, scale=Normalize(0, 0.3), colours=overlay_colormap("plasma"))
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())
    x, y = ax.transData.transform((8, 8)).astype(int)
    assert drawn[drawn.shape[0] - y, x, :3].tolist() == [255, 0, 0]


@pytest.mark.parametrize("smooth", [False, True])
def test_below_weights_the_image_fades_to_grey(smooth: bool) -> None:
    """An orange weight on an orange coat stands out; smoothly where weights are drawn so."""
    image = np.zeros((32, 48, 3))
    image[..., 0] = 1
    options: dict[str, Any] = {"scale": Normalize(0, 0.3), "colours": overlay_colormap("plasma"), "smooth": smooth}
    drawn = draw_overlay(plt.figure().add_subplot(), ROW, KEYS, image, **options)
    below = np.asarray(drawn.heat.axes.images[0].get_array())
    # The centres of a patch without weight, and of the greatest.
    assert below[24, 40].tolist() == pytest.approx([1, 0, 0])
    assert below[24, 8].tolist() == pytest.approx([0.299] * 3, abs=0.03)
    steps = np.abs(np.diff(below[24, :, 0])).max()
    assert steps < 0.2 if smooth else steps > 0.5


@pytest.mark.parametrize(("threshold", "count"), [(0.5, 1), (0.51, 2), (0.8, 2), (1.0, 3)])
def test_the_smallest_set_that_holds_a_share(threshold: float, count: int) -> None:
    """The patches with the most weight, and no more than needed."""
    chosen = smallest_set(np.array([[0.1, 0.5], [0.3, 0.0]]), threshold)
    # In float, 0.5 of 0.9 is more than half.
    expected = {0.5: 1, 0.51: 1, 0.8: 2, 1.0: 3}[threshold]
    assert (int(chosen.sum()), bool(chosen[0, 1])) == (expected, True)


def test_the_set_is_that_of_a_sorted_sum() -> None:
    """Against a loop over random weights."""
    weights = np.random.default_rng(0).random(50)
    chosen = smallest_set(weights, 0.6)
    smallest = weights[chosen].min()
    assert weights[chosen].sum() >= 0.6 * weights.sum() > weights[chosen].sum() - smallest
    assert smallest >= weights[~chosen].max()


def test_prefix_cells_lie_inside_the_axes() -> None:
    """The axes reach below the image, so that axes in a grid never meet."""
    ax = plt.figure().add_subplot()
    drawn = draw_overlay(ax, ROW, KEYS, PIXELS, scale=Normalize(0, 0.3), colours=overlay_colormap("plasma"))
    bottom, top = ax.get_ylim()
    (cell,) = drawn.cells
    assert (top, cell.get_height()) == (0, CELL * 48)
    assert 32 < cell.get_y() < cell.get_y() + cell.get_height() <= bottom + 1e-9


def test_a_prefix_cell_has_its_name_and_number() -> None:
    """No number is lost to a scale that ends below it."""
    ax = plt.figure().add_subplot()
    draw_overlay(ax, ROW, KEYS, PIXELS, scale=Normalize(0, 0.3), colours=overlay_colormap("plasma"))
    assert "cls .40" in [text.get_text() for text in ax.findobj(plt.Text)]


@pytest.mark.parametrize(("top", "triangles"), [(0.3, 1), (0.4, 0)])
def test_a_cell_beyond_the_scale_has_the_triangle_of_the_colorbar(top: float, triangles: int) -> None:
    """Its colour alone is that of a weight at the top."""
    ax = plt.figure().add_subplot()
    drawn = draw_overlay(ax, ROW, KEYS, PIXELS, scale=Normalize(0, top), colours=overlay_colormap("plasma"))
    found = [patch for patch in ax.patches if isinstance(patch, Polygon)]
    assert len(found) == triangles
    (cell,) = drawn.cells
    for triangle in found:
        inside = cell.get_bbox().padded(1e-9)
        assert all(inside.contains(*corner) for corner in triangle.get_xy())


def test_a_number_that_would_be_too_small_is_left_out() -> None:
    """In a tiny panel there is a colour only."""
    figure = plt.figure(figsize=(0.5, 0.5), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    options = {"scale": Normalize(0, 0.3), "colours": overlay_colormap("plasma")}
    drawn = draw_overlay(ax, ROW, KEYS, PIXELS, **options)  # type: ignore[arg-type]  # of both kinds
    figure.canvas.draw()
    with_text = np.asarray(figure.canvas.buffer_rgba()).copy()
    for text in ax.texts:
        text.remove()
    for artist in ax.artists:
        artist.remove()
    figure.canvas.draw()
    assert drawn.cells
    assert np.array_equal(with_text, np.asarray(figure.canvas.buffer_rgba()))


def test_smooth_weights_are_interpolated_and_patches_are_not() -> None:
    """Patches are the default."""
    options: dict[str, Any] = {"scale": Normalize(0, 1), "colours": overlay_colormap("plasma")}
    drawn = [
        draw_overlay(plt.figure().add_subplot(), ROW, KEYS, PIXELS, smooth=smooth, **options).heat.get_interpolation()
        for smooth in (False, True)
    ]
    assert drawn == ["nearest", "catrom"]


def test_a_smooth_peak_is_as_high_as_its_weight() -> None:
    """In the middle of its patch, a weight among zeros has its own colour."""
    figure = plt.figure(figsize=(7, 7), dpi=99)
    ax = figure.add_axes((0, 0, 1, 1))
    keys = Patches(grid=(7, 7), prefix=(), image_size=(70, 70))
    row = np.zeros(49)
    row[24] = 1.0
    colours = overlay_colormap("gray", 1.0)
    draw_overlay(ax, row, keys, np.zeros((70, 70, 3)), scale=Normalize(0, 1), colours=colours, smooth=True, cells=False)
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., 0]
    assert drawn.max() > 245
    assert drawn[346, 346] > 245
    assert drawn[346 + 99, 346] < 10


def test_a_threshold_leaves_out_the_rest() -> None:
    """Outside the set the image is bare."""
    options: dict[str, Any] = {"scale": Normalize(0, 1), "colours": overlay_colormap("plasma")}
    drawn = draw_overlay(plt.figure().add_subplot(), ROW, KEYS, PIXELS, threshold=0.6, **options)
    assert np.isfinite(np.ma.filled(np.ma.asarray(drawn.heat.get_array()), np.nan)).tolist() == [
        [False, False, True],
        [True, False, False],
    ]


ROWS = [
    Panel(ROW * factor, KEYS, f"head {number}", layer=number // 2) for number, factor in enumerate((1, 0.5, 0.1, 0.2))
]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Return the pairs of texts, panels and colorbars whose boxes overlap."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # Agg's
    boxes = [(f"axes {ax.get_label()}", ax.get_window_extent()) for ax in figure.axes]
    texts = [*figure.texts, *(ax.title for ax in figure.axes)]
    boxes += [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()]
    bar = figure.axes[-1]
    boxes += [(label.get_text(), label.get_window_extent(renderer)) for label in bar.get_yticklabels()]
    boxes.append(("label of the bar", bar.yaxis.label.get_window_extent(renderer)))
    return [
        (one, other)
        for (one, a), (other, b) in combinations(boxes, 2)
        if a.padded(-1).overlaps(b.padded(-1)) and min(a.width, b.width) > 0
    ]


@pytest.mark.parametrize("size", [(4, 3), (7, 5), (12, 8)])
@pytest.mark.parametrize("heads", [1, 6, 12, 16])
def test_nothing_overlaps(heads: int, size: tuple[float, float]) -> None:
    """Titles, panels, the heading and the colorbar keep apart, and inside the figure."""
    figure = plt.figure(figsize=size)
    panels = [Panel(ROW, KEYS, f"head {number}") for number in range(heads)]
    draw_panels(panels, look(), figure, fit_height=False, heading="blocks.11.attn, query cls")
    assert overlapping(figure) == []
    renderer = figure.canvas.get_renderer()
    extent = figure.get_tightbbox(renderer)
    assert extent.x0 >= -0.02
    assert extent.y0 >= -0.02
    assert extent.x1 <= size[0] + 0.02
    assert extent.y1 <= size[1] + 0.02


def test_a_grid_names_its_rows_and_columns() -> None:
    """Instead of titles."""
    figure = plt.figure(figsize=(7, 5))
    sides = (["layer 0", "layer 1"], ["head 0", "head 1"])
    draw_panels(ROWS, look(), figure, fit_height=False, heading="query cls", columns=2, sides=sides)
    assert {text.get_text() for text in figure.texts} == {*sides[0], *sides[1], "query cls"}
    assert overlapping(figure) == []


def test_panels_have_their_maximum_written_in_them() -> None:
    """It is 1 on the colorbar."""
    figure = plt.figure(figsize=(7, 5))
    axes = draw_panels(ROWS, look(), figure, fit_height=False, heading="")
    numbers = [[text.get_text() for text in ax.texts if text.get_text().startswith("1 = ")] for ax in axes]
    assert numbers == [["1 = .30"], ["1 = .15"], ["1 = .030"], ["1 = .060"]]
    assert figure.axes[-1].get_ylabel() == FRACTION


@pytest.mark.parametrize(("size", "cells"), [((7, 5), True), ((2, 2), False)])
def test_tiny_panels_have_no_prefix_cells(size: tuple[float, float], cells: bool) -> None:
    """They could not be read, and the image gets their place."""
    axes = draw_panels(ROWS, look(), plt.figure(figsize=size), fit_height=False, heading="", columns=4)
    assert [bool(ax.patches) for ax in axes] == [cells] * 4
    assert (axes[0].get_ylim()[0] > 32) == cells


@pytest.mark.parametrize(("count", "bare"), [(3, 1), (4, 0)])
def test_the_bare_image_takes_a_place_that_is_left(count: int, bare: int) -> None:
    """To compare with; the colorbar stays the last of the figure's axes."""
    figure = plt.figure(figsize=(7, 5))
    draw_panels(ROWS[:count], look(), figure, fit_height=False, heading="", columns=2)
    found = [ax for ax in figure.axes if ax.get_label() == "image"]
    assert [(len(ax.images), ax.get_title()) for ax in found] == [(1, "image")] * bare
    assert figure.axes[-1].get_label() == "colorbar"
    assert overlapping(figure) == []


@pytest.mark.parametrize(("queries", "frames"), [((1, 1, 1), 1), ((1, 2, 1), 0)])
def test_a_query_of_all_panels_is_outlined_on_the_bare_image(queries: tuple[int, ...], frames: int) -> None:
    """As on the panels; of several queries none belongs there."""
    figure = plt.figure(figsize=(7, 5))
    panels = [replace(panel, marked=(KEYS, ((query, 0),))) for panel, query in zip(ROWS, queries, strict=False)]
    axes = draw_panels(panels, look(), figure, fit_height=False, heading="", columns=2)
    (bare,) = (ax for ax in figure.axes if ax.get_label() == "image")
    assert len(bare.patches) == frames
    assert all(patch.get_bbox().bounds == (0, 0, 16, 16) for patch in bare.patches)
    assert all(len(ax.patches) > 2 for ax in axes)


def test_one_scale_for_all_needs_no_numbers() -> None:
    """The colorbar is in weights."""
    figure = plt.figure(figsize=(7, 5))
    axes = draw_panels(ROWS, look(share="all"), figure, fit_height=False, heading="")
    assert not any(text.get_text().startswith("1 = ") for ax in axes for text in ax.texts)
    assert figure.axes[-1].get_ylabel() == "attention weight"


def test_too_many_panels_for_a_figure_are_refused() -> None:
    """Rather than drawn as dots."""
    with pytest.raises(OptionError, match="400 panels do not fit"):
        draw_panels(ROWS * 100, look(), plt.figure(figsize=(1, 1)), fit_height=False, heading="")


def test_a_long_text_is_shortened_in_its_middle() -> None:
    """The start and the end say most."""
    text = fitted("encoder.layers.encoder_layer_11.self_attention", 1.0, 8)
    assert text.startswith("enc")
    assert text.endswith("tion")
    assert text_width(text, 8) <= 1.0


def test_tops_that_have_no_room_in_panels_are_beside_the_colorbar() -> None:
    """The range of them: without it, a hundredth looks like a half."""
    figure = plt.figure(figsize=(2, 2))
    draw_panels(ROWS, look(), figure, fit_height=False, heading="", columns=4)
    assert figure.axes[-1].get_ylabel() == f"{FRACTION} (.030 to .30)"


def test_columns_whose_names_have_no_room_are_numbers_behind_their_word() -> None:
    """All of them, not those of two digits only."""
    figure = plt.figure(figsize=(2, 3))
    sides = (["head 0"], [f"layer {number}" for number in range(8, 12)])
    draw_panels(ROWS, look(), figure, fit_height=False, heading="", columns=4, sides=sides)
    assert [text.get_text() for text in figure.texts] == ["head 0", "8", "layer", "9", "10", "11"]
    assert overlapping(figure) == []
