"""The maps of layers as compressed bytes for a browser: one byte a weight.

A byte holds the square root of a weight divided by the greatest of its matrix: most weights are small, and keep more
steps than on a linear scale, and zero stays zero. If rows are similar to the rows above them, as those of neighbouring
patches are, only the differences are stored, which compress better.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from anylocal._drawing.panel import Panel, smaller
from anylocal._drawing.scale import top_of
from anylocal._drawing.select import array_of, counted_of, mean_of
from anylocal._maps.bounds import place_of
from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anylocal._drawing.norms import Weights
    from anylocal._drawing.select import Flags
    from anylocal._maps.map import AttentionMap

STEPS = 255
THUMB = 40
"""Most rows and columns of a thumbnail, about its size in pixels on a screen; class tokens and others that do not count
have rows and columns of their own."""

# Little-endian on every machine, as the page's script expects.
_FLOAT = np.dtype("<f4")


@dataclass(frozen=True, eq=False)
class Quantised:
    """A matrix in bytes: the weights are ``scale * (levels / 255) ** 2``."""

    levels: npt.NDArray[np.uint8]
    scale: float
    error: float


@dataclass(frozen=True, eq=False)
class Thumb(Panel):
    """A head made smaller, and where its scale ends."""

    top: float


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer's matrices, compressed, and a thumbnail of each head for each sample.

    Attributes
    ----------
    text : str
        Base64 of gzip of the scales, then the levels, of (sample, window, head, query, key).
    thumbs : list of list of Thumb
        By sample and head.
    error : float
        The largest difference between a weight read from the bytes and the map's.
    tops : list of float
        Where a scale that all heads share ends, for each sample.
    differences : bool
        Whether the levels are differences from the row above, modulo 256.
    operands : dict, optional
        How query and key are stored if the text holds these instead: see `anylocal._page.computed`.
    """

    text: str
    thumbs: list[list[Thumb]]
    error: float
    tops: list[float]
    differences: bool = False
    operands: dict[str, Any] | None = None


def quantise(weights: Weights) -> Quantised:
    """Return a matrix in bytes; refuse negative, infinite and NaN weights, and those beyond what a browser reads."""
    if weights.max(initial=0) > np.finfo(_FLOAT).max and np.isfinite(weights).all():
        msg = (
            f"The page reads weights as float32, and these go up to {weights.max()}; divide them by their maximum, or"
            " draw them with anylocal.plot.heatmap."
        )
        raise OptionError(msg)
    if not np.isfinite(weights).all() or weights.min(initial=0) < 0:
        msg = (
            f"The page draws non-negative weights, and these go from {weights.min()} to {weights.max()}; draw signed"
            " maps and differences with anylocal.plot.heatmap."
        )
        raise OptionError(msg)
    # In the precision in which the browser reads it.
    scale = np.float32(weights.max(initial=0))
    shares = np.sqrt(weights / scale) if scale > 0 else np.zeros_like(weights)
    levels = np.rint(STEPS * shares).astype(np.uint8)
    error = np.abs(scale * (levels / np.float32(STEPS)) ** 2 - weights).max(initial=0)
    return Quantised(levels, float(scale), float(error))


def pack(attention: AttentionMap, samples: Sequence[int]) -> Layer:
    """Return the matrices of some samples in bytes, computed one at a time."""
    matrices: list[Quantised] = []
    thumbs: list[list[Thumb]] = []
    tops: list[float] = []
    for sample in samples:
        windows = range(sample * attention.windows, (sample + 1) * attention.windows)
        flags = [flags_of(attention, window) for window in windows]
        weights = [list(_heads(attention, window)) for window in windows]
        matrices += [quantise(head) for heads in weights for head in heads]
        counted = [[head[np.ix_(*each)] for head in heads] for heads, each in zip(weights, flags, strict=True)]
        tops.append(top_of(*itertools.chain.from_iterable(counted)))
        # By head, of all windows.
        pairs = zip(zip(*weights, strict=True), zip(*counted, strict=True), strict=True)
        thumbs.append([_thumb(head, flags[0], top_of(*each)) for head, each in pairs])
    differences = _is_smooth(matrices[len(matrices) // 2].levels)
    return Layer(
        compressed(matrices, differences=differences),
        thumbs,
        max((matrix.error for matrix in matrices), default=0.0),
        tops,
        differences,
    )


def compressed(matrices: Iterable[Quantised], *, differences: bool = False) -> str:
    """Return the scales, then the levels, of matrices, as base64 of gzip."""
    matrices = list(matrices)
    scales = np.array([matrix.scale for matrix in matrices], dtype=_FLOAT)
    levels = (_row_differences(matrix.levels) if differences else matrix.levels for matrix in matrices)
    return text_of([scales.tobytes(), *(matrix.tobytes() for matrix in levels)])


def thumbs_text(layers: Iterable[Layer]) -> str:
    """Return the thumbnails of all layers, compressed."""
    return compressed([quantise(head.weights) for layer in layers for sample in layer.thumbs for head in sample])


def text_of(parts: Iterable[bytes], *, huffman: bool = False) -> str:
    """Return bytes as base64 of gzip; `huffman` is for numbers that do not repeat, and takes a tenth of the time."""
    strategy = zlib.Z_HUFFMAN_ONLY if huffman else zlib.Z_DEFAULT_STRATEGY
    # In gzip's format without a timestamp, so that the same maps make the same page.
    stream = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS + 16, strategy=strategy)
    made = b"".join([*map(stream.compress, parts), stream.flush()])
    return base64.b64encode(made).decode("ascii")


def _row_differences(levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.diff(levels, axis=0, prepend=np.uint8(0))


def _is_smooth(levels: npt.NDArray[np.uint8]) -> bool:
    """Return whether a matrix compresses better as differences of rows."""
    return len(gzip.compress(_row_differences(levels).tobytes())) < len(gzip.compress(levels.tobytes()))


def _heads(attention: AttentionMap, window: int) -> Iterable[Weights]:
    with torch.no_grad():
        for head in range(attention.shape[1]):
            yield array_of(attention[window, head])


def _thumb(windows: Sequence[Weights], flags: tuple[Flags, Flags], top: float) -> Thumb:
    """Return the thumbnail of a head whose scale ends at `top`."""
    panel = smaller(mean_of(windows), *flags, THUMB, "mean")
    # A sink of one column is wider in a thumbnail: wider, perhaps, than what its scale would leave out.
    return Thumb(panel.weights, panel.counted, min(top, top_of(panel.counted)))


def flags_of(attention: AttentionMap, window: int) -> tuple[Flags, Flags]:
    """Return which queries and which keys the scale is for."""
    text = place_of(attention, window)
    return counted_of(attention.queries, range(attention.shape[2]), text), counted_of(
        attention.keys, range(attention.shape[3]), text
    )
