"""New figures and axes, their layout, and the colorbar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib import rcParams
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.layout_engine import ConstrainedLayoutEngine, LayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

    from anylocal._drawing.scale import Extend

from anylocal._drawing.norms import Rank
from anylocal._drawing.scale import LEGEND, clipped, short


def new_axes(ax: Axes | None) -> Axes:
    """Return the axes, or those of a new figure that pyplot shows."""
    return new_figure().add_subplot() if ax is None else ax


def new_figure() -> Figure:
    """Return a new figure that pyplot shows."""
    # Here only: drawing into a user's own figure needs nothing of pyplot's global state.
    import matplotlib.pyplot as plt

    return plt.figure(layout=Settled())


def lay_out(figure: Figure, engine: Literal["compressed"] | LayoutEngine) -> None:
    """Give a figure an engine that makes room for labels, if it has none; a part of a figure has that of the whole."""
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
    if ax.figure.get_layout_engine() is None:
        # Nobody would make room for an inset: it is taken from the axes.
        return ax.figure.colorbar(mappable, ax=ax, **options)
    # An inset is as high as what is drawn, also where that does not fill the axes' place.
    return ax.figure.colorbar(mappable, cax=beside(ax, 0.06, 0.12), **options)


def bar_options(scale: Normalize, label: str, extend: Extend) -> dict[str, Any]:
    """Return what `Figure.colorbar` is to be told of a scale: its label, its triangles and its ticks."""
    options: dict[str, Any] = {"label": label}
    # A scale of steps has its own.
    if extend != "neither" and not hasattr(scale, "extend"):
        options |= {"extend": extend, "extendfrac": 0.04}
    if type(scale) in {Normalize, PowerNorm}:
        # As many by default as have room; but more of them are longer ones, and take that room (see `Spaced`).
        options["ticks"] = MaxNLocator(4)
    if isinstance(scale, Rank):
        options["ticks"] = FixedLocator(scale.inverse(np.linspace(0, 1, 5)).tolist())
        options["format"] = FuncFormatter(lambda weight, _: short(weight))
    return options


def beside(ax: Axes, start: float, width: float, bottom: float = 0.0, height: float = 1.0) -> Axes:
    """Return an inset to the right of axes, to the left where `start` is negative.

    Across, the unit is the inch, from that edge: an inset that grew with the axes would take room from them in turn,
    and the layout would not settle. Upwards, the unit is the height of the axes.
    """
    # `transAxes` is affine, which its stub does not say.
    edge = ScaledTranslation(0 if start < 0 else 1, 0, ax.transAxes)  # type: ignore[arg-type]  # a transform is right
    across = ax.figure.dpi_scale_trans + edge
    return ax.inset_axes((start, bottom, width, height), transform=blended_transform_factory(across, ax.transAxes))
