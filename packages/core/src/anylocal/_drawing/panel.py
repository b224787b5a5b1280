"""A panel of a picture of many: its weights, made as small as it is, and where its scale ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from matplotlib import rcParams
from matplotlib.patheffects import withStroke

from anylocal._drawing.scale import short
from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.transforms import Transform

    from anylocal._drawing.norms import Weights
    from anylocal._drawing.select import Flags

Reduce: TypeAlias = Literal["max", "mean"]

ROOM = 0.33
"""Inches: in narrower panels there is no room for a number."""


EXPLAINED = 0.65
"""Inches: narrower panels have the number alone, without the 1 of the colorbar that it stands for."""


@dataclass(frozen=True)
class Panel:
    """The weights of a panel, and those that its scale is for."""

    weights: Weights
    counted: Weights


def checked_reduce(reduce: Reduce) -> Reduce:
    """Return a way to make a matrix smaller.

    Raises
    ------
    OptionError
        Where there is no such way.
    """
    if reduce not in get_args(Reduce):
        msg = f'reduce={reduce!r} is unknown; give "max" or "mean": which weight stands for a block of them.'
        raise OptionError(msg)
    return reduce


def smaller(weights: Weights, queries: Flags, keys: Flags, most: int, reduce: Reduce) -> Panel:
    """Return a panel of about `most` rows and columns at most, each the maximum or the mean of neighbours.

    Positions that count and others, such as the class token, have no cell in common.
    """
    rows, columns = starts_of(queries, most), starts_of(keys, most)
    cells = shortened(shortened(weights, rows, reduce).T, columns, reduce).T
    return Panel(cells, cells[np.ix_(queries[rows], keys[columns])])


def starts_of(flags: Flags, most: int) -> list[int]:
    """Return where blocks of positions begin, about `most`; there is an edge wherever flags change."""
    together = math.ceil(len(flags) / most)
    edges = [0, *(np.flatnonzero(np.diff(flags)) + 1), len(flags)]
    starts: list[int] = []
    for start, end in pairwise(edges):
        number = math.ceil((end - start) / together)
        # Nearly as many in each: a rest by itself at the end would stand out.
        starts += [int(start + block * (end - start) // number) for block in range(number)]
    return starts


def shortened(weights: Weights, starts: Iterable[int], reduce: Reduce = "mean") -> Weights:
    """Return the maximum or the mean of the rows of each block, of those that are a number."""
    starts = list(starts)
    if len(starts) == len(weights):
        return weights
    if reduce == "max":
        found: Weights = np.fmax.reduceat(weights, starts, axis=0)
        return found
    there = ~np.isnan(weights)
    sums = np.add.reduceat(np.where(there, weights, 0), starts, axis=0)
    counts = np.add.reduceat(there, starts, axis=0, dtype=weights.dtype)
    means: Weights = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return means


def size_of_top(width: float) -> float:
    """Return the size of type of the number in a panel that is so many inches wide, 0 where there is no room for it."""
    usual = float(rcParams["font.size"])
    return 0.0 if width < ROOM * usual / 10 else min(0.7 * usual, (0.4 + 0.15 * width) * usual)


def write_top(ax: Axes, corner: tuple[float, float], scale: Normalize, width: float, transform: Transform) -> None:
    """Write where the scale of a panel that is so many inches wide ends into its upper right corner, if it has room."""
    size = size_of_top(width)
    if scale.vmax is None or not size:
        return
    text = ax.text(
        *corner,
        f"1 = {short(scale.vmax)}" if width >= EXPLAINED * rcParams["font.size"] / 10 else short(scale.vmax),
        color="white",
        fontsize=size,
        ha="right",
        va="top",
        transform=transform,
        clip_on=True,
    )
    text.set_path_effects([withStroke(linewidth=size / 4, foreground="black")])
    text.set_in_layout(False)
