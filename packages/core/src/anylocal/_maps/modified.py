"""Rows of flex attention: functions of the positions change the scores, and say which keys take part.

Both are the user's own, written for the score of one query and one key. They are mapped over the rows that are asked
for, as the kernel itself does, so nothing of the size of the map exists.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal._maps.closures import State
from anylocal._maps.rows import LazyRows, Pick, StoredRows, compact, positions, softmax_beside_sinks
from anylocal.errors import ChangedInPlaceWarning, UnsupportedError, level_of_user

if TYPE_CHECKING:
    from collections.abc import Callable

# The lists of blocks of a BlockMask: those in which its function is asked, and those that are full.
_LISTS: Final = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")

# The axis of (batch, head, query, key) over which each of the nested maps goes, the innermost first.
_AXES: Final = (3, 2, 1, 0)


class ModifiedRows(LazyRows):
    """Rows computed as a softmax of modified scores, beside sinks, (head,), if the caller of the kernel adds them."""

    def __init__(  # noqa: PLR0917  # as the kernel's own
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        scale: float | None,
        score_mod: Any,
        block_mask: Any,
        state: State | None = None,
        sinks: torch.Tensor | None = None,
    ) -> None:
        super().__init__(q, k, None, scale, causal=False)
        self._sinks = sinks
        self._watch(self.q, self.k, sinks)
        self._score_mod = score_mod
        self._block_mask = block_mask
        self._state = state_of(score_mod, block_mask) if state is None else state
        # Copies of the operands may be on another device than the tensors that the functions use.
        self._place = next((tensor.device for tensor in self._state.tensors), self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the rows as they are now: functions made by other functions cannot be pickled."""
        every = slice(None)
        return StoredRows, (self.take(every, every, every),)

    def cpu(self) -> ModifiedRows:
        """Return the same rows from copies of query and key in CPU memory."""
        q, k = compact(self.q), compact(self.k)
        sinks = None if self._sinks is None else compact(self._sinks)
        return ModifiedRows(q, k, self.scale, self._score_mod, self._block_mask, self._state, sinks)

    def _softmax(self, scores: torch.Tensor, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        if self._state.has_changed():
            msg = (
                "What score_mod or mask_mod of flex_attention depends on was changed after the call, so the map is"
                " computed from its present values. Read maps before that, and clear the capture then."
            )
            warnings.warn(ChangedInPlaceWarning(msg), stacklevel=level_of_user())
        # The functions may use parameters, and the map has a graph only if the operands have one.
        with torch.set_grad_enabled(torch.is_grad_enabled() and scores.requires_grad):
            return self._modified(scores, batch, heads, queries)

    def _modified(self, scores: torch.Tensor, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        picks = zip((batch, heads, queries, slice(None)), self.shape, strict=True)
        index = [positions(pick, size, self._place) for pick, size in picks]
        moved = scores.to(self._place)
        if self._score_mod is not None:
            moved = _over_positions(self._score_mod, moved, *index)
        if self._block_mask is not None:
            part = _over_positions(self._block_mask.mask_mod, None, *index)
            self._check_blocks(part, index)
            moved = moved.masked_fill(~part, -math.inf)
        # The functions may have kept the scores for a gradient.
        return softmax_beside_sinks(moved.clone(), self._sinks, heads).to(self.device)

    def _check_blocks(self, part: torch.Tensor, index: list[torch.Tensor]) -> None:
        """Refuse a mask whose list of blocks says something else than its function: kernels follow either."""
        listed, full = _blocks(self._block_mask, *index)
        if bool((part & ~listed).any()) or bool((full & ~part).any()):
            raise UnsupportedError(
                "A BlockMask of flex_attention lists other blocks than its mask_mod selects. A compiled kernel follows"
                " the list, and eager code the function, so the map is not known. Make it with create_block_mask."
            )


def state_of(score_mod: Any, block_mask: Any) -> State:
    """Return what both depend on, as it is now."""
    return State(score_mod, *(getattr(block_mask, name, None) for name in ("mask_mod", *_LISTS)))


def _over_positions(function: Callable[..., Any], scores: torch.Tensor | None, *index: torch.Tensor) -> torch.Tensor:
    """Map a function of (score,) batch, head, query and key over all positions, (batch, head, query, key)."""
    # Inside a map, a tensor can be indexed by positions in the kernel's way only.
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    given = () if scores is None else (scores,)
    mapped: Callable[..., torch.Tensor] = function
    for axis in _AXES:
        of_scores = (0,) * len(given)
        mapped = torch.vmap(mapped, (*of_scores, *(0 if axis == each else None for each in range(4))))
    with TransformGetItemToIndex():
        return mapped(*given, *index)


def _blocks(
    mask: Any, batch: torch.Tensor, heads: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which pairs of positions are in a block of the list, and which in a block that is full."""
    rows, columns = mask.BLOCK_SIZE
    last = mask.kv_indices.shape[-1]
    lists = [getattr(mask, name) for name in _LISTS]
    found = []
    for count, indices in (lists[:2], lists[2:]):
        if count is None:
            found.append(torch.zeros((), dtype=torch.bool, device=keys.device))
            continue
        # Blocks in the first places of a list take part.
        places = torch.arange(last, device=indices.device) < count[..., None]
        dense = torch.zeros(*count.shape, last + 1, dtype=torch.bool, device=indices.device)
        dense.scatter_(-1, torch.where(places, indices, last).long(), places)
        of_batch, of_heads = (pick % size for pick, size in zip((batch, heads), count.shape[:2], strict=True))
        of_rows, of_keys = (queries // rows).clamp(max=count.shape[2] - 1), (keys // columns).clamp(max=last - 1)
        picked = functools.reduce(
            lambda tensor, pick: tensor.index_select(pick[0], pick[1].to(tensor.device)),
            enumerate((of_batch, of_heads, of_rows, of_keys)),
            dense,
        )
        found.append(picked.to(keys.device))
    partial, complete = found
    return partial | complete, complete
