"""Caches and masks that are written in place between steps: each map shows the step that it is of."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
import transformers.cache_utils

import anylocal_bert
from anylocal.testing import perturb

if TYPE_CHECKING:
    from collections.abc import Callable

    from anylocal.attention import AttentionMaps

STEPS, PROMPTS = 6, (3, 10)

pytestmark = pytest.mark.skipif(
    not hasattr(transformers.cache_utils, "StaticSlidingWindowLayer"),
    reason="caches of these transformers do not slide",
)


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    make: Any = LlamaForCausalLM
    settings: Any = LlamaConfig
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return make(settings(vocab_size=50, num_key_value_heads=2, eos_token_id=None, **sizes))


def gemma() -> Any:
    """Return a model with a full layer between two that see a window of six tokens."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    make: Any = Gemma3ForCausalLM
    settings: Any = Gemma3TextConfig
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6}
    return make(settings(vocab_size=50, layer_types=kinds, eos_token_id=None, **sizes))


def ready(make: Callable[[], Any], implementation: str = "sdpa") -> Any:
    torch.manual_seed(0)
    model: Any = perturb(make(), scale=0.3).eval()
    model.set_attn_implementation(implementation)
    return model


def of_eager(model: Any, *, length: int, **options: Any) -> Any:
    """Return the attentions that an eager copy of the model returns for each step."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return generate(twin, length=length, output_attentions=True, return_dict_in_generate=True, **options).attentions


@torch.no_grad()
def generate(model: Any, *, length: int, **options: Any) -> Any:
    options = {"cache_implementation": "static", "disable_compile": True, "pad_token_id": 0} | options
    return model.generate(torch.arange(10, 10 + length)[None], max_new_tokens=STEPS, do_sample=False, **options)


def compare(maps: AttentionMaps, expected: Any) -> None:
    assert len(maps.forwards) == len(expected) == STEPS
    for of_step, of_twin in zip(maps.forwards, expected, strict=True):
        for found, wanted in zip(of_step, of_twin, strict=True):
            # The places of a static cache that are still free are masked.
            assert not wanted[..., found.shape[3] :].any()
            torch.testing.assert_close(found.tensor(), wanted[..., : found.shape[3]], atol=5e-6, rtol=0)


@pytest.mark.parametrize("length", PROMPTS)
@pytest.mark.parametrize("make", [llama, gemma])
def test_a_static_cache(make: Callable[[], Any], length: int) -> None:
    """The maps of all steps are exact by default, and nothing warns."""
    model = ready(make)
    with anylocal_bert.capture_attention(model) as maps:
        generate(model, length=length)
    compare(maps, of_eager(model, length=length))


@pytest.mark.parametrize("length", PROMPTS)
def test_a_static_cache_in_inference_mode(length: int) -> None:
    """Its tensors do not count how often they are written, and are copied all the same."""
    model = ready(gemma)
    with anylocal_bert.capture_attention(model) as maps, torch.inference_mode():
        generate(model, length=length)
    compare(maps, of_eager(model, length=length))


@pytest.mark.skipif(not hasattr(transformers, "ContinuousBatchingConfig"), reason="no continuous batching")
def test_continuous_batching() -> None:
    """The mask and the tokens of all forward passes are in the same memory, and each text sees itself only."""
    model, texts = ready(llama), [[11, 12, 13, 14], [21, 22, 23]]
    settings: Any = transformers.GenerationConfig
    config = settings(max_new_tokens=3, do_sample=False, eos_token_id=-1, pad_token_id=0)
    small: Any = transformers.ContinuousBatchingConfig(page_size=8, num_blocks=8, max_batch_tokens=32)
    with anylocal_bert.capture_attention(model) as maps:
        options = {"generation_config": config, "continuous_batching_config": small}
        made = model.generate_batch(inputs=texts, **options)
    twin = ready(llama, "eager")
    with torch.no_grad():
        whole = {len(each.prompt_ids): [[*each.prompt_ids, *each.generated_tokens]] for each in made.values()}
        expected = {n: twin(torch.tensor(text), output_attentions=True).attentions for n, text in whole.items()}
    # One comes behind the other, with its keys: the one whose end the next text does not see.
    first = 3 if maps[0][0, 0, 3, 0] == 0 else 4
    for step, of_step in enumerate(maps.forwards[1:], start=1):
        for layer, found in enumerate(of_step):
            start = 0
            for place, length in enumerate((first, 7 - first)):
                end = length + step
                row = found[0, :, place, start : start + end]
                torch.testing.assert_close(row, expected[length][layer][0, :, end - 1, :end], atol=5e-6, rtol=0)
                start += end
