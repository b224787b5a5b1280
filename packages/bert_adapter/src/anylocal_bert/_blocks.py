"""BigBird's attention by blocks, whose map is put together of parts that each have a softmax of their own.

Of a text of n blocks of tokens, the first and the last see every key. Each other block sees the first, the last, itself
with its two neighbours, and some at random: its softmax is over a list of blocks. One block may stand in that list
twice, once as a random one; it always does where the model does not train, for then every random block is the first.
What a key gets is the sum over its places in the list.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal.adapter import Assignment, Reading, functions_in

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator, Mapping

    from anylocal import Call

_SPARSE: Final = re.compile(r"(BigBird\w*)BlockSparseAttention")
_METHOD: Final = "bigbird_block_sparse_attention"
_FIRST: Final = "first_attn_weights"

PARTS: Final = ("second_attn_weights", "attn_weights", "second_last_attn_weights", "last_attn_weights")
"""The softmaxes of the blocks behind the first: of the second, of those between, of the last but one, of the last."""
RANDOM: Final = "rand_attn"
"""Which blocks are seen at random, by each block but the first and the last."""
MASK: Final = "to_mask"
"""1 for the keys that are no padding, (batch, 1, 1, key)."""

_READING: Final = Reading(operands=None, weights=Assignment(_FIRST, "softmax", f"{_FIRST} = softmax(…)"))


def reading_of_blocks(function: types.FunctionType) -> Reading | None:
    """Return how the map of a function is read that attends by blocks, None where it does not."""
    return _READING if attends_by_blocks(function) else None


def attends_by_blocks(function: types.FunctionType) -> bool:
    """Say whether a function is BigBird's, or a copy of it: another one of its name is another matter."""
    owner, _, name = function.__qualname__.rpartition(".")
    known = {_FIRST, *PARTS, RANDOM, MASK} <= {*function.__code__.co_varnames}
    return known and name == _METHOD and _SPARSE.fullmatch(owner) is not None


def hints_of_blocks(function: types.FunctionType) -> tuple[str, ...]:
    """Return what is recorded of a function that attends by blocks, besides the softmax of the first block."""
    return (*PARTS, RANDOM, MASK) if attends_by_blocks(function) else ()


def in_their_place(model: torch.nn.Module) -> Iterator[types.FunctionType]:
    """Give the attention to which a model changes by itself where a text has too few blocks."""
    for cls in dict.fromkeys(type(module) for module in model.modules()):
        found = _SPARSE.fullmatch(cls.__name__)
        full = getattr(sys.modules[cls.__module__], f"{found[1]}SelfAttention", None) if found else None
        if isinstance(full, type):
            yield from functions_in(vars(full).get("forward"))


def whole(call: Call, first: torch.Tensor) -> torch.Tensor:
    """Return the map of all queries and keys, (batch, head, query, key), of the softmaxes of its parts.

    Parameters
    ----------
    call : Call
        The call.
    first : torch.Tensor
        The softmax of the first block, (batch, head, query of the block, key).
    """
    second, between, second_last, last = (call.values[name] for name in PARTS)
    size, length = first.shape[2:]
    seen = _seen(call.values[RANDOM], length // size)
    # Those next to the ends have no neighbour that is not already seen.
    parts = [(second[:, :, None], seen[0]), (between, seen[1]), (second_last[:, :, None], seen[2])]
    return torch.cat([first, *(_placed(weights, blocks, length) for weights, blocks in parts), last], dim=2)


def _seen(random: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the list of blocks that a block sees: the second, each of those between, and the last but one.

    Each is of shape (batch, head, block, place in the list).
    """
    middle = torch.arange(2, count - 2, device=random.device)[:, None]
    around = torch.cat([torch.zeros_like(middle), middle - 1, middle, middle + 1], dim=1)
    ends = torch.tensor([[0, 1, 2, count - 1], [0, count - 3, count - 2, count - 1]], device=random.device)

    def listed(always: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return torch.cat([always.expand(*random.shape[:2], -1, -1), chosen], dim=3)

    last = torch.full_like(random[:, :, 1:-1, :1], count - 1)
    between = torch.cat([listed(around, random[:, :, 1:-1]), last], dim=3)
    return listed(ends[:1], random[:, :, :1]), between, listed(ends[1:], random[:, :, -1:])


def _placed(weights: torch.Tensor, blocks: torch.Tensor, length: int) -> torch.Tensor:
    """Put weights, (batch, head, block, query of the block, key of the list), at their places among all keys."""
    size = weights.shape[3]
    keys = (blocks[..., None] * size + torch.arange(size, device=blocks.device)).flatten(3)
    places = keys[:, :, :, None].expand_as(weights)
    rows = weights.new_zeros(*weights.shape[:4], length)
    return rows.scatter_add(4, places, weights).flatten(2, 3)


def visible_of_blocks(values: Mapping[str, Any]) -> torch.Tensor | None:
    """Return which keys are no padding, (batch, 1, 1, key), of a call that attends by blocks; None of others."""
    return values[MASK] > 0 if MASK in values else None
