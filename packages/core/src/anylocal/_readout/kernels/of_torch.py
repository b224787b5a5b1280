"""The kernels of torch: `scaled_dot_product_attention` and `flex_attention`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal._engine import dynamo
from anylocal._maps.banded import BandedRows, Scoring
from anylocal._maps.map import AttentionMap
from anylocal._maps.modified import ModifiedRows, state_of
from anylocal._maps.packed import Block, PackedRows, Span
from anylocal._maps.rows import float_type
from anylocal._readout.fused import FLEX, SDPA
from anylocal._readout.kernels.kernel import Kernel, Recorded, listed, operand_names
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Constants of the module, because dynamo traces the functions that return them.
_SDPA_NAMES: Final = operand_names(SDPA, "query", "key", "attn_mask", "is_causal", "scale")
_FLEX_NAMES: Final = operand_names(FLEX, "query", "key", "scale", "score_mod", "block_mask", "state")


def of_sdpa(  # noqa: PLR0917  # the kernel's own signature
    query: Any,
    key: Any,
    value: Any,  # noqa: ARG001  # neither it nor dropout decides the map; grouped heads are seen from the shapes
    attn_mask: Any = None,
    dropout_p: float = 0.0,  # noqa: ARG001  # as above
    is_causal: Any = False,  # noqa: FBT002  # as above
    *more: Any,
    scale: Any = None,
    enable_gqa: Any = False,  # noqa: ARG001  # as above
    **unknown: Any,
) -> Recorded:
    """Return what is recorded of a call of `scaled_dot_product_attention`."""
    return _SDPA_NAMES, (query, key, attn_mask, is_causal, scale, listed(unknown, more))


def _map_of_sdpa(given: Mapping[str, Any], **labels: Any) -> AttentionMap:
    if given["query"].is_nested:
        return AttentionMap(_rows_of_nested(**given), **labels)
    return AttentionMap.from_qk(
        given["query"],
        given["key"],
        mask=given.get("attn_mask"),
        causal=bool(given.get("is_causal", False)),
        scale=given.get("scale"),
        **labels,
    )


def _rows_of_nested(
    query: torch.Tensor, key: torch.Tensor, attn_mask: object, *, is_causal: bool, scale: float | None
) -> PackedRows:
    """Return the rows of nested tensors, whose samples are of several lengths: zeros beyond each."""
    if attn_mask is not None:
        raise UnsupportedError(f"{SDPA} was called with nested tensors and a mask. Its map might not be exact.")
    scoring = Scoring(scale, right=0 if is_causal else None, from_top_left=True)
    pairs = list(zip(query.unbind(), key.unbind(), strict=True))
    blocks = []
    for sample, (q, k) in enumerate(pairs):
        span = Span(sample, *(torch.arange(side.shape[1], device=side.device) for side in (q, k)))
        blocks.append(Block(BandedRows(q[None], k[None], scoring), span))
    lengths = (max(side.shape[1] for side in sides) for sides in zip(*pairs, strict=True))
    shape = (len(pairs), query.size(1), *lengths)
    return PackedRows(shape, blocks, float_type(query.dtype, key.dtype), query.device)


def of_flex(  # noqa: PLR0917  # the kernel's own signature
    query: Any,
    key: Any,
    value: Any,  # noqa: ARG001  # as above
    score_mod: Any = None,
    block_mask: Any = None,
    scale: Any = None,
    enable_gqa: Any = False,  # noqa: ARG001, FBT002  # as above
    return_lse: Any = False,  # noqa: ARG001, FBT002  # as above
    kernel_options: Any = None,  # noqa: ARG001  # how it is computed
    *more: Any,
    return_aux: Any = None,  # noqa: ARG001  # as above
    training: Any = False,  # noqa: ARG001  # of the function of transformers that compiles it
    **unknown: Any,
) -> Recorded:
    """Return what is recorded of a call of `flex_attention`."""
    # What dynamo traces has no version to compare with.
    state = None if dynamo.tracing() else state_of(score_mod, block_mask)
    return _FLEX_NAMES, (query, key, scale, score_mod, block_mask, state, listed(unknown, more))


def _map_of_flex(given: Mapping[str, Any], **labels: Any) -> AttentionMap:
    # Sinks are no argument of the kernel; an adapter may know those that are added to its result.
    operands: list[Any] = [given.get(name.rpartition(".")[2]) for name in (*_FLEX_NAMES[:-1], "sinks")]
    rows = ModifiedRows(*operands)
    return AttentionMap(rows, **labels)


OF_SDPA: Final = Kernel(
    functions=(SDPA,),
    names=_SDPA_NAMES,
    map=_map_of_sdpa,
    exact=("query", "key", "attn_mask", "is_causal", "scale", "enable_gqa"),
    neutral=("value", "dropout_p"),
)
OF_FLEX: Final = Kernel(
    functions=(FLEX,),
    names=_FLEX_NAMES,
    map=_map_of_flex,
    exact=("query", "key", "score_mod", "block_mask", "scale", "enable_gqa"),
    neutral=("value", "return_lse", "return_aux", "kernel_options"),
)
