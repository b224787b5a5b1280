"""New figures and axes, their layout, and the colorbar."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from matplotlib import rcParams
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.layout_engine import ConstrainedLayoutEngine, LayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, MaxNLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import YAxis
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from anylocal._drawing.scale import Extend

from anylocal._drawing.norms import Rank
from anylocal._drawing.scale import LEGEND, clipped, short
from anylocal._drawing.ticks import LINE


def new_axes(ax: Axes | None) -> Axes:
    """Return the axes, or those of a new figure that pyplot shows."""
    return new_figure().add_subplot() if ax is None else ax


def new_figure() -> Figure:
    """Return a new figure that pyplot shows."""
    # Here only: drawing into a user's own figure needs nothing of pyplot's global state.
    import matplotlib.pyplot as plt

    return plt.figure(layout=Settled())


def lay_out(figure: Figure, engine: Literal["compressed"] | LayoutEngine) -> None:
    """Set a layout engine that makes room for labels, if the figure has none; a subfigure has that of its figure."""
    if figure.get_layout_engine() is None:
        figure.figure.set_layout_engine(engine)


def width_of(figure: Figure) -> float:
    """Return the width of a figure, or of a part of one, in inches."""
    return figure.bbox.width / figure.figure.dpi


def height_of(figure: Figure) -> float:
    """Return the height of a figure, or of a part of one, in inches."""
    return figure.bbox.height / figure.figure.dpi


def interpolation() -> str:
    """Return how matrices are drawn: averaged where cells share a dot, or as they are where the rcParams say "none"."""
    return "none" if rcParams["image.interpolation"] == "none" else "antialiased"


SMALLEST = 0.5
"""The smallest type, as a share of the usual."""

LETTER = 0.58
"""Width of a letter, in font sizes; it is less in most fonts."""


WORDY = re.compile(r"^attention (?=weight)| (token|position|\(row, column\))$")
"""What the labels of small axes do without."""


class Settled(ConstrainedLayoutEngine):
    """Constrained layout, repeated until nothing moves any more.

    Each round makes room for what the axes of the round before had around them. A picture of fixed shape may be wider
    than high in one round and not in the next: labels of a figure laid out once may be cut off.
    """

    def execute(self, fig: Figure) -> None:
        """Lay out a figure."""
        # Matplotlib 3.8 takes many small steps, 3.11 a few.
        for _ in range(20):
            before = [ax.get_position(original=True).extents for ax in fig.axes]
            super().execute(fig)
            if np.allclose(before, [ax.get_position(original=True).extents for ax in fig.axes], atol=1e-3):
                return


def add_colorbar(mappable: ScalarMappable, ax: Axes, label: str = LEGEND, extend: Extend | None = None) -> Colorbar:
    """Put the legend of a scale to the right of the axes, with a triangle at an end beyond which there are weights."""
    drawn, scale = mappable.get_array(), mappable.norm
    assert isinstance(scale, Normalize)
    if extend is None:
        extend = "neither" if drawn is None else clipped([scale], [drawn])
    options = bar_options(scale, label, extend)
    share = max(SMALLEST, type_share(ax))
    if ax.figure.get_layout_engine() is None:
        # Nobody would make room for an inset: it is taken from the axes, with room for five digits and the label.
        room = share * (0.25 + (5 * LETTER + 2 * LINE) * rcParams["font.size"] / 72)
        fraction = min(0.5, max(0.15, room / (ax.bbox.width / ax.figure.dpi)))
        return ax.figure.colorbar(mappable, ax=ax, fraction=fraction, **options)
    # An inset is as high as what is drawn, also where that does not fill the axes' place.
    return ax.figure.colorbar(mappable, cax=beside(ax, 0.06 * share, 0.12 * share), **options)


def bar_options(scale: Normalize, label: str, extend: Extend) -> dict[str, Any]:
    """Return the options of `Figure.colorbar` for a scale: its label, its triangles and its ticks."""
    options: dict[str, Any] = {"label": label}
    # A scale of steps has its own.
    if extend != "neither" and not hasattr(scale, "extend"):
        options |= {"extend": extend, "extendfrac": 0.04}
    if type(scale) in {Normalize, PowerNorm}:
        # As many by default as have room; but more of them are longer ones, and take that room (see `Spaced`).
        options["ticks"] = Apart(scale, MaxNLocator(4))
    if isinstance(scale, Rank):
        options["ticks"] = Apart(scale, FixedLocator(scale.inverse(np.linspace(0, 1, 5)).tolist()))
    if "ticks" in options:
        options["format"] = FuncFormatter(lambda weight, _: ("−" if weight < 0 else "") + short(abs(weight)))
    return options


class Apart(Locator):
    """The ticks of another locator and the top, without those whose labels would touch a higher one's.

    The top is where weights are clipped.
    """

    def __init__(self, scale: Normalize, ticks: Locator) -> None:
        self.scale = scale
        self.ticks = ticks

    def __call__(self) -> list[float]:
        """Return the ticks within the view."""
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Return the ticks between two values."""
        bar = cast("YAxis", self.axis)
        height = bar.axes.bbox.height / bar.axes.figure.dpi * 72
        apart = 1.4 * LINE * float(bar.get_major_ticks(1)[0].label1.get_fontsize()) / max(1.0, height)
        kept: list[float] = []
        for tick in (vmax, *reversed(self.ticks.tick_values(vmin, vmax))):
            if vmin <= tick <= vmax and all(self.scale(other) - self.scale(tick) >= apart for other in kept):
                kept.append(float(tick))
        return kept[::-1]


def type_share(ax: Axes) -> float:
    """Return how large type is to be in axes that may be one of many, as a share of the usual."""
    return min(
        1.0, min(ax.bbox.width / 2.2, ax.bbox.height / 1.7) / ax.figure.dpi / (float(rcParams["font.size"]) / 10)
    )


def shrink(ax: Axes, share: float) -> None:
    """Make the labels of axes smaller, down to a half, which print can show, and beyond shorter."""
    small, settings = max(SMALLEST, share), cast("dict[str, float]", rcParams)
    for ruler in (ax.xaxis, ax.yaxis) if share < 1 else ():
        major = f"{ruler.axis_name}tick.major"
        ruler.set_tick_params(
            labelsize=small * float(ruler.get_major_ticks(1)[0].label1.get_fontsize()),
            length=small * settings[f"{major}.size"],
            pad=small * settings[f"{major}.pad"],
        )
        ruler.label.set_fontsize(small * float(ruler.label.get_fontsize()))
        ruler.labelpad *= small
        if share < SMALLEST + 0.1:
            ruler.set_label_text(WORDY.sub("", ruler.label.get_text()))


def fit(text: Text, room: float) -> None:
    """Make a text smaller, down to a half, until its longest line is about as long as the room, in inches."""
    longest = max(map(len, text.get_text().split("\n")))
    size = float(text.get_fontsize())
    text.set_fontsize(min(size, max(SMALLEST * size, 72 * room / (LETTER * max(1, longest)))))


def beside(ax: Axes, start: float, width: float, bottom: float = 0.0, height: float = 1.0) -> Axes:
    """Return an inset to the right of axes, to the left where `start` is negative.

    Across, the unit is the inch, from that edge: an inset that grew with the axes would take room from them in turn,
    and the layout would not settle. Upwards, the unit is the height of the axes.
    """
    # `transAxes` is affine, which its stub does not say.
    edge = ScaledTranslation(0 if start < 0 else 1, 0, ax.transAxes)  # type: ignore[arg-type]  # a transform is right
    across = ax.figure.dpi_scale_trans + edge
    return ax.inset_axes((start, bottom, width, height), transform=blended_transform_factory(across, ax.transAxes))
