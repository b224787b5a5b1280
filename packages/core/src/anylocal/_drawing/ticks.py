"""Ticks that say which position a row or a column is, as many as have room.

How many labels fit is known only when the axes are drawn, at their final size: the locator counts then, so that
labels keep apart in a figure of any width, and after it was resized or zoomed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from matplotlib import rcParams
from matplotlib.ticker import FuncFormatter, Locator, NullLocator

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axis import XAxis, YAxis

    from anylocal._maps.positions import Axis

LINE = 1.25
"""Room for a line of text, in font sizes."""

DIGIT = 0.65
"""Width of a digit, in font sizes; it is less in most fonts."""

PEAKS = 5
"""How many of the strongest positions are labelled beside a regular series of others."""

SLACK, ENOUGH = 0.45, 0.9
"""How far labels must be able to move together before there are more of them, and how near before all are there."""


class Spaced(Locator):
    """Ticks at whole positions, so far apart that their labels do not touch.

    Parameters
    ----------
    length : int
        Number of positions.
    room : float
        What a label takes along the axis, in font sizes.
    named : int
        The first positions, whose labels go before all others where not all have room.
    steps : iterable of int, optional
        Distances from label to label, behind the named ones, that make a regular series, the smallest first;
        any by default.
    first : iterable of int
        Positions by how much they matter: as many of them as keep apart go before all others, but no more than `PEAKS`
        before a regular series.
    """

    def __init__(
        self,
        length: int,
        *,
        room: float = LINE,
        named: int = 0,
        steps: Iterable[int] | None = None,
        first: Iterable[int] = (),
    ) -> None:
        self.length = length
        self.room = room
        self.named = named
        self.first = list(first)
        self.peaks = length if steps is None else PEAKS
        self.steps = list(range(1, length + 1) if steps is None else steps)
        self._apart_before = 0.0

    def __call__(self) -> list[int]:
        """Return the ticks within the view."""
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[int]:
        """Return the ticks between two values, in a view of that width."""
        low, high = sorted((vmin, vmax))
        apart = self._apart(high - low)
        step = next((step for step in self.steps if step >= apart), self.length)
        ticks: list[int] = []

        def add(positions: Iterable[int], most: int) -> None:
            for position in positions:
                if (
                    len(ticks) < most
                    and low <= position <= high
                    and all(abs(position - tick) >= apart for tick in ticks)
                ):
                    ticks.append(position)

        # Where all have room, none comes before others.
        add(self.first if apart > 1 else (), self.peaks)
        add((*range(self.named), *range(self.named, self.length, step)), self.length)
        return sorted(ticks)

    def _apart(self, width: float) -> float:
        """Return how many positions a label takes."""
        ruler = cast("XAxis | YAxis", self.axis)
        box = ruler.axes.bbox
        pixels = box.width if ruler.axis_name == "x" else box.height
        points = max(1.0, pixels / ruler.axes.figure.dpi * 72)
        # One tick, made here if there is none yet: asking for all would ask this locator.
        font = float(ruler.get_major_ticks(1)[0].label1.get_fontsize())
        needed = self.room * font * width / points
        # More labels, longer ones among them, would take from the axes the room that they need, and be gone at the
        # next try: more come only when there is much more room, or enough for all.
        if max(ENOUGH, SLACK * self._apart_before) < needed < self._apart_before:
            needed = self._apart_before
        self._apart_before = needed
        return needed


def name_positions(
    ruler: XAxis | YAxis,
    name: str,
    axis: Axis | None,
    shown: Sequence[int],
    *,
    text: int,
    longest: int,
    first: Iterable[int] = (),
) -> None:
    """Label an axis of a picture with what its positions are.

    Parameters
    ----------
    ruler : matplotlib.axis.Axis
        ``ax.xaxis`` or ``ax.yaxis``; its units are places in `shown`.
    name : str
        What the positions are positions of: query or key.
    axis : Axis or None
        None counts them.
    shown : sequence of int
        Which positions are drawn, in order.
    text : int
        Which text of the batch, where the axis is of texts.
    longest : int
        Most characters of a label.
    first : iterable of int
        Places in `shown`, the most important first, whose labels go before others; see `Spaced`.
    """
    patches, tokens = kinds_of(axis)
    upright = ruler.axis_name == "x" and (patches or tokens)

    def label(place: float, _: int | None = None) -> str:
        index = round(place)
        if not 0 <= index < len(shown):
            return ""
        return str(shown[index]) if axis is None else printable(axis.display(shown[index], text), longest)

    digits = 1 + len(str(max(shown, default=0)))
    ruler.set_major_locator(
        Spaced(
            len(shown),
            room=DIGIT * digits if ruler.axis_name == "x" and not upright else LINE,
            named=_named(axis, shown),
            steps=_steps(axis, shown),
            first=first,
        )
    )
    ruler.set_major_formatter(FuncFormatter(label))
    ruler.set_minor_locator(NullLocator())
    if upright:
        ruler.set_tick_params(labelrotation=90)
    ruler.set_label_text(f"{name} (row, column)" if patches else f"{name} token" if tokens else f"{name} position")


def printable(text: str, longest: int) -> str:
    """Write a label so that matplotlib draws just it: no formula, no line break, and not too long."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    short = shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
    # Where matplotlib reads no formulas, it draws the backslash as well.
    return short.replace("$", r"\$") if rcParams["text.parse_math"] else short


def kinds_of(axis: Axis | None) -> tuple[bool, bool]:
    """Tell whether the positions are patches, and whether they are tokens."""
    if axis is None:
        return False, False
    from anylocal._maps.patches import Patches
    from anylocal._maps.placed import PlacedPatches
    from anylocal._maps.tokens import Tokens

    return isinstance(axis, Patches | PlacedPatches), isinstance(axis, Tokens)


def _named(axis: Axis | None, shown: Sequence[int]) -> int:
    prefix = len(getattr(axis, "prefix", ()))
    return next((place for place, position in enumerate(shown) if position >= prefix), len(shown))


def _steps(axis: Axis | None, shown: Sequence[int]) -> list[int] | None:
    """Return the regular distances of labels: whole rows of patches or even parts of them, round numbers."""
    patches, tokens = kinds_of(axis)
    length = len(shown)
    # In a window, or in another order, rows of patches are none of the grid's.
    if tokens or hasattr(axis, "places") or list(shown) != list(range(shown[0], shown[0] + length)):
        return None
    if patches:
        columns = axis.grid[1]  # type: ignore[union-attr]  # patches have a grid
        return [*(n for n in range(1, columns) if columns % n == 0), *range(columns, length + columns, columns)]
    return [n * 10**power for power in range(len(str(length))) for n in (1, 2, 5)]
