"""Longformer and LED's encoder: each query sees a band of keys, and global keys are seen by every query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from anylocal import Assignment
from anylocal.adapter import Reading
from anylocal_bert._family import Family

if TYPE_CHECKING:
    from anylocal import Call


def _banded(call: Call, softmax: torch.Tensor) -> torch.Tensor:
    """Return the map of a softmax of shape (batch, query, head, global keys and keys within the band).

    The rows of global queries, which see every key, are a map of their own, named by `query_global`; here they are 0.
    """
    layer: Any = call.module
    reach: int = layer.one_sided_attn_window_size
    to_global, band = softmax.transpose(1, 2).split([softmax.shape[-1] - 2 * reach - 1, 2 * reach + 1], -1)
    batch, heads, length, width = band.shape
    rows = band.new_zeros(batch, heads, length, length + 2 * reach)
    keys = torch.arange(length, device=band.device)[:, None] + torch.arange(width, device=band.device)
    made: torch.Tensor = rows.scatter(3, keys.expand(batch, heads, -1, -1), band)[..., reach : reach + length]
    empty = call.values["is_index_masked"]
    if call.values["is_global_attn"]:
        is_global = call.values["is_index_global_attn"]
        for sample, flags in enumerate(is_global):
            made[sample, :, :, flags] += to_global[sample, ..., : int(flags.sum())]
        empty = empty | is_global
    return made.masked_fill(empty[:, None, :, None], 0.0)


FAMILY = Family(
    functions=r"(Longformer|LEDEncoder)SelfAttention\.forward",
    # After the softmax, rows of padding and of global queries are zeroed in place, which is no mixing of heads.
    reading=Reading(weights=Assignment("attn_probs", "softmax", "attn_probs = softmax(…)")),
    layout=_banded,
    locals=("is_index_masked", "is_global_attn", "is_index_global_attn"),
    # The layer's function for global queries binds it as well.
    hints=("is_index_masked",),
    parts={r"(Longformer|LEDEncoder)SelfAttention\._compute_global_attn_output_from_hidden": "query_global"},
    padding=lambda values: values.get("is_index_masked"),
)
