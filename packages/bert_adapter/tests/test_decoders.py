"""Maps are (batch, head, query, key) for each layout of heads in decoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.cache_utils import Cache

import anylocal_bert
from anylocal import capture
from anylocal.attention import Tokens
from anylocal.testing import perturb

from .caching import cache_of, with_cache

HEADS, KEY_HEADS, LENGTH = 4, 2, 6


def llama(implementation: str, *, generates: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

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
    return perturb((LlamaForCausalLM if generates else LlamaModel)(config), scale=0.3).eval()


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
    """The maps of a decoding step have one query, also if the heads of a group are packed into the query axis."""
    mask = torch.cat([padded(), torch.ones(2, 1, dtype=torch.long)], dim=1) if masked else None
    maps_of = []
    for model in (llama("sdpa"), llama("eager")):
        with torch.no_grad():
            cache = cache_of(model(ids(), attention_mask=None if mask is None else mask[:, :-1], use_cache=True))
            with anylocal_bert.capture_attention(model) as maps:
                model(ids(1), attention_mask=mask, **with_cache(cache))
        maps_of.append(maps)
    fused, eager = maps_of
    assert [attention.shape for attention in fused] == [(2, HEADS, 1, LENGTH + 1)] * 2
    for attention, reference in zip(fused, eager, strict=True):
        assert attention.fused
        assert not reference.fused
        torch.testing.assert_close(attention.tensor(), reference.tensor(), atol=5e-6, rtol=0)


# Heads in the batch


class Merged(torch.nn.Module):
    """A widely copied layer: all samples of the first head come first."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.n_head, self.fused = HEADS, fused
        self.q, self.k = torch.nn.Linear(32, 32), torch.nn.Linear(32, 32)

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        parts = (each(x).view(2, LENGTH, HEADS, 8) for each in (self.q, self.k))
        q, k = (part.permute(2, 0, 1, 3).contiguous().view(-1, LENGTH, 8) for part in parts)
        if self.fused:
            return torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=attn_mask)
        attn = torch.bmm(q, k.mT) / 8**0.5 + attn_mask
        attn = attn.softmax(dim=-1)
        return torch.bmm(attn, k)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("shared", [True, False], ids=["one mask", "masks"])
def test_heads_in_front_of_the_batch(fused: bool, shared: bool) -> None:
    """Heads that come before the samples in the batch axis are not confused with them."""
    torch.manual_seed(0)
    model: Any = perturb(Merged(fused=fused), scale=0.3).eval()
    x, masks = torch.randn(2, LENGTH, 32), torch.randn(HEADS, 2, LENGTH, LENGTH)
    mask = masks[0, 0] if shared else masks
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        model(x, mask if shared else mask.flatten(0, 1))
        q, k = (each(x).unflatten(-1, (HEADS, 8)).transpose(1, 2) for each in (model.q, model.k))
    expected = (q @ k.mT / 8**0.5 + (mask if shared else mask.transpose(0, 1))).softmax(-1)
    torch.testing.assert_close(maps[0].tensor(), expected, atol=2e-6, rtol=0)


# Generation


def generate(model: Any, **options: Any) -> torch.Tensor:
    tokens = ids()
    generated: torch.Tensor = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), pad_token_id=0, max_new_tokens=4, **options
    )
    return generated


@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_generation_tells_the_prefill_from_its_steps(options: dict[str, Any]) -> None:
    """Each is a forward pass of its own: all tokens first, then one query that sees one more key each time."""
    model = llama("sdpa", generates=True)
    with anylocal_bert.capture_attention(model) as maps:
        generate(model, **options)
    assert [maps[0].shape[2:] for maps in maps.forwards] == [(6, 6), (1, 7), (1, 8), (1, 9)]
    assert {len(maps) for maps in maps.forwards} == {2}


def test_the_keys_of_a_step_are_the_tokens_before_it() -> None:
    """Its query is the last of them, at its position."""
    model = llama("sdpa", generates=True)
    with anylocal_bert.capture_attention(model) as maps:
        generated = generate(model, do_sample=False).tolist()
    for place, step in enumerate(maps.forwards[1:], start=LENGTH):
        for attention in step:
            assert attention.keys.labels(1) == [str(token) for token in generated[1][: place + 1]]
            assert attention.queries == Tokens([[str(row[place])] for row in generated], start=place)


def test_the_keys_of_a_beam_are_its_own_tokens() -> None:
    """Beams are reordered between steps, and their tokens with them."""
    model = llama("sdpa", generates=True)
    inputs: list[torch.Tensor] = []
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: inputs.append(kwargs["input_ids"].clone()), with_kwargs=True
    )
    with anylocal_bert.capture_attention(model) as maps, capture(Cache.reorder_cache, "beam_idx") as caches:
        generate(model, num_beams=3, do_sample=False)
    orders = caches["beam_idx"]
    assert any(order.tolist() != sorted(order.tolist()) for order in orders), "no beams were ever reordered"
    text = inputs[0]
    for tokens, order, step in zip(inputs[1:], orders, maps.forwards[1:], strict=False):
        text = torch.cat([text[order], tokens], dim=1)
        for row, tokens_of_row in enumerate(text.tolist()):
            assert step[0].keys.labels(row) == [str(token) for token in tokens_of_row]
