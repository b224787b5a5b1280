"""Vision transformers: differential attention, the difference of two maps for each head."""

import torch

from anylocal import Assignment, Call
from anylocal.adapter import Mixed, Reading
from anylocal.attention import AttentionMap
from anylocal_vit._family import Family

# The fused branch multiplies each of the two maps by the values, so their difference is never computed.
_DIFFERENCE = Reading(
    weights=Assignment("attn", "softmax", "attn = softmax(…)"),
    mixed=Assignment("attn", "lambda_full", "attn = … - lambda_full * …"),
    parts_of_heads=True,
)


def _pairs_as_heads(tensor: torch.Tensor, _module: object) -> torch.Tensor:
    """(batch, head, map of the head, query, key) where the layer is not fused."""
    return tensor.flatten(1, 2) if tensor.ndim == 5 else tensor  # noqa: PLR2004  # the number of axes


def _difference(call: Call, attention: AttentionMap) -> Mixed:
    weight = call.values.get("lambda_full")
    if weight is None:
        return None
    return lambda: attention[:, 0::2] - weight.to(attention.dtype) * attention[:, 1::2]


_FUNCTIONS = ("DiffAttention.forward", "DiffParallelScalingBlock.forward")

FAMILY = Family(
    readings=dict.fromkeys(_FUNCTIONS, _DIFFERENCE),
    layouts=dict.fromkeys(_FUNCTIONS, _pairs_as_heads),
    mixed=dict.fromkeys(_FUNCTIONS, _difference),
    locals=("lambda_full",),
)
