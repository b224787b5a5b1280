"""The scale of a picture: where it ends, which panels share it, how it runs, and its colormap."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize

from anylocal._drawing.norms import (
    MADE,
    Norm,
    Rank,
    Weights,
    extremes_of,
    finite_of,
    no_place,
    of_matplotlib,
    signed_root,
)
from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence


Share: TypeAlias = Literal["all", "layer", "head"]
Extend: TypeAlias = Literal["neither", "min", "max", "both"]
Cmap: TypeAlias = str | Colormap

CMAP = "magma"
"""The default colormap. Its lightness rises evenly with the weight: it reads the same in grey, in print and with any
colour vision."""

DIVERGING = "coolwarm"
"""The colormap of differences. Of matplotlib's diverging ones that 3.8 has, the one whose colours change most evenly
(by CIELAB, a sixteenth from step to step, and others a sixth), as dark at one end as at the other; neither end is
green. K. Moreland, "Diverging Color Maps for Scientific Visualization", ISVC 2009."""

PADDING = "0.6"
"""The grey of padding, in matplotlib's notation; the default colormap does not contain it."""

LEGEND = "attention weight"
VALUE = "value"
FRACTION = "attention weight, relative\nto each panel's top"
RANK = "rank of the attention weight"

FEW_KEYS, FEW_VALUES = 49, 1000
"""With fewer of both, the scale ends at the maximum: 2 % of the keys are not one key, and in a matrix so small a cell
is large enough to be seen, and compared, by itself."""


EVEN = 3.0
"""The scale ends no lower than at so many times the median: weights that are nearly even are not near its end."""


def top_of(*panels: Weights) -> float:
    """Return where the scale of weights ends: about their 99th percentile.

    It is the 99.5th percentile, or three times the median if that is more: weights that are nearly even are seen to be.
    But it is at most twice the 98th percentile, so that 2 % of the positions are always in the upper half of the scale,
    whatever a few sinks take; and not below the mean. Of few weights it is the maximum.

    Parameters
    ----------
    *panels : numpy.ndarray
        The weights of the positions that count, keys last; of all panels that share the scale.

    Returns
    -------
    float
        Above 0: 1 where no weight is.
    """
    values = finite_of(panels)
    if not values.size:
        return 1.0
    if all(panel.shape[-1] < FEW_KEYS and panel.size < FEW_VALUES for panel in panels):
        top = float(values.max())
    else:
        most, many, half = np.quantile(values, [0.995, 0.98, 0.5])
        top = float(max(min(max(most, EVEN * half), 2 * many), values.mean()))
    return top if top > 0 else 1.0


def scale_of(norm: Norm, panels: Iterable[Weights]) -> Normalize:
    """Return the one scale of some panels.

    Parameters
    ----------
    norm : matplotlib.colors.Normalize or str, optional
        "linear", None for the same, and "sqrt" go from 0 to `top_of`, "log" from a thousandth of it; values below
        0, which no softmax has, lower the start of the first two. "rank" is `Rank`. Another name that matplotlib knows
        and a scale given without limits get those of the panels; a given scale is used as it is.
    panels : iterable of numpy.ndarray
        The weights of the positions that count.

    Raises
    ------
    OptionError
        Where there is no such scale, or it has no place for the weights.
    """
    panels = list(panels)
    extremes = np.concatenate([extremes_of(panel) for panel in panels])
    if not extremes.size:
        # Without a single number, such as for padding only, any scale is right.
        extremes = np.array([0.0, 1.0])
    low, high = float(extremes.min(initial=0.0)), float(extremes.max(initial=0.0))
    if norm == "rank":
        return Rank(finite_of(panels))
    if norm == "log" and high <= 0:
        raise no_place(norm, extremes)
    # Where all are below 0, the scale ends there.
    top = top_of(*panels) if high > 0 or low == 0 else 0.0
    if norm is None or (isinstance(norm, str) and norm in MADE):
        return MADE[norm or "linear"](low, top)
    return of_matplotlib(norm, extremes)


def scales_of(
    norm: Norm, panels: Sequence[Weights], share: Share = "head", layers: Sequence[Hashable] | None = None
) -> list[Normalize]:
    """Return the scale of each panel, the same object where panels share it.

    Panels share one in any case where the scale is given as an object or is not one of `scale_of`'s own, and where
    weights below 0 leave no common start.

    Parameters
    ----------
    norm : matplotlib.colors.Normalize or str, optional
        See `scale_of`.
    panels : sequence of numpy.ndarray
        The weights of each panel, at the positions that count.
    share : {"all", "layer", "head"}
        Which panels share a scale: all; those of a layer; none.
    layers : sequence, optional
        The layer of each panel; by default they are of one.

    Raises
    ------
    OptionError
        Where `share` is not one of the three, or as `scale_of`.
    """
    if share not in get_args(Share):
        msg = f'share={share!r} is unknown; give "all", "layer" or "head": which panels share a scale.'
        raise OptionError(msg)
    own = norm is None or norm == "rank" or norm in MADE
    if share == "all" or not own or any(extremes_of(panel).min(initial=0.0) < 0 for panel in panels):
        return [scale_of(norm, panels)] * len(panels)
    groups = list(range(len(panels))) if share == "head" else list(layers or [0] * len(panels))
    found: dict[Hashable, Normalize] = {}
    for group in dict.fromkeys(groups):
        members = [panel for panel, other in zip(panels, groups, strict=True) if other == group]
        dark = norm == "log" and not any((panel > 0).any() for panel in members)
        # On a logarithmic scale, weights that are all 0 have a place below those of other panels only.
        found[group] = scale_of(norm, panels if dark else members)
    return [found[group] for group in groups]


def legend_of(norm: Norm, scales: Sequence[Normalize], label: str = LEGEND) -> tuple[Normalize, str]:
    """Return the scale and the label of the one colorbar of all panels: in fractions, where scales differ."""
    if len(set(map(id, scales))) == 1:
        return scales[0], label
    if norm == "rank":
        return Normalize(0, 1), RANK
    assert norm is None or isinstance(norm, str)
    return MADE[norm or "linear"](0.0, 1.0), FRACTION


def ranged(label: str, scales: Iterable[Normalize]) -> str:
    """Return the label of a colorbar of fractions with the range of the tops, where panels have no room for theirs."""
    tops = [float(scale.vmax) for scale in scales if scale.vmax is not None]
    return f"{label} ({short(min(tops))} to {short(max(tops))})" if label == FRACTION and tops else label


def clipped(scales: Iterable[Normalize], panels: Iterable[Any]) -> Extend:
    """Return at which ends of the scales there are weights beyond them: the colorbar has a triangle there."""
    below = above = False
    for scale, panel in zip(scales, panels, strict=True):
        values = np.ma.masked_invalid(panel).compressed()
        if values.size and scale.vmin is not None and scale.vmax is not None:
            below |= bool(values.min() < scale.vmin)
            above |= bool(values.max() > scale.vmax)
    return "both" if below and above else "min" if below else "max" if above else "neither"


def short(weight: float) -> str:
    """Return a weight in at most five characters, with two digits: ``.60``, ``.012``, ``3e-5``."""
    if not math.isfinite(weight):
        return ""
    if weight >= 0.995:  # noqa: PLR2004  # what two digits make 1
        return f"{weight:.2g}"
    if weight < 0.00095:  # noqa: PLR2004  # below, zeros would take more room than an exponent
        mantissa, _, exponent = f"{weight:.0e}".partition("e")
        return f"{mantissa}e{int(exponent)}" if weight > 0 else "0"
    return f"{weight:.{max(2, 1 - math.floor(math.log10(weight)))}f}"[1:]


def colormap_of(cmap: Cmap) -> Colormap:
    """Return a colormap, before there is a figure that would stay empty.

    Raises
    ------
    OptionError
        Where there is no such colormap.
    """
    try:
        found = ScalarMappable(cmap=cmap).get_cmap()
        return found if found.get_bad().any() else found.with_extremes(bad=PADDING)
    except (TypeError, ValueError):
        nearest = difflib.get_close_matches(str(cmap), list(colormaps), n=1)
        suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
        msg = f'cmap={cmap!r} is no colormap.{suggestion} Give the name of one of matplotlib\'s, such as "{CMAP}".'
        raise OptionError(msg) from None


def centred_scale(norm: Norm, values: Weights) -> Normalize:
    """Return the scale of differences: by default as far below 0 as above, to `top_of` their sizes.

    "sqrt" is the root of the size, with its sign. A scale given without limits gets these.

    Raises
    ------
    OptionError
        As `scale_of`; "rank" is none, for it would not have 0 in its middle.
    """
    most = top_of(np.abs(values))
    if norm is None or norm == "linear":
        return Normalize(-most, most)
    if norm == "sqrt":
        return signed_root(most)
    if norm == "rank":
        msg = 'norm="rank" ranks weights, and differences have 0 in the middle; give "linear" or "sqrt".'
        raise OptionError(msg)
    return of_matplotlib(norm, np.array([-most, most]))
