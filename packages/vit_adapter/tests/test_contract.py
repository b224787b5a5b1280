"""The contract of adapters, for timm's fused and unfused layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import timm
import torch

import anylocal_vit
from anylocal.testing import AdapterContract

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable


class TestFused(AdapterContract):
    """timm's models with fused attention, their default."""

    adapter = anylocal_vit.adapter

    def make_model(self) -> torch.nn.Module:
        return timm.create_model("vit_tiny_patch16_224", depth=3, img_size=64).eval()

    def run(self, model: torch.nn.Module) -> torch.Tensor:
        image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            output = model(image)
        assert isinstance(output, torch.Tensor)
        return output

    def functions(self) -> Iterable[types.FunctionType]:
        model = self.make_model()
        return [type(model.blocks[0].attn).forward]  # type: ignore[union-attr, index]  # timm is untyped


class TestUnfused(TestFused):
    """timm's models with attention computed in Python."""

    def make_model(self) -> torch.nn.Module:
        model = super().make_model()
        for block in model.blocks:  # type: ignore[union-attr]  # timm is untyped
            block.attn.fused_attn = False
        return model
