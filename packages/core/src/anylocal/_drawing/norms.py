"""How a scale runs between its ends: evenly, by the root, the logarithm or the rank, or as matplotlib knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm, LogNorm, Normalize, PowerNorm

from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable

Weights: TypeAlias = npt.NDArray[np.floating[Any]]
Norm: TypeAlias = Normalize | str | None

DECADES = 1e3
"""How far a logarithmic scale reaches down from its top."""

KNOTS = 4096
"""Most values that a scale by rank remembers."""


class Rank(Normalize):
    """The scale by rank: equal shares of some values lie in equal parts of it.

    Parameters
    ----------
    values : numpy.ndarray
        The values that are ranked, of any shape; NaN counts as absent.
    """

    def __init__(self, values: Weights) -> None:
        known = np.sort(finite_of([values]))
        if known.size > KNOTS:
            known = known[np.linspace(0, known.size - 1, KNOTS).astype(int)]
        # Where several are equal, the number of smaller ones: no attention at all is the bottom of the scale.
        self.knots, smaller = np.unique(known, return_index=True)
        if len(self.knots) < 2:  # noqa: PLR2004  # a scale has two ends
            self.knots = np.array([0.0, known[0] if known.size and known[0] > 0 else 1.0])
            smaller = np.array([0, 1])
        self.ranks = smaller / smaller[-1]
        super().__init__(float(self.knots[0]), float(self.knots[-1]))

    def __call__(self, value: Any, clip: bool | None = None) -> Any:  # noqa: FBT001  # as Normalize has it
        """Return the ranks of values, between 0 and 1."""
        del clip
        values, is_scalar = self.process_value(value)
        ranks = np.interp(values.filled(self.knots[0]), self.knots, self.ranks)
        masked = np.ma.array(ranks, mask=np.ma.getmaskarray(values))
        return masked[0] if is_scalar else masked

    def inverse(self, value: Any) -> Any:
        """Return the values of ranks."""
        return np.interp(value, self.ranks, self.knots)


def signed_root(most: float) -> Normalize:
    """Return the scale by the root of the size, with its sign, as far below 0 as above."""
    return FuncNorm((_root, lambda root: root * np.abs(root)), -most, most)


def _root(values: Weights) -> Weights:
    return np.sign(values) * np.sqrt(np.abs(values))


MADE: dict[str, Callable[[float, float], Normalize]] = {
    "linear": Normalize,
    "sqrt": lambda low, top: PowerNorm(0.5, low, top),
    # Clipped: without attention, a cell is as dark as the bottom of the scale, and not empty.
    "log": lambda _, top: LogNorm(top / DECADES, top, clip=True),
}
"""The scales from a start to a top that have a name here."""


def named(label: str, norm: Norm) -> str:
    """Return the label of a colorbar with the name of the scale, where its ticks alone do not tell it."""
    return f"{label}\n(square-root scale)" if norm == "sqrt" else label


def of_matplotlib(norm: Norm, limits: Weights) -> Normalize:
    """Return a given scale, or the one of a name that matplotlib knows, with its limits."""
    mappable = ScalarMappable()
    try:
        mappable.norm = norm
    except (TypeError, ValueError):
        msg = (
            f'norm={norm!r} is no scale; give "linear", "sqrt", "log", "rank", another name that matplotlib knows, or '
            "an object of matplotlib.colors, such as PowerNorm(0.3)."
        )
        raise OptionError(msg) from None
    scale = cast("Normalize", mappable.norm)
    try:
        scale.autoscale_None(limits)
        # Raise now what matplotlib would while it draws, when a figure is there already.
        scale(np.array([scale.vmin, scale.vmax]))
        # A scale of no width takes any value for its start, and the colorbar then asks for it.
        if scale.vmin == scale.vmax:
            scale.inverse(0.5)
    except ValueError:
        raise no_place(norm, limits) from None
    return scale


def no_place(norm: Norm, limits: Weights) -> OptionError:
    """Return the error that a scale cannot hold weights."""
    name = repr(norm) if isinstance(norm, str) else type(norm).__name__
    return OptionError(
        f"norm={name} has no place for weights from {limits.min():g} to {limits.max():g}; "
        "leave it out, or give one with limits, such as matplotlib.colors.LogNorm(1e-3, 1)."
    )


def finite_of(panels: Iterable[Weights]) -> Weights:
    """Return all values that are numbers."""
    return np.concatenate([panel[np.isfinite(panel)] for panel in panels])


def extremes_of(values: Weights) -> Weights:
    """Return the extremes, and those of the positive values, among which a logarithmic scale starts."""
    finite = values[np.isfinite(values)]
    parts = [part for part in (finite, finite[finite > 0]) if part.size]
    return np.array([extreme(part) for part in parts for extreme in (np.min, np.max)])
