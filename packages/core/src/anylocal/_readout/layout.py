"""Heads that a function has made a part of the batch.

Most functions have the heads of a sample one after the other. Where the source shows the other order, the tensor is
split in that order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anylocal._readout.source import heads_come_first

if TYPE_CHECKING:
    import types

    import torch


def split_heads(tensor: torch.Tensor, heads: int, function: types.FunctionType) -> torch.Tensor:
    """Return as (batch, head, …) what a function has as (batch × head, …), or as (head × batch, …)."""
    heads_first = heads_come_first(function)
    split: torch.Tensor = tensor.unflatten(0, (heads, -1) if heads_first else (-1, heads))
    return split.transpose(0, 1) if heads_first else split
