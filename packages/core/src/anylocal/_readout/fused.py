"""The names of fused kernels, and why a function that runs one has no map to record; without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import types

SDPA: Final = "scaled_dot_product_attention"
FLEX: Final = "flex_attention"
FLASH: Final = "flash_attn"
XFORMERS: Final = "memory_efficient_attention"

FLASH_FUNCTIONS: Final = (
    *("flash_attn_func", "flash_attn_qkvpacked_func", "flash_attn_kvpacked_func", "flash_attn_varlen_func"),
    *("flash_attn_varlen_qkvpacked_func", "flash_attn_varlen_kvpacked_func", "flash_attn_with_kvcache"),
)
XFORMERS_FUNCTIONS: Final = (XFORMERS, f"{XFORMERS}_forward", f"{XFORMERS}_forward_requires_grad")
FUNCTIONS: Final = (SDPA, FLEX, *FLASH_FUNCTIONS, *XFORMERS_FUNCTIONS)
"""The names of the functions of kernels that are known."""


def why_unbound(function: types.FunctionType) -> str:
    """Return why a function that can run a fused kernel never made its map; empty for any other function."""
    kernel = next((name for name in FUNCTIONS if name in function.__code__.co_names), None)
    if kernel is None:
        return ""
    return (
        f"it ran the fused kernel {kernel}, which never makes the map. capture_attention of anylocal_vit or"
        ' anylocal_bert computes it from what the kernel was given; capture(…, "q", "k") takes that'
    )
