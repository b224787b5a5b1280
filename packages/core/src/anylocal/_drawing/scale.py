"""The scale of a picture: limits, norms and colormaps."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize

from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable


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


def _limits(values: Weights) -> Weights:
    """Return the extremes, and those of the positive values, among which a logarithmic scale starts."""
    finite = values[np.isfinite(values)]
    parts = [part for part in (finite, finite[finite > 0]) if part.size]
    return np.array([extreme(part) for part in parts for extreme in (np.min, np.max)])
