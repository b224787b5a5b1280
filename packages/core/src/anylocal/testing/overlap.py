"""What overlaps in a picture, or reaches beyond its edge."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox


def overlaps(figure: Figure, slack: float = 1.0) -> list[str]:
    """Return which axes and texts of a figure overlap, or are beyond its edges, one message for each.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    slack : float
        By how many dots they may.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from anylocal.testing import overlaps
    >>> figure = Figure()
    >>> ax = figure.add_axes((0.2, 0.2, 0.5, 0.5), title="title")
    >>> overlaps(figure)
    []
    """
    found = [(name, box, owner) for name, box, owner in _boxes(figure) if name and box.width > 0 and box.height > 0]
    wrong = []
    for (one, here, owner), (two, there, other) in combinations(found, 2):
        across = min(here.x1, there.x1) - max(here.x0, there.x0)
        upwards = min(here.y1, there.y1) - max(here.y0, there.y0)
        if min(across, upwards) > slack and (owner is None or owner is not other):
            wrong.append(f"{one!r} and {two!r} by {across:.0f} x {upwards:.0f}")
    outside = [
        f"{name!r} is outside"
        for name, box, _ in found
        if box.x0 < -slack or box.y0 < -slack or box.x1 > figure.bbox.x1 + slack or box.y1 > figure.bbox.y1 + slack
    ]
    return wrong + outside


def _boxes(figure: Figure) -> Iterator[tuple[str, Bbox, object]]:
    """Yield what is drawn and where: axes and texts, and the axes in which a text is to be."""
    figure.draw_without_rendering()
    axes = [*figure.axes, *(inset for ax in figure.axes for inset in ax.child_axes)]
    for number, ax in enumerate(axes):
        yield f"axes {number}", ax.get_window_extent(), ax
        for ruler in (ax.xaxis, ax.yaxis):
            yield from ((label, box, None) for label, box in _labels(ruler))
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
            yield text.get_text(), text.get_window_extent(), None
        for text in ax.texts:
            yield text.get_text(), text.get_window_extent(), ax
    for text in figure.texts:
        yield text.get_text(), text.get_window_extent(), None


def _labels(ruler: Axis) -> Iterator[tuple[str, Bbox]]:
    low, high = sorted(ruler.get_view_interval())
    for tick in ruler.get_major_ticks():
        if low <= tick.get_loc() <= high:
            for label in (tick.label1, tick.label2):
                if label.get_visible():
                    yield label.get_text(), label.get_window_extent()
