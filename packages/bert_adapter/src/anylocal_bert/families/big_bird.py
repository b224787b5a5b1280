"""BigBird's sparse attention by blocks, whose map consists of parts with a softmax each.

The first and the last block of tokens see every key. Each other block sees the first, the last, itself with its two
neighbours, and some at random: its softmax is over a list of blocks. A block may be in that list twice, once as a
random one; outside training it always is, as every random block is then the first. The weight of a key is the sum over
its places in the list.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal import Assignment
from anylocal.adapter import Reading, functions_in
from anylocal_bert._family import Family

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator, Mapping

    from anylocal import Call

_SPARSE: Final = r"(BigBird\w*)BlockSparseAttention"
_FIRST: Final = "first_attn_weights"
# The softmaxes of the second block, of those between, of the last but one, and of the last.
_OTHERS: Final = ("second_attn_weights", "attn_weights", "second_last_attn_weights", "last_attn_weights")
# The blocks that each block but the first and the last sees at random.
_RANDOM: Final = "rand_attn"
# 0 for keys that are padding, (batch, 1, 1, key).
_MASK: Final = "to_mask"


def _full_attention(model: torch.nn.Module) -> Iterator[types.FunctionType]:
    """Yield the full attention to which a model switches for good when a text has too few blocks."""
    for cls in dict.fromkeys(type(module) for module in model.modules()):
        found = re.fullmatch(_SPARSE, cls.__name__)
        full = getattr(sys.modules[cls.__module__], f"{found[1]}SelfAttention", None) if found else None
        if isinstance(full, type):
            yield from functions_in(vars(full).get("forward"))


def _assembled(call: Call, first: torch.Tensor) -> torch.Tensor:
    """Return the map of all queries and keys, given the softmax of the first block."""
    second, between, second_last, last = (call.values[name] for name in _OTHERS)
    size, length = first.shape[2:]
    seen = _seen(call.values[_RANDOM], length // size)
    parts = [(second[:, :, None], seen[0]), (between, seen[1]), (second_last[:, :, None], seen[2])]
    return torch.cat([first, *(_placed(weights, blocks, length) for weights, blocks in parts), last], dim=2)


def _seen(random: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the blocks seen by the second block, each of those between, and the last but one.

    Each tensor is (batch, head, block, place in the list).
    """
    middle = torch.arange(2, count - 2, device=random.device)[:, None]
    around = torch.cat([torch.zeros_like(middle), middle - 1, middle, middle + 1], dim=1)
    # These two have the first or the last block for a neighbour.
    ends = torch.tensor([[0, 1, 2, count - 1], [0, count - 3, count - 2, count - 1]], device=random.device)

    def listed(always: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return torch.cat([always.expand(*random.shape[:2], -1, -1), chosen], dim=3)

    last = torch.full_like(random[:, :, 1:-1, :1], count - 1)
    between = torch.cat([listed(around, random[:, :, 1:-1]), last], dim=3)
    return listed(ends[:1], random[:, :, :1]), between, listed(ends[1:], random[:, :, -1:])


def _placed(weights: torch.Tensor, blocks: torch.Tensor, length: int) -> torch.Tensor:
    """Return weights, (batch, head, block, query of the block, key of the list), as rows over all keys."""
    size = weights.shape[3]
    keys = (blocks[..., None] * size + torch.arange(size, device=blocks.device)).flatten(3)
    places = keys[:, :, :, None].expand_as(weights)
    rows = weights.new_zeros(*weights.shape[:4], length)
    return rows.scatter_add(4, places, weights).flatten(2, 3)


def _padding(values: Mapping[str, Any]) -> torch.Tensor | None:
    return values[_MASK][:, 0, 0] == 0 if _MASK in values else None


FAMILY = Family(
    functions=_SPARSE + r"\.bigbird_block_sparse_attention",
    reading=Reading(weights=Assignment(_FIRST, "softmax", f"{_FIRST} = softmax(…)")),
    layout=_assembled,
    locals=(*_OTHERS, _RANDOM, _MASK),
    fills_blocks=True,
    padding=_padding,
    late_functions=_full_attention,
)
