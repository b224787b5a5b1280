"""The functions of torch that compute multi-head attention, and what is recorded in each."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

from anylocal._engine import tensors
from anylocal._engine.spec import Assignment, CaptureSpec

SLOW: Final[Any] = nn.functional.multi_head_attention_forward
FAST: Final[Any] = nn.MultiheadAttention.merge_masks
FORWARD: Final[Any] = nn.MultiheadAttention.forward
OF_LAYER: Final = "_transformer_encoder_layer_fwd"

# torch deletes the operands, and what is called weights when it returns may have been dropped out or averaged. The last
# view of an operand is what the kernel is given.
WEIGHTS: Final = "attn_output_weights"
SLOW_WANTS: Final = CaptureSpec(
    ("attn_mask", "is_causal", "num_heads"),
    resulted=frozenset({Assignment("q", "view"), Assignment("k", "view"), Assignment(WEIGHTS, "softmax")}),
)
FAST_WANTS: Final = CaptureSpec(("query", "attn_mask", "key_padding_mask"))
# What the module's forward holds as it returns, from where the slow path was called.
TRACED_WANTS: Final = CaptureSpec(("query", "key", "attn_mask", "key_padding_mask", "is_causal", "need_weights"))
# Under this name a call of the fused path has the encoder layer that ran it, if it was one.
LAYER: Final = "layer"


def is_real_call(_: object) -> bool:
    """Say whether a function is called by a model, and not by dynamo, which runs it to see what it would give."""
    return torch._guards.TracingContext.try_get() is None  # noqa: SLF001  # there is no public way


def kept_with_version(value: Any) -> Any:
    """Return what tells when it is changed: inference tensors do not, and layers go on writing into their inputs."""
    value = tensors.detached(value)
    uncounted = isinstance(value, torch.Tensor) and not torch.compiler.is_compiling() and value.is_inference()
    return value.clone() if uncounted else value


SWITCH: Final = (
    "Or run it eagerly, and with torch.backends.mha.set_fastpath_enabled(False): then query and key are recorded"
)
