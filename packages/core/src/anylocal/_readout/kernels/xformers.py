"""xFormers' `memory_efficient_attention`, with its classes of masks."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal._maps.banded import BandedRows, Scoring
from anylocal._maps.map import AttentionMap
from anylocal._maps.packed import Span, packed_rows
from anylocal._readout.fused import XFORMERS, XFORMERS_FUNCTIONS
from anylocal._readout.kernels.kernel import Kernel, Recorded, listed, operand_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MODULES: Final = ("xformers.ops", "xformers.ops.fmha")

# The classes of masks, and how keys are hidden in each sequence: "" not at all, or causally or in a window around the
# diagonal that begins at the top left or ends at the bottom right.
_TOP_LEFT: Final = "top left"
_BOTTOM_RIGHT: Final = "bottom right"
_MASKS: Final = {
    "LowerTriangularMask": _TOP_LEFT,
    "LowerTriangularMaskWithTensorBias": _TOP_LEFT,
    "LowerTriangularFromBottomRightMask": _BOTTOM_RIGHT,
    "LowerTriangularFromBottomRightLocalAttentionMask": _BOTTOM_RIGHT,
    "LocalAttentionFromBottomRightMask": _BOTTOM_RIGHT,
    "BlockDiagonalMask": "",
    "BlockDiagonalCausalMask": _TOP_LEFT,
    "BlockDiagonalCausalFromBottomRightMask": _BOTTOM_RIGHT,
    "BlockDiagonalCausalLocalAttentionMask": _TOP_LEFT,
    "BlockDiagonalCausalLocalAttentionFromBottomRightMask": _BOTTOM_RIGHT,
    "BlockDiagonalPaddedKeysMask": "",
    "BlockDiagonalCausalWithOffsetPaddedKeysMask": _BOTTOM_RIGHT,
    "BlockDiagonalCausalLocalAttentionPaddedKeysMask": _BOTTOM_RIGHT,
    "BlockDiagonalGappyKeysMask": "",
    "BlockDiagonalCausalWithOffsetGappyKeysMask": _BOTTOM_RIGHT,
}
_NAMES: Final = operand_names(
    XFORMERS,
    *("query", "key", "scale", "bias", "diagonal", "left", "right", "starts_q", "starts_k", "lengths_k"),
)


def is_xformers(function: Any) -> bool:
    """Return whether a function is one of xFormers' that are known."""
    name = getattr(function, "__name__", "")
    return name in XFORMERS_FUNCTIONS and any(
        function is getattr(sys.modules.get(module), name, None) for module in _MODULES
    )


def of_xformers(  # noqa: PLR0917  # the kernel's own signature
    query: Any,
    key: Any,
    value: Any,  # noqa: ARG001  # neither it nor dropout decides the map
    attn_bias: Any = None,
    p: float = 0.0,  # noqa: ARG001  # as above
    scale: Any = None,
    *more: Any,
    op: Any = None,  # noqa: ARG001  # how it is computed
    output_dtype: Any = None,  # noqa: ARG001  # as above
    **unknown: Any,
) -> Recorded:
    """Return what is recorded of a call of `memory_efficient_attention`."""
    bias, diagonal, left, right, starts_q, starts_k, lengths_k = (None,) * 7
    kind = type(attn_bias)
    if attn_bias is None or kind is torch.Tensor or kind is torch.nn.Parameter:
        bias = attn_bias
    elif kind.__name__ not in _MASKS or not kind.__module__.startswith("xformers."):
        unknown[f"an attn_bias of class {kind.__name__}"] = attn_bias
    else:
        # Attributes of the mask, because a tensor of its class knows no other operation.
        diagonal = _MASKS[kind.__name__]
        window = getattr(attn_bias, "_window_size", None)
        left = getattr(attn_bias, "window_left", None) if window is None else window - 1
        right = getattr(attn_bias, "window_right", 0 if diagonal else None)
        if kind.__name__ == "LowerTriangularMaskWithTensorBias":
            bias = attn_bias._subtensor  # noqa: SLF001  # as above
        if hasattr(attn_bias, "q_seqinfo"):
            # The kernels read the tensors, not the lists beside them.
            starts_q, starts_k = attn_bias.q_seqinfo.seqstart, attn_bias.k_seqinfo.seqstart
            lengths_k = getattr(attn_bias.k_seqinfo, "seqlen", None)
    values = (query, key, scale, bias, diagonal, left, right, starts_q, starts_k, lengths_k)
    return _NAMES, (*values, listed(unknown, more))


def _map_of(given: Mapping[str, Any], **labels: Any) -> AttentionMap:
    bias = given["bias"]
    q, k = _heads(given["query"], given["key"])
    if bias is not None:
        # (batch, query, key) of one head, or (batch, group, head, query, key).
        bias = bias.unflatten(0, (len(q), -1)) if bias.ndim == 3 else bias.flatten(1, -3)  # noqa: PLR2004  # as above
    is_from_top = given["diagonal"] == _TOP_LEFT
    scoring = Scoring(given["scale"], given["left"], given["right"], from_top_left=is_from_top)
    if given["starts_q"] is None:
        return AttentionMap(BandedRows(q, k, scoring, bias), **labels)
    spans = _spans(given["starts_q"], given["starts_k"], given["lengths_k"], q.device)
    return AttentionMap(packed_rows(q, k, scoring, spans), **labels)


def _heads(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return as (batch, head, position, feature) what has no head, or a head within a group of heads."""
    if q.ndim == 3:  # noqa: PLR2004  # (batch, position, feature)
        return q[:, None], k[:, None]
    if q.ndim == 4:  # noqa: PLR2004  # (batch, position, head, feature)
        return q.transpose(1, 2), k.transpose(1, 2)
    # Keys that all heads of a group share are expanded, and stay so.
    shared = k[:, :, :, :1] if k.stride(3) == 0 else k
    q, k = (each.permute(0, 2, 3, 1, 4).flatten(1, 2) for each in (q, shared))
    return q, k


def _spans(
    starts_q: torch.Tensor, starts_k: torch.Tensor, lengths_k: torch.Tensor | None, device: torch.device
) -> Iterator[Span]:
    of_q, of_k = ([*itertools.pairwise(starts.tolist())] for starts in (starts_q, starts_k))
    lengths = [end - start for start, end in of_k] if lengths_k is None else lengths_k.tolist()
    for queries, (first, _), length in zip(of_q, of_k, lengths, strict=True):
        keys = torch.arange(first, first + length, device=device)
        yield Span(0, torch.arange(*queries, device=device), keys)


OF_XFORMERS: Final = Kernel(
    functions=XFORMERS_FUNCTIONS,
    names=_NAMES,
    map=_map_of,
    exact=("query", "key", "scale", "attn_bias"),
    neutral=("value", "p", "op", "output_dtype"),
    lays_out_heads=True,
)
MASKS: Final = tuple(_MASKS)
"""The names of the classes of masks that are known."""
