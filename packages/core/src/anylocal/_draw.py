"""What all recipes share: choosing what is drawn, one scale for it and its legend, new axes.

The adapters, released together with core, build their recipes on it as well.
"""

from __future__ import annotations

import difflib
import operator
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard, cast

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.layout_engine import ConstrainedLayoutEngine, LayoutEngine
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from anylocal._ticks import printable
from anylocal.errors import ChoiceError, OptionError, PositionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

    from anylocal._axes import Axis
    from anylocal._map import AttentionMap

Weights: TypeAlias = npt.NDArray[np.floating[Any]]
Norm: TypeAlias = Normalize | str | None
Cmap: TypeAlias = str | Colormap

CMAP = "magma"
"""The default colormap. Its lightness rises evenly with the weight: it reads the same in grey, in print and with any
colour vision. It starts at black: over a photograph, what gets no attention goes dark."""

DIVERGING = "coolwarm"
"""The colormap of differences. Of matplotlib's diverging ones that 3.8 has, the one whose colours change most evenly
(by CIELAB, a sixteenth from step to step, and others a sixth), as dark at one end as at the other; neither end is
green. K. Moreland, "Diverging Color Maps for Scientific Visualization", ISVC 2009."""

LEGEND = "attention weight"


def is_map(attention: object) -> TypeGuard[AttentionMap]:
    """Tell a map from a plain matrix, without importing torch for someone who draws an array."""
    room = sys.modules.get("anylocal._map")
    return room is not None and isinstance(attention, room.AttentionMap)


def map_of(attention: object, recipe: str) -> AttentionMap:
    """Return the map that a recipe was given.

    Raises
    ------
    ChoiceError
        Where it was given several.
    OptionError
        Where it was given something else.
    """
    if is_map(attention):
        return attention
    if isinstance(attention, Sequence) and any(map(is_map, attention)):
        msg = f"{recipe} draws one map and got {len(attention)}; take one by position or by name, such as maps[0]."
        raise ChoiceError(msg)
    msg = f"{recipe} draws an AttentionMap and got {type(attention).__name__}; make one by AttentionMap.from_weights."
    raise OptionError(msg)


def sample_of(attention: AttentionMap, sample: int | None) -> int:
    """Return which sample of the batch to draw, counted from the start; of a windowed layer, which window.

    Raises
    ------
    ChoiceError
        Where there are several and none was chosen.
    PositionError
        Where there is no such sample.
    """
    return _one_of(attention, sample, attention.shape[0], "sample")


def image_of(attention: AttentionMap, sample: int | None) -> int:
    """Return which image of the batch to draw, counted from the start; see `sample_of`."""
    return _one_of(attention, sample, attention.images, "image" if attention.windows > 1 else "sample")


def _one_of(attention: AttentionMap, sample: int | None, number: int, kind: str) -> int:
    if sample is None and number != 1:
        msg = f"{attention!r} holds {number} {kind}s and a picture shows one: choose it by sample=0 … {number - 1}."
        raise ChoiceError(msg)
    return inside(0 if sample is None else sample, number, kind, of=attention)


def place_of(attention: AttentionMap, sample: int) -> int:
    """Return by which number the axes of a map know a sample: windows differ in where they lie, not in their text."""
    placed = any(hasattr(axis, "places") for axis in (attention.queries, attention.keys))
    return sample if placed else sample // attention.windows


def rows_of(attention: AttentionMap, sample: int, head: int | None, queries: Sequence[int]) -> Weights:
    """Return the weights of some queries, shape (query, key): of one head, or the mean over heads."""
    heads = attention.shape[1]
    if head is not None:
        return array_of(attention[sample, inside(head, heads, "head", of=attention), list(queries)])
    # `head_mean` would compute the whole batch, and all heads at once would be as many matrices as there are heads.
    return mean_of(array_of(attention[sample, each, list(queries)]) for each in range(heads))


def mean_of(matrices: Iterable[Weights]) -> Weights:
    """Return the mean; only the sum is kept besides the matrix at hand."""
    rest = iter(matrices)
    total, count = next(rest), 1
    for matrix in rest:
        total, count = total + matrix, count + 1
    return total / count


def positions_of(queries: Any, axis: Axis | None, length: int, sample: int = 0) -> list[int]:
    """Return the query positions that are meant: all by None, else one, those of a slice, or of a sequence.

    Raises
    ------
    PositionError, NameNotFoundError, ChoiceError
        Where there is no such position, or none at all is selected.
    """
    # Arrays and tensors, also those of no dimension.
    queries = queries.tolist() if hasattr(queries, "tolist") else queries
    if queries is None or isinstance(queries, slice):
        found = list(range(length)[queries or slice(None)])
    elif isinstance(queries, str) or not isinstance(queries, Sequence):
        found = [_position(queries, axis, length, sample)]
    elif len(queries) == length and all(isinstance(query, bool) for query in queries):
        found = [position for position, chosen in enumerate(queries) if chosen]
    else:
        found = [_position(query, axis, length, sample) for query in queries]
    if not found:
        msg = f"queries={queries!r} selects none of the {length} queries, and there is nothing to draw; select some."
        raise PositionError(msg)
    return found


def _position(query: object, axis: Axis | None, length: int, sample: int) -> int:
    return inside(query, length, "query") if axis is None else axis.position(query, sample)


def inside(position: Any, length: int, what: str, of: object = None) -> int:
    """Return a position, counted from the start; the message tells of what it is one.

    Raises
    ------
    PositionError
        Where there is no such position.
    """
    try:
        found = operator.index(position)
    except TypeError:
        found = length
    if not -length <= found < length:
        owner = "" if of is None else f" of {of!r}"
        msg = f"There is no {what} {position!r}{owner}: there are {length}, counted from 0."
        raise PositionError(msg)
    return found % length


def array_of(values: Any) -> Weights:
    """Return a tensor or an array as a float array in main memory."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    array = np.asarray(values)
    # Weights in half precision are few steps apart: their mean must not be rounded to them.
    return array if array.dtype.name in {"float32", "float64"} else array.astype(np.float32)


def shared_norm(norm: Norm, values: Iterable[Weights]) -> Normalize:
    """Return the one scale of a picture: by default from 0 to the greatest value of all that is drawn.

    A scale given without limits gets those of all that is drawn. Values below 0, which no softmax has, lower the
    default scale's start.

    Raises
    ------
    OptionError
        Where there is no such scale, or it has no place for what is drawn.
    """
    limits = np.concatenate([_limits(item) for item in values])
    if not limits.size:
        # Of no number at all, such as those of padding only, any scale is right.
        limits = np.array([0.0, 1.0])
    if norm is None:
        low, high = limits.min(initial=0.0), limits.max(initial=0.0)
        return Normalize(low, high if high > low else low + 1)
    mappable = ScalarMappable()
    try:
        # Makes the norm that a name such as "log" stands for.
        mappable.norm = norm
    except (TypeError, ValueError):
        msg = (
            f'norm={norm!r} is no scale; give a name that matplotlib knows, such as "log" or "symlog", or an object of '
            "matplotlib.colors, such as PowerNorm(0.5)."
        )
        raise OptionError(msg) from None
    scale = cast("Normalize", mappable.norm)
    try:
        scale.autoscale_None(limits)
        _check_scale(scale)
    except ValueError:
        name = repr(norm) if isinstance(norm, str) else type(norm).__name__
        msg = (
            f"norm={name} has no place for weights from {limits.min():g} to {limits.max():g}; "
            "leave it out, or give one with limits, such as matplotlib.colors.LogNorm(1e-3, 1)."
        )
        raise OptionError(msg) from None
    return scale


def _check_scale(scale: Normalize) -> None:
    """Raise now what matplotlib would while it draws, when a figure is there already."""
    scale(np.array([scale.vmin, scale.vmax]))
    # A scale of no width takes any value for its start, and the colorbar then asks for it.
    if scale.vmin == scale.vmax:
        scale.inverse(0.5)


def colormap_of(cmap: Cmap) -> Colormap:
    """Return a colormap, before there is a figure of which nothing would come.

    Raises
    ------
    OptionError
        Where there is no such colormap.
    """
    try:
        return ScalarMappable(cmap=cmap).get_cmap()
    except (TypeError, ValueError):
        nearest = difflib.get_close_matches(str(cmap), list(colormaps), n=1)
        suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
        msg = f'cmap={cmap!r} is no colormap.{suggestion} Give the name of one of matplotlib\'s, such as "{CMAP}".'
        raise OptionError(msg) from None


def centred_norm(norm: Norm, values: Weights) -> Normalize:
    """Return the scale of differences: by default as far below 0 as above, to the greatest of them.

    A scale given without limits gets these.
    """
    most = np.abs(_limits(values)).max(initial=0.0) or 1.0
    return shared_norm(norm, [np.array([-most, most])])


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


def add_colorbar(mappable: ScalarMappable, ax: Axes, label: str = LEGEND) -> Colorbar:
    """Put the legend of a scale to the right of the axes."""
    options: dict[str, Any] = {"label": label}
    if type(mappable.norm) is Normalize:
        # As many by default as have room; but more of them are longer ones, and take that room (see `Spaced`).
        options["ticks"] = MaxNLocator(4)
    if ax.figure.get_layout_engine() is None:
        # Nobody would make room for an inset: it is taken from the axes.
        return ax.figure.colorbar(mappable, ax=ax, **options)
    # An inset is as high as what is drawn, also where that does not fill the axes' place.
    return ax.figure.colorbar(mappable, cax=beside(ax, 0.06, 0.12), **options)


def beside(ax: Axes, start: float, width: float, bottom: float = 0.0, height: float = 1.0) -> Axes:
    """Return an inset to the right of axes, to the left where `start` is negative.

    Across, the unit is the inch, from that edge: an inset that grew with the axes would take room from them in turn,
    and the layout would not settle. Upwards, the unit is the height of the axes.
    """
    # `transAxes` is affine, which its stub does not say.
    edge = ScaledTranslation(0 if start < 0 else 1, 0, ax.transAxes)  # type: ignore[arg-type]  # a transform is right
    across = ax.figure.dpi_scale_trans + edge
    return ax.inset_axes((start, bottom, width, height), transform=blended_transform_factory(across, ax.transAxes))


def caption(attention: AttentionMap, sample: int, head: int | None = None) -> list[str]:
    """Return the lines of a title: the layer; the sample where there are several, and the head."""
    return [*layer_name(attention), ", ".join([*sample_name(attention, sample), head_name(attention, head)])]


def head_name(attention: AttentionMap, head: int | None) -> str:
    """Return the words that tell the head."""
    heads = attention.shape[1]
    return f"mean of {heads} heads" if head is None and heads > 1 else f"head {(head or 0) % heads}"


def layer_name(attention: AttentionMap, most: int = 32) -> list[str]:
    """Return the name of the layer, broken at a dot where it is too long for the width of a column of a paper."""
    lines: list[str] = []
    rest = attention.name
    while len(rest) > most and "." in rest[:most]:
        end = rest.rindex(".", 0, most) + 1
        lines, rest = [*lines, rest[:end]], rest[end:]
    return [printable(line, len(line)) for line in [*lines, rest] if line]


def sample_name(attention: AttentionMap, sample: int) -> list[str]:
    """Return the words that tell the sample from others, none where it is the only one."""
    if attention.windows > 1:
        image, window = divmod(sample, attention.windows)
        return [f"image {image}, window {window}" if attention.images > 1 else f"window {window}"]
    return [f"sample {sample}"] if attention.shape[0] > 1 else []


def _limits(values: Weights) -> Weights:
    """Return the extremes, and those of the positive values, among which a logarithmic scale starts."""
    finite = values[np.isfinite(values)]
    parts = [part for part in (finite, finite[finite > 0]) if part.size]
    return np.array([extreme(part) for part in parts for extreme in (np.min, np.max)])
