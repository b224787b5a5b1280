"""Settings of matplotlib for a paper."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from matplotlib import rc_context

from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

Style: TypeAlias = Literal["paper"]

WIDTHS = {1: 3.25, 2: 6.75}
"""Inches, by the columns of a page that a figure spans."""

TYPE = 8
"""Points: near that of captions, and half of it can still be read."""


@contextmanager
def style(name: Style, *, columns: int = 1) -> Iterator[None]:
    """Draw for a paper inside the ``with`` block: as wide as its columns, in small type, crisp in vector formats.

    Figures are 3.25 or 6.75 inches wide and have 8 point type, which stays text in PDF and SVG, and thin lines. Cells
    of matrices are drawn as they are, without resampling: they are crisp at any zoom. A PDF or SVG of `heads` or of
    `model` stays below 1 MB, for which neighbours share a cell where there are many (see `heads`). Draw and save inside
    the block. PNG is saved at 600 dots an inch, so that cells share no dot.

    Parameters
    ----------
    name : {"paper"}
    columns : {1, 2}
        How many columns of the page a figure spans.

    Raises
    ------
    OptionError
        Where there is no such style, or a figure cannot span so many columns.

    Examples
    --------
    >>> import torch
    >>> from anylocal import plot
    >>> from anylocal.attention import AttentionMap
    >>> attention = AttentionMap.from_weights(torch.rand(1, 3, 4, 4).softmax(-1))
    >>> with plot.style("paper", columns=2):
    ...     figure = plot.heads(attention)
    >>> float(figure.get_figwidth())
    6.75
    """
    if name != "paper":
        msg = f'style={name!r} is unknown; give "paper".'
        raise OptionError(msg)
    if columns not in WIDTHS:
        msg = f"columns={columns!r} is no width of a figure in a paper; give 1 ({WIDTHS[1]} inches) or 2 ({WIDTHS[2]})."
        raise OptionError(msg)
    width = WIDTHS[columns]
    thin = 0.6
    settings: dict[str, Any] = {
        "figure.figsize": (width, 0.75 * width),
        "figure.dpi": 150,
        "savefig.dpi": 600,
        "font.size": TYPE,
        **dict.fromkeys(("axes.titlesize", "axes.labelsize", "figure.titlesize", "legend.title_fontsize"), TYPE),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), TYPE - 1),
        **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), thin),
        **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
        "axes.titlepad": 4,
        "axes.labelpad": 2,
        "lines.linewidth": 1,
        "lines.markersize": 4,
        "image.interpolation": "none",
        # Text that can be searched and edited, and in the font of the paper.
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
    }
    with rc_context(settings):  # type: ignore[arg-type]  # its keys are typed as literals
        yield
