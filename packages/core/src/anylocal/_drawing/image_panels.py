"""Several rows of weights over one image: a panel each, one colorbar, all of it placed in inches.

Panels of one shape in a figure of known size need no layout engine: what each takes is computed, so that nothing
overlaps in a figure of any size, and drawing seventy panels takes no longer than drawing seventy images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from matplotlib import rcParams
from matplotlib.cm import ScalarMappable
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

from anylocal._drawing.figure import height_of, width_of
from anylocal._drawing.overlay import BACKGROUND, Overlay, bottom_of, draw_bare, draw_overlay, overlay_colormap
from anylocal._drawing.scale import LEGEND, Share, clipped, legend_of, ranged, scales_of, short
from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

    from anylocal._drawing.image import Pixels
    from anylocal._drawing.norms import Norm, Weights
    from anylocal._drawing.scale import Cmap, Extend
    from anylocal._maps.patches import Patches
    from anylocal._maps.positions import Axis

GAP: Final = 0.06
"""Inches between panels, and around the figure."""

NUMBERS_FROM: Final = 0.5
"""Inches: narrower panels have no numbers in them."""

EXPLAINED_FROM: Final = 0.65
"""Inches: narrower panels have the number alone, without what it is."""

CELLS_FROM: Final = 0.75
"""Inches: in narrower panels, what prefix cells say could not be read, and the image needs their place."""

SMALLEST_FONT: Final = 4.5
"""Points."""


@dataclass(frozen=True)
class Panel:
    """One row of weights over the image."""

    row: Weights
    keys: Patches
    title: str = ""
    layer: int = 0
    """Panels of one layer have one scale where layers share."""
    marked: tuple[Axis, Sequence[tuple[int, int]]] | None = None
    """Positions to outline, each with its sample, and the axis that they are positions of."""
    pixels: Pixels | None = None
    """An image of its own, as large as that of all panels."""


@dataclass(frozen=True)
class Look:
    """What all panels of a figure share."""

    pixels: Pixels
    norm: Norm
    cmap: Cmap
    alpha: float
    share: Share
    smooth: bool = False
    threshold: float | None = None
    legend: str = LEGEND
    """What the weights are."""


class _Plan(NamedTuple):
    """Where panels go, in inches."""

    columns: int
    rows: int
    width: float
    height: float
    title: float
    font: float
    cells: bool


def draw_panels(
    panels: Sequence[Panel],
    look: Look,
    figure: Figure,
    *,
    fit_height: bool,
    heading: str,
    columns: int | None = None,
    sides: tuple[Sequence[str], Sequence[str]] | None = None,
) -> list[Axes]:
    """Draw rows of weights over the image, and one colorbar.

    Parameters
    ----------
    panels : sequence of Panel
        In reading order.
    look : Look
        What they share.
    figure : matplotlib.figure.Figure or SubFigure
        An empty one.
    fit_height : bool
        Whether to make the figure as high as the panels are.
    heading : str
        What all panels have in common, such as the name of the module and the query.
    columns : int, optional
        Panels in a row; by default as many as make the panels largest.
    sides : (sequence of str, sequence of str), optional
        Names of the rows and of the columns, in the place of titles.

    Returns
    -------
    list of matplotlib.axes.Axes
        Those of the panels, in order. Where the last row has a place left, the bare image is drawn there as well, with
        the positions that all panels outline.
    """
    # The scale is that of the patches: a class token may have fifty times as much.
    patches = [panel.keys.split(panel.row)[1].ravel() for panel in panels]
    scales = scales_of(look.norm, patches, look.share, [panel.layer for panel in panels])
    colours = overlay_colormap(look.cmap, look.alpha, threshold=look.threshold)
    place = _placed(figure, panels, look, columns, sides, heading=bool(heading), fit_height=fit_height)
    numbered = len(set(map(id, scales))) > 1 and place.plan.width >= NUMBERS_FROM
    axes = []
    for number, (panel, scale) in enumerate(zip(panels, scales, strict=True)):
        ax = place.add_axes(number, panel.title, f"panel {number}")
        axes.append(ax)
        _draw_panel(ax, panel, look, scale, colours, place.plan, numbered=numbered)
    if len(panels) % place.plan.columns and panels[0].pixels is None:
        bottom = bottom_of(panels[0].keys, cells=place.plan.cells)
        bare = draw_bare(place.add_axes(len(panels), "image", "image"), look.pixels, bottom)
        if all(panel.marked == panels[0].marked for panel in panels):
            _outline(Overlay(bare, (), panels[0].keys), panels[0])
    place.write(heading, sides)
    beyond = clipped(scales, [panel.row for panel in panels])
    _draw_bar(
        figure,
        place.bar(len(panels)),
        (place.wide, place.high),
        scales,
        colours,
        place.font,
        look,
        beyond,
        numbered=numbered,
    )
    return axes


@dataclass(frozen=True)
class _Placed:
    """A figure and where panels go in it: all lengths in inches, from its left and its top."""

    figure: Figure
    plan: _Plan
    wide: float
    high: float
    left: float
    top: float
    head: float
    """What the heading and the names of columns take above the panels."""
    font: float

    def corner(self, number: int) -> tuple[float, float]:
        """Return the left and the top of a panel, below its title."""
        row, column = divmod(number, self.plan.columns)
        above = self.top + self.plan.title
        return self.left + column * (self.plan.width + GAP), above + row * (self.plan.height + self.plan.title + GAP)

    def add_axes(self, number: int, title: str, label: str) -> Axes:
        """Add the axes of a panel."""
        (x, y), plan = self.corner(number), self.plan
        place = (x / self.wide, 1 - (y + plan.height) / self.high, plan.width / self.wide, plan.height / self.high)
        ax = self.figure.add_axes(place, label=label)
        if plan.title:
            ax.set_title(fitted(title, plan.width, plan.font), fontsize=plan.font, pad=0.35 * plan.font)
        return ax

    def write(self, heading: str, sides: tuple[Sequence[str], Sequence[str]] | None) -> None:
        """Write the heading, and the names of rows and columns."""
        rows, columns = sides if sides is not None else ((), ())
        for row, name in enumerate(rows):
            x, y = self.corner(row * self.plan.columns)
            self._text(x - 0.05, y + self.plan.height / 2, name, ha="right", va="center")
        short_of_room = any(text_width(name, self.font) > self.plan.width for name in columns)
        for column, name in enumerate(columns):
            x, y = self.corner(column)
            # Where one has no room for its word, all are numbers, and the word stands before them.
            word, _, shown = name.rpartition(" ") if short_of_room else ("", "", name)
            self._text(x + self.plan.width / 2, y - 0.03, shown, ha="center", va="bottom")
            if word and not column:
                self._text(x - 0.05, y - 0.03, word, ha="right", va="bottom")
        if heading:
            shown = fitted(heading, self.wide - 2 * GAP, self.font)
            self._text(GAP, self.top - self.head + GAP, shown, ha="left", va="top")

    def _text(self, x: float, y: float, text: str, **options: Any) -> None:
        self.figure.text(x / self.wide, 1 - y / self.high, text, fontsize=self.font, **options)

    def bar(self, count: int) -> tuple[float, float, float, float]:
        """Return the left, top, width and height of the colorbar, beside so many panels."""
        last = self.corner(count - 1)[1] + self.plan.height
        x, y = self.corner(self.plan.columns - 1)
        return x + self.plan.width + 0.1, y, 0.1, last - y


def _placed(
    figure: Figure,
    panels: Sequence[Panel],
    look: Look,
    columns: int | None,
    sides: tuple[Sequence[str], Sequence[str]] | None,
    *,
    heading: bool,
    fit_height: bool,
) -> _Placed:
    """Return where panels go, in a figure that is made as high as they are where `fit_height`."""
    wide, high = width_of(figure), height_of(figure)
    font = _font(wide)
    line = 1.4 * font / 72
    left = GAP if sides is None else GAP + 0.06 + max(text_width(name, font) for name in sides[0])
    right = 0.25 + text_width("0.000", font) + 1.6 * line
    top = GAP + line * heading + line * (sides is not None)
    titled = sides is None and any(panel.title for panel in panels)
    room = wide - left - right, (math.inf if fit_height else high) - top - GAP
    for cells in (True, False):
        aspect = max(bottom_of(panel.keys, cells=cells) for panel in panels) / look.pixels.shape[1]
        plan = _plan(len(panels), room, aspect, titled=titled, columns=columns, cells=cells)
        if plan.width >= CELLS_FROM:
            break
    if plan.width <= 0.05:  # noqa: PLR2004  # inches
        size = f"{wide:.1f} × {high:.1f} inches"
        msg = f"{len(panels)} panels do not fit into a figure of {size}; give a larger figure, or fewer panels."
        raise OptionError(msg)
    block_high = plan.rows * (plan.height + plan.title + GAP) - GAP
    if fit_height:
        high = max(top + block_high + GAP, 1.6)
        figure.set_figheight(high)
    block_wide = plan.columns * (plan.width + GAP) - GAP
    start_x = left + (wide - left - right - block_wide) / 2
    start_y = top + max(0.0, high - top - GAP - block_high) / 2
    return _Placed(figure, plan, wide, high, start_x, start_y, top, font)


def _plan(
    count: int, room: tuple[float, float], aspect: float, *, titled: bool, columns: int | None, cells: bool
) -> _Plan:
    """Return where panels go: in as many columns as make them largest."""
    wide, high = room
    if columns is None and math.isinf(high):
        # As wide as high altogether, or a little wider: a long row of small panels wastes the page's height.
        high = 0.85 * wide
    plans = []
    for number in [columns] if columns is not None else range(1, count + 1):
        rows = math.ceil(count / number)
        width = (wide - (number - 1) * GAP) / number
        font = title = 0.0
        # The height of type depends on the width, and the other way round.
        for _ in range(4):
            font = float(np.clip(4.0 + 2.2 * width, SMALLEST_FONT, _font(wide)))
            title = 1.5 * font / 72 if titled else 0.0
            fitting = ((high - (rows - 1) * GAP) / rows - title) / aspect
            width = min((wide - (number - 1) * GAP) / number, fitting)
        plans.append(_Plan(number, rows, width, width * aspect, title, font, cells))
    return max(plans, key=lambda plan: plan.width * (1 - 0.02 * (plan.columns * plan.rows - count)))


def _draw_panel(  # noqa: PLR0917  # each is a part of the picture
    ax: Axes, panel: Panel, look: Look, scale: Normalize, colours: Colormap, plan: _Plan, *, numbered: bool
) -> None:
    drawn = draw_overlay(
        ax,
        panel.row,
        panel.keys,
        look.pixels if panel.pixels is None else panel.pixels,
        scale=scale,
        colours=colours,
        smooth=look.smooth,
        threshold=look.threshold,
        cells=plan.cells,
    )
    _outline(drawn, panel)
    if numbered:
        assert scale.vmax is not None
        height, width = look.pixels.shape[:2]
        number = short(float(scale.vmax))
        ax.annotate(
            f"1 = {number}" if plan.width >= EXPLAINED_FROM else number,
            (width, height),
            (-3, 2.5),
            textcoords="offset points",
            ha="right",
            color="white",
            fontsize=plan.font,
            path_effects=[withStroke(linewidth=1.4, foreground="black")],
        )


def _outline(drawn: Overlay, panel: Panel) -> None:
    if panel.marked is not None:
        axis, places = panel.marked
        for place in places:
            drawn.outline(axis, *place)


def _draw_bar(  # noqa: PLR0917  # as above
    figure: Figure,
    place: tuple[float, float, float, float],
    size: tuple[float, float],
    scales: Sequence[Normalize],
    colours: Colormap,
    font: float,
    look: Look,
    beyond: Extend,
    *,
    numbered: bool,
) -> None:
    """Draw the colorbar: in weights where all panels have one scale, else relative to each panel's top."""
    (x, y, width, height), (wide, high) = place, size
    scale, label = legend_of(look.norm, scales)
    label = label.replace(LEGEND, look.legend)
    if not numbered:
        label = ranged(label, scales)
    # Not longer than its label needs in a high figure; in a low one, the labels of both ends are inside the figure.
    length = min(max(height / 2, height - font / 72), max(2.6, *(text_width(line, font) for line in label.split("\n"))))
    # Beside a single row of small panels it is longer than they are high: its ticks need that.
    length = max(length, min(4 * font / 72, high - y - GAP - font / 144))
    y += max(0.0, (height - length) / 2)
    # The label is centred on the bar, which need not be in the middle of the figure.
    room = 2 * min(y + length / 2, high - y - length / 2) - 2 * GAP
    label = "\n".join(fitted(line, room, font) for line in label.split("\n"))
    ax = figure.add_axes((x / wide, 1 - (y + length) / high, width / wide, length / high), label="colorbar")
    ax.set_facecolor(BACKGROUND)
    bar = figure.colorbar(ScalarMappable(scale, colours), cax=ax, extend=beyond, extendfrac=0.06)
    if bar.solids is not None:
        # Of colours that let light through, the edges of the steps would be seen twice.
        bar.solids.set_edgecolor("none")
    if scale not in scales:
        bar.set_ticks([0, 0.5, 1], labels=["0", ".5", "1"])
    ax.tick_params(labelsize=font, length=2, pad=1.5)
    bar.set_label(label, fontsize=font, labelpad=2)


def _font(wide: float) -> float:
    """Return the size of type for a figure of some width, in points: the usual one, or less in a narrow figure."""
    usual: float = rcParams["font.size"]
    return float(min(0.85 * usual, max(5.5, 1.1 * wide + 2.5)))


@lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Return the width of a text in inches, without a renderer."""
    if not text:
        return 0.0
    path = TextPath((0, 0), text, size=size, prop=FontProperties(family=rcParams["font.family"]))
    return float(path.get_extents().x1) / 72


def fitted(text: str, width: float, size: float) -> str:
    """Return a text, with dots in its middle where it is too long for a width in inches."""
    if text_width(text, size) <= width:
        return text
    for length in range(len(text) - 1, 2, -1):
        made = f"{text[: (length + 1) // 2]}…{text[len(text) - length // 2 :]}"
        if text_width(made, size) <= width:
            return made
    return text[:3]
