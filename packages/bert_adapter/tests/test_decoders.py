"""Grouped-query heads come out as (batch, head, query, key) in each of the layouts that transformers gives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import anylocal_bert
from anylocal.testing import perturb

HEADS, KEY_HEADS, LENGTH = 4, 2, 6


def llama(implementation: str) -> Any:
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
    )
    config._attn_implementation = implementation
    return perturb(LlamaModel(config), scale=0.3).eval()


def ids(length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, 50, (2, length), generator=torch.Generator().manual_seed(1))


def padded() -> torch.Tensor:
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, :2] = 0
    return mask


@pytest.mark.parametrize("mask", [None, padded()], ids=["no mask: enable_gqa", "mask: repeated"])
def test_prefill(mask: torch.Tensor | None) -> None:
    """A prefill's maps equal the eager ones, with a mask (keys repeated) and without (enable_gqa)."""
    fused, eager = llama("sdpa"), llama("eager")
    with torch.no_grad():
        with anylocal_bert.capture_attention(fused) as maps:
            fused(ids(), attention_mask=mask)
        expected = eager(ids(), attention_mask=mask, output_attentions=True).attentions
    assert [attention.shape for attention in maps] == [(2, HEADS, LENGTH, LENGTH)] * 2
    for attention, reference in zip(maps, expected, strict=True):
        assert reference.max() > 0.3, "a uniform map proves nothing"
        for sample, first in ((0, 0), (1, 0 if mask is None else 2)):
            rows = attention[sample, :, first:]
            torch.testing.assert_close(rows, reference[sample, :, first:], atol=5e-6, rtol=0)


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask: packed"])
def test_decoding_step(masked: bool) -> None:
    """One decoding step's maps have one query, also where the heads of a group are packed into the query axis."""
    mask = torch.cat([padded(), torch.ones(2, 1, dtype=torch.long)], dim=1) if masked else None
    maps_of = []
    for model in (llama("sdpa"), llama("eager")):
        with torch.no_grad():
            cache = model(ids(), attention_mask=None if mask is None else mask[:, :-1], use_cache=True).past_key_values
            with anylocal_bert.capture_attention(model) as maps:
                model(ids(1), attention_mask=mask, past_key_values=cache)
        maps_of.append(maps)
    fused, eager = maps_of
    assert [attention.shape for attention in fused] == [(2, HEADS, 1, LENGTH + 1)] * 2
    for attention, reference in zip(fused, eager, strict=True):
        assert attention.fused
        assert not reference.fused
        torch.testing.assert_close(attention.tensor(), reference.tensor(), atol=5e-6, rtol=0)
