"""How attention in transformers arranges heads and positions: always read as (batch, head, query, key)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anylocal.adapter import split_heads
from anylocal.errors import UnsupportedError
from anylocal_bert.families import family_of

if TYPE_CHECKING:
    import torch

    from anylocal import Call


def unpacked(call: Call, given: dict[str, Any]) -> dict[str, Any]:
    """Return the operands with their heads taken out of the batch, or out of the query axis.

    At a masked decoding step the query is (batch, key heads, groups, features) instead of (batch, heads, 1, features),
    and so is a mask that differs between heads.
    """
    query, mask = given["query"], given.get("attn_mask")
    sinks = call.values.get("s_aux")
    if sinks is not None and "block_mask" in given:
        return given | {"sinks": sinks}
    if sinks is not None:
        raise UnsupportedError(
            f"{call.name!r} has attention sinks, which the kernel that it calls is not given: its map is not that of"
            ' the layer. Call model.set_attn_implementation("eager").'
        )
    if query.ndim == 3:  # noqa: PLR2004  # (batch × head, position, feature)
        return _heads_out_of_batch(call, given)
    if call.values.get("q_length", query.shape[2]) == query.shape[2]:
        return given
    result = {**given, "query": query.flatten(1, 2)[:, :, None]}
    if mask is not None and mask.shape[1] != 1:
        result["attn_mask"] = mask.flatten(1, 2)[:, :, None]
    return result


def _heads_out_of_batch(call: Call, given: dict[str, Any]) -> dict[str, Any]:
    query, mask, heads = given["query"], given.get("attn_mask"), _heads_of(call.module)
    # With fewer key heads than query heads, the first axis is no batch; an unknown number of heads counts as 1.
    if heads == 1 or query.shape[0] % heads or query.shape[0] != given["key"].shape[0]:
        return given
    merged = {name: given[name] for name in ("query", "key")}
    if mask is not None and mask.shape[:-2] == query.shape[:1]:
        merged["attn_mask"] = mask
    return given | {name: split_heads(tensor, heads, call.function) for name, tensor in merged.items()}


def four_axes(call: Call, softmax: torch.Tensor) -> torch.Tensor:
    """Return a softmax as (batch, head, query, key), without the column of a sink."""
    family = family_of(call.function)
    if family is not None and family.layout is not None:
        return family.layout(call, softmax)
    key = call.values.get("key")
    if call.values.get("sinks") is not None and key is not None and softmax.shape[-1] == key.shape[-2] + 1:
        softmax = softmax[..., :-1]
    heads = _heads_of(call.module)
    if softmax.ndim == 5:  # noqa: PLR2004  # (batch, head, block, query, key) or (batch, block, head, query, key)
        return (softmax.transpose(1, 2) if softmax.shape[1] == heads else softmax).flatten(0, 1)
    if softmax.ndim == 3:  # noqa: PLR2004  # (batch × head, query, key)
        return split_heads(softmax, heads, call.function) if softmax.shape[0] % heads == 0 else softmax.unsqueeze(1)
    return softmax


def _heads_of(module: Any) -> int:
    """Return the number of heads of a layer, 1 where it is unknown."""
    names = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "nheads", "attention_heads")
    return next((count for name in names if isinstance(count := getattr(module, name, None), int)), 1)
