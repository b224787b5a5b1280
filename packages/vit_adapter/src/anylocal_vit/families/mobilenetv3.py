"""MobileNetV4, and V5 with the same layers: all heads share one key head."""

from typing import Any

import torch

from anylocal_vit._family import Family


def _heads_last(tensor: torch.Tensor, module: Any) -> torch.Tensor:
    """Where einsum computes the softmax, it is (batch, query, head, key)."""
    return tensor.transpose(1, 2) if getattr(module, "einsum", True) else tensor


FAMILY = Family(
    layouts={"MultiQueryAttention2d.forward": _heads_last, "MultiQueryAttentionV2.forward": _heads_last},
)
