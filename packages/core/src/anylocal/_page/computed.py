"""Query and key of layers as compressed bytes for a browser, which computes rows from them when they are asked for.

They are stored in as few bits as keep the error small. The logarithm of each row's sum is stored as well, so that a
column costs no more than a row.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from anylocal._drawing.panel import starts_of
from anylocal._drawing.scale import top_of
from anylocal._maps.rows import chunks
from anylocal._page.operands import operands_of
from anylocal._page.payload import THUMB, Layer, Thumb, flags_of, text_of
from anylocal._page.rounded import Rounded, weights_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from anylocal._drawing.norms import Weights
    from anylocal._drawing.select import Flags
    from anylocal._maps.map import AttentionMap
    from anylocal._page.operands import Operands

SAMPLED: Final = 64
"""Rows of each head that are compared with the map's own."""

CLOSE: Final = 0.005
"""Numbers get more bits until no sampled weight is off by more than this, relative to the largest of its row."""

MARGIN: Final = 2
"""How many times the largest error in the sampled rows the page states: other rows may be worse. In DINOv2, the largest
error in all rows of a layer is 1 to 2.5 times that in its sampled rows, and 1.8 times over all layers."""

_BYTE: Final = 8
_BITS: Final = range(8, 17)
"""How many bits a number may have."""

_TRIED: Final = 12
"""How many bits are tried first."""

_CACHED: Final = 2**19
"""Scores that are computed together: as many as a processor's cache has room for."""


def pack_operands(attention: AttentionMap, samples: Sequence[int]) -> Layer | None:
    """Return a layer as query and key, for its chosen samples; None if its map must be stored, or is small."""
    windows = attention.windows
    batch = [place for sample in samples for place in range(sample * windows, (sample + 1) * windows)]
    with torch.no_grad():
        found = operands_of(attention, batch)
        return None if found is None else _pack(attention, batch, found)


@dataclass(frozen=True, eq=False)
class Sampled:
    """Some rows of a place of the batch, as the map has them, (head, query, key); and what counts for its scale."""

    picks: torch.Tensor
    exact: torch.Tensor
    flags: tuple[Flags, Flags]

    @classmethod
    def of(cls, attention: AttentionMap, place: int) -> Sampled:
        """Sample the rows that the scale is for, and a few others if there are any."""
        flags = flags_of(attention, place)
        parts = [np.flatnonzero(flags[0]), np.flatnonzero(~flags[0])[: SAMPLED // 4]]
        few = parts[0][np.linspace(0, len(parts[0]) - 1, min(SAMPLED - len(parts[1]), len(parts[0]))).astype(int)]
        picks = torch.from_numpy(np.sort(np.concatenate([few, parts[1]])))
        whole = slice(place, place + 1), slice(None), picks.to(attention.device)
        return cls(picks, attention.rows.take(*whole)[0].to("cpu", torch.float32), flags)

    @property
    def counted(self) -> list[Weights]:
        """What the scale is for, of each head."""
        rows, keys = self.flags[0][self.picks.numpy()], self.flags[1]
        return [head[np.ix_(rows, keys)] for head in self.exact.numpy()]

    def errors(self, rounded: Rounded) -> tuple[float, float]:
        """Return the largest error of a weight, and the largest relative to the largest weight of its row."""
        off = (rounded.rows(self.picks) - self.exact).abs().amax(-1)
        most = self.exact.amax(-1)
        return float(off.max()), float((off / most.where(most > 0, 1.0)).max())


def _pack(attention: AttentionMap, batch: Sequence[int], found: Sequence[Operands]) -> Layer:
    sampled = [Sampled.of(attention, place) for place in batch]
    bits, rounded, error, relative = _close(found, sampled)
    sums, cells = zip(*(_read(each, own.flags) for each, own in zip(rounded, sampled, strict=True)), strict=True)
    thumbs, tops = [], []
    for first in range(0, len(batch), attention.windows):
        part = slice(first, first + attention.windows)
        by_head = list(zip(*(own.counted for own in sampled[part]), strict=True))
        tops.append(top_of(*itertools.chain.from_iterable(by_head)))
        means = torch.stack(cells[part]).mean(0).numpy()
        thumbs.append([thumb_of(*each, sampled[first].flags) for each in zip(means, by_head, strict=True)])
    form = {
        "bits": bits,
        "features": found[0].q.shape[-1],
        "groups": len(found[0].k),
        "scale": found[0].scale,
        "biased": any(bool((each.bias[each.bias.isfinite()] != 0).any()) for each in found),
        "spans": any(each.spans is not None for each in found),
        "relative": MARGIN * relative,
    }
    return Layer(text_of(_sections(rounded, sums, bits), huffman=True), thumbs, MARGIN * error, tops, operands=form)


def _close(found: Sequence[Operands], sampled: Sequence[Sampled]) -> tuple[int, list[Rounded], float, float]:
    """Return the operands in as few bits as are close enough, and their errors."""
    made = _in_bits(_TRIED, found, sampled)
    # Each bit halves the error, more or less.
    more = math.ceil(math.log2(max(made[-1], 2.0**-_BYTE * CLOSE) / CLOSE))
    if more == 0:
        return made
    for bits in _BITS[max(0, min(_TRIED + more - _BITS[0], len(_BITS) - 1)) :]:
        made = _in_bits(bits, found, sampled)
        if made[-1] <= CLOSE:
            break
    return made


def _in_bits(
    bits: int, found: Sequence[Operands], sampled: Sequence[Sampled]
) -> tuple[int, list[Rounded], float, float]:
    rounded = [Rounded.of(each, bits) for each in found]
    errors = [own.errors(each) for own, each in zip(sampled, rounded, strict=True)]
    error, relative = (max(each) for each in zip(*errors, strict=True))
    return bits, rounded, error, relative


def _read(rounded: Rounded, flags: tuple[Flags, Flags]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logarithms of the sums of all rows, and the thumbnails, (head, row, column), block by block."""
    heads, queries, keys = rounded.q.levels.shape[0], len(flags[0]), len(flags[1])
    to_rows, to_columns = (means_of(starts_of(side, THUMB), len(side)) for side in flags)
    sums = torch.empty(heads, queries)
    cells = torch.zeros(heads, to_rows.shape[1], to_columns.shape[1])
    for head, part in itertools.product(range(heads), chunks(slice(None), queries, max(1, _CACHED // keys))):
        scores = rounded.scores(head, part)
        weights = weights_of(scores)
        # Of a row without any key, it is infinite.
        sums[head, part] = (scores.amax(-1) - weights.amax(-1).log()).nan_to_num(math.inf, posinf=math.inf)
        # Only some rows of the thumbnail get anything of this block.
        own = to_rows[part].mT
        touched = own.any(1)
        cells[head, touched] += own[touched] @ weights @ to_columns
    return sums, cells


def means_of(starts: Sequence[int], length: int) -> torch.Tensor:
    """Return the matrix, (position, block), of which a product takes the mean of each block."""
    ends = [*starts[1:], length]
    made = torch.zeros(length, len(starts))
    for block, (start, end) in enumerate(zip(starts, ends, strict=True)):
        made[start:end, block] = 1 / (end - start)
    return made


def thumb_of(cells: Weights, counted: Sequence[Weights], flags: tuple[Flags, Flags]) -> Thumb:
    rows, columns = (side[starts_of(side, THUMB)] for side in flags)
    own = cells[np.ix_(rows, columns)]
    return Thumb(cells, own, min(top_of(*counted), top_of(own)))


def _sections(rounded: Sequence[Rounded], sums: Sequence[torch.Tensor], bits: int) -> Iterator[bytes]:
    """Yield what `js/rows.js` reads, in its order: numbers of four bytes first, then the levels by their bytes."""
    yield from (_four(each) for each in sums)
    yield from (_four(each.bias) for each in rounded)
    for side in ([each.q for each in rounded], [each.k for each in rounded]):
        yield from (_four(each.mean) for each in side)
        yield from (_four(each.step) for each in side)
    if any(each.spans is not None for each in rounded):
        queries, keys = rounded[0].q.levels.shape[1], rounded[0].k.levels.shape[1]
        every = torch.tensor([[0], [keys]]).expand(2, queries)
        yield from ((every if each.spans is None else each.spans).numpy().astype("<i4").tobytes() for each in rounded)
    levels = [side.levels.to(torch.int16).numpy() for each in rounded for side in (each.q, each.k)]
    low = bits - _BYTE
    # The high bytes are alike, and compress; the low ones do not.
    yield from ((each >> low).astype(np.int8).tobytes() for each in levels)
    if low:
        rest = np.concatenate([(each & (2**low - 1)).astype(np.uint8).ravel() for each in levels])
        yield _joined(rest, low)


def _four(values: torch.Tensor) -> bytes:
    return values.contiguous().numpy().astype("<f4").tobytes()


def _joined(values: npt.NDArray[np.uint8], bits: int) -> bytes:
    """Return values of a few bits each, the lowest first, without a gap; and a byte, since two are read together."""
    made = np.unpackbits(values[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(made, bitorder="little").tobytes() + b"\0"
