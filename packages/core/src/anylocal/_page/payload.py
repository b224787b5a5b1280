"""The maps of layers as bytes that a browser unpacks: one byte a weight, compressed.

A byte holds the square root of a weight's share of its matrix's greatest: small weights, which most are, keep more of
their steps than an even scale would leave them, and zero stays zero. Where rows are much like the rows above them, as
those of neighbouring patches are, only their differences are kept: these compress better.
"""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from anylocal._drawing.grid import shortened
from anylocal._drawing.select import array_of
from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anylocal._drawing.scale import Weights
    from anylocal._maps.map import AttentionMap

STEPS = 255
THUMB = 40
"""Most rows and columns of a thumbnail: about as many as it has dots on a screen."""

# Little-endian, whatever the machine that writes: browsers read the bytes as they lie.
_FLOAT = np.dtype("<f4")


@dataclass(frozen=True, eq=False)
class Quantised:
    """One matrix in bytes: the weights are ``scale * (levels / 255) ** 2``."""

    levels: npt.NDArray[np.uint8]
    scale: float
    error: float


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer's matrices, compressed, and a thumbnail of each head for each sample.

    Attributes
    ----------
    text : str
        Base64 of gzip of the scales, then the levels, of (sample, window, head, query, key).
    differences : bool
        Whether the levels are those less the row above, modulo 256.
    thumbs : list of list of Quantised
        By sample and head.
    error : float
        The most that a weight read from the bytes differs from the map's.
    most : float
        The greatest weight.
    """

    text: str
    differences: bool
    thumbs: list[list[Quantised]]
    error: float
    most: float


def quantise(weights: Weights) -> Quantised:
    """Return a matrix in bytes.

    Raises
    ------
    OptionError
        Where a weight is negative, infinite or no number.
    """
    if not np.isfinite(weights).all() or weights.min(initial=0) < 0:
        msg = (
            f"The page draws weights of 0 and more, and these go from {weights.min()} to {weights.max()}; draw"
            " differences and signed maps by anylocal.plot.heatmap."
        )
        raise OptionError(msg)
    # In the precision that the browser reads it in.
    scale = np.float32(weights.max(initial=0))
    shares = np.sqrt(weights / scale) if scale > 0 else np.zeros_like(weights)
    levels = np.rint(STEPS * shares).astype(np.uint8)
    error = np.abs(scale * (levels / np.float32(STEPS)) ** 2 - weights).max(initial=0)
    return Quantised(levels, float(scale), float(error))


def pack(attention: AttentionMap, samples: Sequence[int]) -> Layer:
    """Return the matrices of some samples, in bytes; one matrix is computed at a time."""
    matrices: list[Quantised] = []
    thumbs: list[list[Quantised]] = []
    for sample in samples:
        sums: list[Weights | None] = [None] * attention.shape[1]
        for window in range(sample * attention.windows, (sample + 1) * attention.windows):
            for head, weights in enumerate(_heads(attention, window)):
                matrices.append(quantise(weights))
                before = sums[head]
                sums[head] = weights if before is None else before + weights
        thumbs.append([quantise(_thumb(total / attention.windows)) for total in sums if total is not None])
    differences = _alike(matrices[len(matrices) // 2].levels)
    return Layer(
        compressed(matrices, differences=differences),
        differences,
        thumbs,
        max((matrix.error for matrix in matrices), default=0.0),
        max((matrix.scale for matrix in matrices), default=0.0),
    )


def compressed(matrices: Iterable[Quantised], *, differences: bool = False) -> str:
    """Return the scales, then the levels, of matrices: gzip in base64."""
    matrices = list(matrices)
    scales = np.array([matrix.scale for matrix in matrices], dtype=_FLOAT)
    levels = (_less_above(matrix.levels) if differences else matrix.levels for matrix in matrices)
    content = b"".join([scales.tobytes(), *(matrix.tobytes() for matrix in levels)])
    # No time of day in it: the same maps make the same page.
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode("ascii")


def _less_above(levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.diff(levels, axis=0, prepend=np.uint8(0))


def _alike(levels: npt.NDArray[np.uint8]) -> bool:
    """Return whether a matrix compresses better as the differences of its rows."""
    return len(gzip.compress(_less_above(levels).tobytes())) < len(gzip.compress(levels.tobytes()))


def _heads(attention: AttentionMap, window: int) -> Iterable[Weights]:
    with torch.no_grad():
        for head in range(attention.shape[1]):
            yield array_of(attention[window, head])


def _thumb(weights: Weights) -> Weights:
    return shortened(shortened(weights, THUMB).T, THUMB).T
