"""From a layer's own axes to (batch, head, query, key), by what models of all kinds have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from anylocal.adapter import split_heads

if TYPE_CHECKING:
    import torch

    from anylocal import Call

BATCH: Final = ("B", "b", "bsz", "batch_size")
"""Names of the batch size in forks; it tells whether the first axis holds the heads as well."""

_HEADS: Final = ("num_heads", "heads", "n_heads", "n_head", "nhead", "nheads", "num_attention_heads")


def four_axes(call: Call, tensor: torch.Tensor) -> torch.Tensor:
    """Return an operand as (batch, head, position, feature), or a softmax as (batch, head, query, key)."""
    heads = head_count(call.module)
    if tensor.ndim == 5:  # noqa: PLR2004  # (image, head, window, …) or (image, window, head, …)
        return (tensor.transpose(1, 2) if tensor.shape[1] == heads else tensor).flatten(0, 1)
    if tensor.ndim == 3:  # noqa: PLR2004  # (batch × head, …) or (batch, …)
        batch = next((call.values[name] for name in BATCH if name in call.values), None)
        without_heads = heads == 1 or tensor.shape[0] % heads or tensor.shape[0] == batch
        return tensor.unsqueeze(1) if without_heads else split_heads(tensor, heads, call.function)
    return tensor


def head_count(module: Any) -> int:
    """Return the number of heads of a layer, 1 where no attribute holds it."""
    return next((n for name in _HEADS if isinstance(n := getattr(module, name, None), int)), 1)
