"""The contract of adapters, for transformers' fused and eager attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import BertConfig, BertModel

import anylocal_bert
from anylocal.testing import AdapterContract

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable


class TestFused(AdapterContract):
    """A BERT with the fused kernel, the default of transformers."""

    adapter = anylocal_bert.adapter
    implementation = "sdpa"

    def make_model(self) -> torch.nn.Module:
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50, hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=64
        )
        config._attn_implementation = self.implementation
        model: torch.nn.Module = BertModel(config)
        return model.eval()

    def run(self, model: torch.nn.Module) -> torch.Tensor:
        ids = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(1))
        mask = torch.ones_like(ids)
        mask[1, 5:] = 0
        with torch.no_grad():
            output = model(ids, attention_mask=mask).last_hidden_state
        assert isinstance(output, torch.Tensor)
        return output

    def functions(self) -> Iterable[types.FunctionType]:
        return list(self.adapter.functions())


class TestEager(TestFused):
    """The same with eager attention."""

    implementation = "eager"
