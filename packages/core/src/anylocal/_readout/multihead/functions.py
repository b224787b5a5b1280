"""The functions of torch that compute multi-head attention, and what is recorded in each."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

from anylocal._engine.keep import detached
from anylocal._engine.spec import Assignment, CaptureSpec
from anylocal._readout.kernels import called_kernels

SLOW: Final[Any] = nn.functional.multi_head_attention_forward
FAST: Final[Any] = nn.MultiheadAttention.merge_masks
FORWARD: Final[Any] = nn.MultiheadAttention.forward
OF_LAYER: Final = "_transformer_encoder_layer_fwd"

# At the return, the variable of the weights may hold them after dropout, or averaged.
WEIGHTS: Final = "attn_output_weights"
FAST_SPEC: Final = CaptureSpec(("query", "attn_mask", "key_padding_mask"))
# In the module's forward, which calls the slow path.
COMPILED_SPEC: Final = CaptureSpec(("query", "key", "attn_mask", "key_padding_mask", "is_causal", "need_weights"))
# The name under which a call of the fused path has the encoder layer that ran it, if one did.
LAYER: Final = "layer"


def slow_spec() -> CaptureSpec:
    """Return the capture spec of the slow path; who only imports the library does not wait until its code is read."""
    resulted = frozenset({Assignment(WEIGHTS, "softmax")})
    return CaptureSpec(("num_heads",), resulted=resulted, called=called_kernels(SLOW))


def is_real_call(_: object) -> bool:
    """Return whether a model calls the function, and not dynamo, which runs it on fake tensors."""
    return torch._guards.TracingContext.try_get() is None  # noqa: SLF001  # there is no public way


def kept_with_version(value: Any) -> Any:
    """Return a tensor that counts its changes: inference tensors do not, and layers go on writing into their inputs."""
    value = detached(value)
    uncounted = isinstance(value, torch.Tensor) and not torch.compiler.is_compiling() and value.is_inference()
    return value.clone() if uncounted else value


SWITCH: Final = (
    "Or run it eagerly, and with torch.backends.mha.set_fastpath_enabled(False): then query and key are recorded"
)
