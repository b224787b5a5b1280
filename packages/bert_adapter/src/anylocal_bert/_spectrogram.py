"""A recipe over a sound: what a word, or a frame of the sound itself, attends to in it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import FuncFormatter, MaxNLocator

from anylocal.attention import AttentionMap, Patches
from anylocal.drawing import (
    BACKGROUND,
    LEGEND,
    OPACITY,
    OVER_IMAGE,
    add_colorbar,
    clipped,
    draw_overlay,
    draws,
    new_axes,
    overlay_colormap,
    scale_of,
    set_title,
    short,
    shrink,
    type_share,
)
from anylocal.errors import OptionError, ShapeError
from anylocal_bert._over_image import name_of, positions_of, rows_reading, selected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from anylocal.drawing import Cmap, Norm, Pixels

_WINDOW: Final = 0.025
"""Seconds of a window of the spectrogram that is drawn, and half of which the next one begins later."""
_QUIET: Final = 6.0
"""Orders of magnitude below the loudest that are black."""


@draws("query")
def spectrogram(
    attention: AttentionMap | Sequence[AttentionMap],
    sound: npt.ArrayLike,
    *,
    query: str | int | slice | Sequence[str | int],
    rate: float | None = None,
    written: bool = False,
    source: int = 0,
    layer: int | str | None = None,
    sample: int | None = None,
    head: int | None = None,
    norm: Norm = None,
    cmap: Cmap = OVER_IMAGE,
    alpha: float = OPACITY,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw what a word attends to in a sound, over the sound's spectrogram.

    Parameters
    ----------
    attention : AttentionMap or AttentionMaps
        The keys must be `Tokens` with a sound among their `media`. Of several maps, those whose queries are a text are
        drawn, the steps of `generate()` are joined, and the mean of the layers is drawn.
    sound : array_like, shape (samples,) or (frequencies, columns)
        The samples, or the spectrogram that the model was given.
    query : str, int, slice or sequence of them
        A token, a word, or several words in a row; a position, or a slice of positions. Several are one mean. In an
        encoder of sounds, a frame has the name of its time, such as ``"1.26 s"``.
    rate : float, optional
        Samples in a second. Without it, and where the times of the frames are not known, the samples are taken for the
        whole sound.
    written : bool
        Whether to draw the rows that wrote the query instead of those that read it.
    source : int
        Which sound of the text, counted from 0.
    layer, sample, head, norm, cmap, alpha
        See `over_image`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.
    colorbar : bool
        Whether to draw the legend of the scale.

    Returns
    -------
    matplotlib.axes.Axes
        The weights of the frames are the array of ``ax.images[1]``. Frames after the end of the sound, with which a
        model fills it up, are left out; the title tells how much of the weight is on the others.

    Raises
    ------
    StateError
        If no map has a sound among its keys.
    ShapeError
        If the sound is longer than the frames, or has neither one nor two axes.
    ChoiceError, PositionError, NameNotFoundError, OptionError
        As `over_image`; and if `rate` is not positive.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Media, Patches, Tokens
    >>> from anylocal_bert import plot
    >>> media = Media("audio", [0, 1], Patches(grid=(1, 2), prefix=()), seconds=0.5)
    >>> axis = Tokens(["<sound>", "<sound>", "an", "owl"], media=[media])
    >>> weights = torch.tensor([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.2, 0.2, 0.6, 0], [0.1, 0.5, 0.2, 0.2]])
    >>> attention = AttentionMap.from_weights(weights, queries=axis, keys=axis)
    >>> ax = plot.spectrogram(attention, torch.rand(16000), query="owl", rate=16000)
    >>> [[round(weight, 2) for weight in row] for row in ax.images[1].get_array().tolist()]
    [[0.1, 0.5]]
    """
    chosen = selected(attention, layer, sample, source, None, "spectrogram", "audio")
    positions = positions_of(chosen.queries, query, chosen.text)
    frames = np.asarray(chosen.media.picture(chosen.row(rows_reading(positions, written=written), head)))
    pixels, count = _seen(np.asarray(sound, dtype=np.float64), rate, chosen.media.seconds, frames.shape[1])
    frames = frames[:, :count]
    scale = scale_of(norm, [frames.ravel()])
    ax = new_axes(ax)
    share = type_share(ax)
    keys = Patches((1, count), prefix=(), image_size=(pixels.shape[0], pixels.shape[1]))
    drawn = draw_overlay(ax, frames.ravel(), keys, pixels, scale=scale, colours=overlay_colormap(cmap, alpha))
    _label(ax, pixels, count, chosen.media.seconds)
    if rate is not None and np.ndim(sound) == 1:
        _label_frequencies(ax, rate / 2)
    if colorbar:
        bar = add_colorbar(drawn.heat, ax, LEGEND, extend=clipped([scale], [frames]))
        bar.ax.set_facecolor(BACKGROUND)
        shrink(bar.ax, share)
    name = name_of(chosen.queries, positions, chosen.text)
    total = f"{short(float(np.nansum(frames)))} of its weight on the sound"
    lines = [*chosen.names(head), f"{'written' if written else 'query'} {name}, {total}"]
    set_title(ax, lines, share, ax.bbox.width / ax.figure.dpi, packed=True)
    return ax


def _seen(sound: npt.NDArray[np.float64], rate: float | None, seconds: float | None, frames: int) -> tuple[Pixels, int]:
    """Return the spectrogram of a sound, and how many frames it covers."""
    if rate is not None and rate <= 0:
        msg = f"rate is the samples in a second and must be positive; got {rate!r}."
        raise OptionError(msg)
    if sound.ndim not in {1, 2} or not sound.size:
        msg = f"A sound has the shape (samples,), or (frequencies, columns); got {sound.shape}."
        raise ShapeError(msg)
    if sound.ndim > 1 or rate is None or seconds is None:
        return _grey(sound if sound.ndim > 1 else _spectrum(sound, max(2, len(sound) // 200))), frames
    covered = math.ceil(len(sound) / rate / seconds - 1e-6)
    # The last samples may not be enough for a frame.
    if covered > frames + 1:
        lasts, heard = len(sound) / rate, frames * seconds
        msg = f"The sound lasts {lasts:.4g} s and the model heard {heard:.4g} s; give what it was given."
        raise ShapeError(msg)
    count = min(covered, frames)
    # To the end of the last frame.
    length = round(count * seconds * rate)
    sound = np.pad(sound[:length], (0, max(0, length - len(sound))))
    return _grey(_spectrum(sound, max(2, int(_WINDOW * rate)))), count


def _spectrum(sound: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Return the logarithm of how strong each frequency is, shape (frequencies, columns)."""
    padded = np.pad(sound, (window // 2, window))
    parts = np.lib.stride_tricks.sliding_window_view(padded, window)[: len(sound) : max(1, window // 2)]
    return np.log10(np.abs(np.fft.rfft(parts * np.hanning(window), axis=1)).T + 1e-12)


def _grey(spectrum: npt.NDArray[np.float64]) -> Pixels:
    """Return a spectrogram as an image, whose low frequencies are at the bottom."""
    top = float(spectrum.max())
    low = max(float(spectrum.min()), top - _QUIET)
    return np.clip((spectrum[::-1] - low) / ((top - low) or 1.0), 0.0, 1.0)


def _label(ax: Axes, pixels: Pixels, count: int, seconds: float | None) -> None:
    """Write times, or the numbers of frames, below a spectrogram that fills its axes."""
    ax.set_aspect("auto")
    each = pixels.shape[1] / (count * (seconds or 1.0))
    whole = MaxNLocator(6).tick_values(0, count * (seconds or 1.0))
    ax.set_xticks([tick * each for tick in whole if tick * each <= pixels.shape[1] * (1 + 1e-9)])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place / each:.4g}"))
    ax.set(xlabel="time in seconds" if seconds else "frame", ylabel="frequency")


def _label_frequencies(ax: Axes, highest: float) -> None:
    """Write frequencies beside a spectrogram that goes from 0 to the highest one, in hertz."""
    bottom, top = ax.get_ylim()
    each = (top - bottom) / highest * 1000
    whole = MaxNLocator(5).tick_values(0, highest / 1000)
    ax.set_yticks([bottom + tick * each for tick in whole if tick * 1000 <= highest * (1 + 1e-9)])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{abs(place - bottom) / abs(each):.4g}"))
    ax.set_ylabel("frequency in kHz")
