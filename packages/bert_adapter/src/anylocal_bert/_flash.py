"""Flash attention as transformers calls it: one function for all its versions, which takes padding out and puts it in.

It decides which arguments the installed kernel gets, so its own function for that is asked, with the same arguments.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from transformers import modeling_flash_attention_utils as utils

from anylocal.adapter import stands_for_flash


def arguments(  # noqa: PLR0917  # the function's own signature
    query_states: torch.Tensor,
    key_states: torch.Tensor,
    value_states: torch.Tensor,  # noqa: ARG001  # it does not decide the map
    attention_mask: torch.Tensor | None,
    query_length: int,
    is_causal: bool,  # noqa: FBT001  # as above
    dropout: float = 0.0,
    position_ids: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    sliding_window: int | None = None,
    use_top_left_mask: bool = False,  # noqa: FBT001, FBT002  # as above
    softcap: float | None = None,
    deterministic: bool | None = None,  # noqa: FBT001  # as above
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    target_dtype: torch.dtype | None = None,
    attn_implementation: str | None = None,  # noqa: ARG001  # it is loaded
    block_table: torch.Tensor | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the arguments of the kernel that `_flash_attention_forward` calls, by their names there."""
    process: Any = utils._process_flash_kwargs_fn  # noqa: SLF001  # of the kernel that is loaded
    given: dict[str, Any] = process(
        query_length=query_length,
        key_length=key_states.size(1),
        is_causal=is_causal,
        dropout=dropout,
        softmax_scale=softmax_scale,
        sliding_window=sliding_window,
        use_top_left_mask=use_top_left_mask,
        softcap=softcap,
        deterministic=deterministic,
        **more,
    )
    given |= {
        "q": query_states,
        "k": key_states,
        "dtype": target_dtype if query_states.dtype == torch.float32 else None,
        "block_table": block_table,
        # Refused: only NPUs have it.
        "use_top_left_mask": use_top_left_mask or None,
    }
    if attention_mask is not None:
        return given | {"padding_mask": attention_mask}
    if any(each is None for each in (cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)):
        return given | {"position_ids": position_ids}
    q, k = (each.reshape(-1, *each.shape[-2:]) for each in (query_states, key_states))
    return given | {"q": q, "k": k, "cu_seqlens_q": cu_seq_lens_q, "cu_seqlens_k": cu_seq_lens_k}


IS_READ: Final = hasattr(utils, "_process_flash_kwargs_fn") and hasattr(utils, "_loaded_implementation")
"""Whether transformers calls kernels as version 5 does; before, flash attention is refused."""
if IS_READ:
    stands_for_flash(utils._flash_attention_forward, arguments)  # noqa: SLF001  # all models call it
