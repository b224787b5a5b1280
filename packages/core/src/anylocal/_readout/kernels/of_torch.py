"""The kernels of torch: `scaled_dot_product_attention` and `flex_attention`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from anylocal._engine import dynamo
from anylocal._maps.map import AttentionMap
from anylocal._maps.modified import ModifiedRows, state_of
from anylocal._readout.fused import FLEX, SDPA
from anylocal._readout.kernels.kernel import Kernel, Recorded, listed, operand_names

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
    return AttentionMap.from_qk(
        given["query"],
        given["key"],
        mask=given.get("attn_mask"),
        causal=bool(given.get("is_causal", False)),
        scale=given.get("scale"),
        **labels,
    )


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
    rows = ModifiedRows(*(given[name.rpartition(".")[2]] for name in _FLEX_NAMES[:-1]))
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
