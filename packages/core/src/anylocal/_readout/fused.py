"""The names of fused kernels, and why a function that runs one has no map to record; without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import types

SDPA: Final = "scaled_dot_product_attention"
FLEX: Final = "flex_attention"


def why_unbound(function: types.FunctionType) -> str:
    """Return why a function that can run a fused kernel never made its map; empty for any other function."""
    kernel = next((name for name in (SDPA, FLEX) if name in function.__code__.co_names), None)
    if kernel is None:
        return ""
    return (
        f"it ran the fused kernel {kernel}, which never makes the map. capture_attention of anylocal_vit or"
        ' anylocal_bert computes it from what the kernel was given; capture(…, "q", "k") takes that'
    )
