"""The rows of an attention map: either stored, or computed from query and key when they are asked for.

A source of rows has a shape (batch, head, query, key) and a method `take`, which picks along the first three axes
*before* anything of the size of the map exists. The softmax needs complete rows, so picking along the key axis comes
last and is left to the caller. Who goes through many queries block by block takes a `reader`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

from anylocal.errors import ChangedInPlaceWarning, OptionError, ShapeError, level_of_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Pick: TypeAlias = slice | torch.Tensor
"""A slice with a positive step, or a 1-D tensor of non-negative positions."""

Shape: TypeAlias = tuple[int, int, int, int]

Reader: TypeAlias = "Callable[[Pick], torch.Tensor]"
"""Returns the rows of the queries picked, shape (batch', head', query', key)."""

_BLOCK = 2**22
"""Elements of a map computed at a time: 16 MiB in float32, little compared to a model; smaller blocks are slower."""

_SMALL = 2**13
"""Elements of operands that are copied faster than a product of them alone is started."""


class Rows(Protocol):
    """A source of rows."""

    shape: Shape
    dtype: torch.dtype
    device: torch.device

    def take(self, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        """Return the rows picked, shape (batch', head', query', key)."""

    def reader(self, batch: Pick, heads: Pick) -> Reader:
        """Return a function of the queries alone; what all of them need is prepared once."""

    def cpu(self) -> Rows:
        """Return the same rows from copies in CPU memory."""


class StoredRows:
    """Rows that are already computed: a view of the weights."""

    def __init__(self, weights: torch.Tensor) -> None:
        # For gradients: a view of it is another tensor.
        self.given = weights
        self.weights = promoted(weights, "weights")
        batch, heads, queries, keys = self.weights.shape
        self.shape: Shape = (batch, heads, queries, keys)
        self.dtype = weights.dtype
        self.device = weights.device

    def take(self, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        """Return the rows picked, shape (batch', head', query', key); a view if all picks are slices."""
        return picked(self.weights, batch, heads, queries)

    def reader(self, batch: Pick, heads: Pick) -> Reader:
        """Return a function of the queries alone."""
        return functools.partial(self.take, batch, heads)

    def cpu(self) -> StoredRows:
        """Return the same rows from a copy in CPU memory."""
        return StoredRows(compact(self.weights))


class LazyRows:
    """Rows computed as a softmax of operands, which are kept as they are until some rows are asked for."""

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float | None,
        causal: bool,  # noqa: FBT001  # the kernel's own signature
    ) -> None:
        self.q, self.k = promoted(q, "q"), promoted(k, "k")
        batch, heads, queries, features = self.q.shape
        self.shape: Shape = (batch, heads, queries, self.k.shape[2])
        self._check()
        self.mask = None if mask is None else _mask(mask, self.shape)
        self.scale = 1 / math.sqrt(features) if scale is None else scale
        self.causal = causal
        self.device = q.device
        self._watch(self.q, self.k, self.mask)
        self.dtype = float_type(*(operand.dtype for operand in self._operands))

    def _watch(self, *operands: torch.Tensor | None) -> None:
        """Warn when rows are read after one of these was changed in place."""
        self._operands = [operand for operand in operands if operand is not None]
        self._versions = [_version(operand) for operand in self._operands]

    # The version counters of a copy start at zero again.

    def __getstate__(self) -> dict[str, Any]:
        """Return the state, with a flag for each operand instead of its version: whether it is unchanged."""
        pairs = zip(self._operands, self._versions, strict=True)
        return {**vars(self), "_versions": [_version(operand) == version for operand, version in pairs]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state; operands that were changed before count as changed."""
        vars(self).update(state)
        pairs = zip(self._operands, state["_versions"], strict=True)
        self._versions = [_version(operand) if unchanged else -1 for operand, unchanged in pairs]

    def _check(self) -> None:
        q, k = tuple(self.q.shape), tuple(self.k.shape)
        if q[3] != k[3] or k[0] not in {1, q[0]} or k[1] == 0 or q[1] % k[1] or not q[3]:
            msg = (
                f"q of shape {q} and k of shape {k} make no attention map: both must be (batch, head, position, "
                "feature), with the same features, and k with q's batch or 1 and a number of heads that divides q's."
            )
            raise ShapeError(msg)

    def take(self, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        """Return the rows picked, shape (batch', head', query', key), in float32 or float64."""
        return self._read(self._keys(batch, heads), batch, heads, queries)

    def reader(self, batch: Pick, heads: Pick) -> Reader:
        """Return a function of the queries alone; the keys are converted once."""
        k = self._keys(batch, heads).to(self.dtype)
        return lambda queries: self._read(k, batch, heads, queries)

    def _keys(self, batch: Pick, heads: Pick) -> torch.Tensor:
        if [_version(operand) for operand in self._operands] != self._versions:
            msg = (
                "q, k or the mask of an attention map was changed in place after the map was made, so the map shows "
                "the new values; make it from clones, or read it earlier."
            )
            warnings.warn(ChangedInPlaceWarning(msg), stacklevel=level_of_user())
        return fitting(self.k, batch, self._key_heads(heads))

    def _read(self, k: torch.Tensor, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        with exactly(self.device):
            q = picked(self.q, batch, heads, queries).to(self.dtype)
            # The product is scaled, not q: bf16 and fp16 operands then stay exact even if the user lets float32
            # products run in TF32.
            return self._softmax(_products(q, k).mul_(self.scale), batch, heads, queries)

    def _softmax(self, scores: torch.Tensor, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        """Return the softmax of the scores of the rows picked, which it may change."""
        if self.causal:
            scores = scores.masked_fill_(~self._causal(queries), -math.inf)
        if self.mask is None:
            return _softmax(scores)
        return _masked(scores, fitting(self.mask, batch, heads, queries))

    def cpu(self) -> LazyRows:
        """Return the same rows from copies in CPU memory."""
        mask = None if self.mask is None else compact(self.mask)
        return LazyRows(compact(self.q), compact(self.k), mask, self.scale, self.causal)

    def _key_heads(self, heads: Pick) -> Pick:
        """Return the key heads of the query heads picked; neighbouring query heads share one."""
        every = range(self.shape[1])
        group = len(every) // self.k.shape[1]
        if group == 1:
            return heads
        whole = isinstance(heads, slice) and every[heads] == every
        return slice(None) if whole else positions(heads, len(every), self.device) // group

    def _causal(self, queries: Pick) -> torch.Tensor:
        """Return which keys take part in the rows picked: aligned top left, as SDPA's `is_causal`."""
        rows = positions(queries, self.shape[2], self.device)
        return rows[:, None] >= torch.arange(self.shape[3], device=self.device)


def _products(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Multiply q, (batch, head, query, feature), with the keys of each head's group: (batch, head, query, key)."""
    batch, heads, queries, features = q.shape
    groups, keys = k.shape[1:3]
    # The heads of a group become rows of one product: repeating the keys would cost as much as the product.
    rows = q.reshape(batch, groups, heads // max(groups, 1) * queries, features)
    if k.dtype != q.dtype and k.numel() > _BLOCK:
        made = rows.new_empty(*rows.shape[:3], keys)
        # Long keys in half precision may take far more memory in float32 than the rows: they are converted in parts.
        for group in range(groups):
            for part in chunks(slice(None), keys, max(1, _BLOCK // features)):
                made[:, group, :, part] = rows[:, group] @ k[:, group, part].to(q.dtype).mT
    else:
        made = _products_of_pairs(rows, k.to(q.dtype).expand(batch, -1, -1, -1))
    return made.reshape(batch, heads, queries, keys)


def _products_of_pairs(rows: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Multiply each of (batch, head, row, feature) with its keys, (batch, head, key, feature)."""
    is_plain = rows.device.type == "cpu" and type(rows) is type(k) is torch.Tensor
    is_small = rows[0].numel() + k[0].numel() < _SMALL if len(rows) else True
    has_graph = torch.is_grad_enabled() and (rows.requires_grad or k.requires_grad)
    if not is_plain or is_small or has_graph or not (_is_scattered(rows) or _is_scattered(k)):
        together = torch.bmm(rows.flatten(0, 1), k.flatten(0, 1).mT)
        return together.view(*rows.shape[:3], k.shape[2])
    # A product of all samples would first copy what lies apart, such as views of a buffer of q, k and v, into memory
    # that takes as long to get as the product takes.
    made = rows.new_empty(*rows.shape[:3], k.shape[2])
    for own, of_rows, of_k in zip(made, rows, k, strict=True):
        torch.bmm(of_rows, of_k.mT, out=own)
    return made


def _is_scattered(tensor: torch.Tensor) -> bool:
    """Return whether the heads of all samples are not at equal distances in memory."""
    return tensor.stride(0) != tensor.shape[1] * tensor.stride(1) and 1 not in tensor.shape[:2]


class SideBySide:
    """Joins parts along an axis, which has so many positions in all; `joined` is what came so far.

    Each is copied as it comes: small results that stay between the large blocks, which go, would break up the memory,
    so that no later block fits where one has been.
    """

    def __init__(self, axis: int, length: int) -> None:
        self._axis = axis
        self._length = length
        self._done = 0
        self.joined = torch.empty(0)

    def add(self, part: torch.Tensor) -> None:
        """Copy the next part."""
        if not self._done:
            self.joined = part.new_empty(*part.shape[: self._axis], self._length, *part.shape[self._axis + 1 :])
        size = part.shape[self._axis]
        self.joined.narrow(self._axis, self._done, size).copy_(part)
        self._done += size


def side_by_side(parts: Iterable[torch.Tensor], axis: int, length: int) -> torch.Tensor:
    """Join parts along an axis, which has so many positions in all; see `SideBySide`."""
    made = SideBySide(axis, length)
    for part in parts:
        made.add(part)
    return made.joined


def _masked(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return safe_softmax(scores.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else scores.add_(mask))


def safe_softmax(scores: torch.Tensor) -> torch.Tensor:
    """Return the softmax of scores, which it may change; 0 in rows without any finite one."""
    if not scores.shape[-1]:
        return scores
    # A fully masked row is 0 in SDPA since torch 2.5, and NaN before.
    empty = scores.detach().amax(-1, keepdim=True) == -math.inf
    if not scores.requires_grad:
        return _softmax(scores).masked_fill_(empty, 0.0)
    # Its scores are made finite first, or the softmax's gradient would be NaN although its value is discarded.
    return _softmax(scores.masked_fill(empty, 0.0)).masked_fill(empty, 0.0)


def softmax_beside_sinks(scores: torch.Tensor, sinks: torch.Tensor | None, heads: Pick) -> torch.Tensor:
    """Return the softmax of scores, which it may change, and of a sink of each head, without the weights of sinks."""
    if sinks is None:
        return safe_softmax(scores)
    own = fitting(sinks[None], slice(None), heads).to(scores)[..., None, None]
    column = own.expand(len(scores), -1, scores.shape[2], 1)
    return safe_softmax(torch.cat([scores, column], -1))[..., :-1]


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Return the softmax of scores, in their memory unless a gradient is wanted: new memory takes longer to get."""
    return scores.softmax(-1) if scores.requires_grad else torch.softmax(scores, -1, out=scores)


def exactly(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Compute in the precision of the operands, also under autocast."""
    # Devices without autocast, such as "meta", refuse even to disable it.
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def picked(tensor: torch.Tensor, *picks: Pick) -> torch.Tensor:
    """Pick along the leading axes; a view if all picks are slices."""
    for axis, pick in enumerate(picks):
        if isinstance(pick, torch.Tensor):
            tensor = tensor.index_select(axis, pick.to(tensor.device))
        else:
            tensor = tensor[(slice(None),) * axis + (pick,)]
    return tensor


def fitting(tensor: torch.Tensor, *picks: Pick) -> torch.Tensor:
    """Pick along the leading axes, except those of length 1, which broadcast."""
    whole = slice(None)
    return picked(tensor, *(whole if size == 1 else pick for size, pick in zip(tensor.shape, picks, strict=False)))


def positions(pick: Pick, length: int, device: torch.device) -> torch.Tensor:
    """Return the positions of a pick, shape (n,)."""
    return torch.arange(length, device=device)[pick] if isinstance(pick, slice) else pick.to(device)


def block_rows(shape: Shape) -> int:
    """Return how many query rows (of all samples and heads) are computed at a time."""
    batch, heads, _, keys = shape
    return max(1, _BLOCK // max(1, batch * heads * keys))


def chunks(pick: Pick, length: int, size: int) -> Iterator[Pick]:
    """Yield parts of a pick, of at most `size` positions each; at least one, which may be empty."""
    span = pick if isinstance(pick, torch.Tensor) else range(length)[pick]
    for start in range(0, max(len(span), 1), size):
        part = span[start : start + size]
        yield part if isinstance(part, torch.Tensor) else slice(part.start, part.stop, part.step)


def float_type(*types: torch.dtype) -> torch.dtype:
    """Return the type to compute in: float64 if one of the types is, else float32, also for half precision."""
    return torch.float64 if torch.float64 in types else torch.float32


def promoted(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Prepend axes of length 1 until there are four."""
    if tensor.ndim not in {2, 3, 4}:
        msg = f"{name} has shape {tuple(tensor.shape)}; expected 4 dimensions (or the last 3 or 2 of them)."
        raise ShapeError(msg)
    if not tensor.is_floating_point():
        msg = f"{name} is {tensor.dtype}; expected floating point, so convert it first: {name}.float()."
        raise OptionError(msg)
    return tensor[(None,) * (4 - tensor.ndim)]


def _mask(mask: torch.Tensor, shape: Shape) -> torch.Tensor:
    if mask.dtype != torch.bool and not mask.is_floating_point():
        msg = f"The mask is {mask.dtype}; expected bool (True takes part) or floating point (added to the scores)."
        raise OptionError(msg)
    missing = len(shape) - mask.ndim
    sizes = (1,) * missing + tuple(mask.shape)
    if missing < 0 or any(own not in {1, full} for own, full in zip(sizes, shape, strict=True)):
        msg = f"A mask of shape {tuple(mask.shape)} does not broadcast to the map's shape {shape}."
        raise ShapeError(msg)
    return mask[(None,) * missing]


def compact(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy in CPU memory that keeps no larger tensor alive."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _version(tensor: torch.Tensor) -> int:
    # Inference tensors have no version counter: their changes go unnoticed.
    return -1 if tensor.is_inference() else tensor._version
