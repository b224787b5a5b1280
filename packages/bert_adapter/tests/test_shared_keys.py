"""What a capture around `generate()` holds: the keys of a cache once, whatever the number of steps."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers.cache_utils

import anylocal_bert
from anylocal.testing import perturb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anylocal.attention import AttentionMaps

HEADS, GROUPS, SIZE, LAYERS = 4, 2, 16, 2
PROMPT, STEPS = 8, 40
IMPLEMENTATION = "_attn_implementation"
SLIDES = hasattr(transformers.cache_utils, "StaticSlidingWindowLayer")


def decoder(window: int | None = None) -> Any:
    """Return a Llama, or a Mistral whose layers see as many tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    make: Any = LlamaForCausalLM if window is None else MistralForCausalLM
    settings: Any = LlamaConfig if window is None else MistralConfig
    sizes = {"hidden_size": HEADS * SIZE, "intermediate_size": 32, "num_hidden_layers": LAYERS}
    sizes |= {"num_attention_heads": HEADS, "num_key_value_heads": GROUPS}
    options: dict[str, Any] = {} if window is None else {"sliding_window": window}
    torch.manual_seed(0)
    return perturb(make(settings(vocab_size=50, eos_token_id=None, **sizes, **options)), scale=0.3).eval()


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    make: Any = GPT2LMHeadModel
    settings: Any = GPT2Config
    sizes = {"n_positions": 64, "n_embd": HEADS * SIZE, "n_layer": LAYERS, "n_head": HEADS}
    return perturb(make(settings(vocab_size=50, bos_token_id=1, eos_token_id=None, **sizes)), scale=0.3).eval()


@torch.no_grad()
def generate(model: Any, texts: torch.Tensor | None = None, **options: Any) -> Any:
    texts = torch.arange(10, 10 + PROMPT)[None] if texts is None else texts
    options = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0} | options
    return model.generate(texts, **options)


def held(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the memory that tensors keep, each storage once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def operands(maps: AttentionMaps) -> list[torch.Tensor]:
    rows: list[Any] = [found.rows for found in maps]
    return [part for row in rows for part in (row.q, row.k, row.mask) if part is not None]


def queries(maps: AttentionMaps) -> int:
    rows: list[Any] = [found.rows for found in maps]
    return sum(row.q.numel() * row.q.element_size() for row in rows)


def keys_of(length: int, heads: int = GROUPS, texts: int = 1) -> int:
    """Return the bytes of the keys of a cache, in float32."""
    return LAYERS * texts * heads * SIZE * length * 4


def heads_of(maps: AttentionMaps) -> int:
    """Return how many heads of keys the kernel is given: older transformers repeat those of a group at every step."""
    rows: Any = maps[-1].rows
    return int(rows.k.shape[1])


def compare(maps: AttentionMaps, model: Any, texts: torch.Tensor | None = None, first: int = 0, **options: Any) -> None:
    """Compare the steps from one on with what an eager copy of the model returns; padding looks anywhere."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if hasattr(module, "config"):
            # Older transformers have no set_attn_implementation.
            setattr(module.config, IMPLEMENTATION, "eager")
    result = generate(twin, texts, output_attentions=True, return_dict_in_generate=True, **options)
    assert len(maps.forwards) == len(result.attentions)
    for of_step, expected in zip(maps.forwards[first:], result.attentions[first:], strict=True):
        for found, wanted in zip(of_step, expected, strict=True):
            torch.testing.assert_close(found.tensor(), wanted[..., : found.shape[3]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("keep", ["detach", "clone", "cpu"])
def test_the_steps_of_a_cache_share_its_keys(keep: str) -> None:
    """They are exact, and hold little more than the last step and the queries."""
    model = decoder()
    with anylocal_bert.capture_attention(model, keep=keep) as maps:
        generate(model)
    assert held(operands(maps)) <= 1.2 * keys_of(PROMPT + STEPS - 1, heads_of(maps)) + queries(maps)
    compare(maps, model)


def test_nothing_grows_before_the_maps_are_read() -> None:
    """Steps share their keys while the model runs, except for the last few."""
    model, steps = decoder(), 300
    scope = anylocal_bert.adapter.capture_attention(model)
    with scope:
        generate(model, max_new_tokens=steps)
        recorded: list[Any] = scope._capture._log.raw
        tensors = [value for value in recorded if isinstance(value, torch.Tensor) and value.is_floating_point()]
        alone = keys_of(PROMPT + steps - 1) * steps // 2
        assert held(tensors) < alone / 4


def test_the_keys_of_a_window() -> None:
    """A window that slides sees the last tokens of a tensor with all of them."""
    model = decoder(window=12)
    with anylocal_bert.capture_attention(model) as maps:
        generate(model)
    assert held(operands(maps)) <= 1.2 * keys_of(PROMPT + STEPS - 1, heads_of(maps)) + queries(maps)
    compare(maps, model)


@pytest.mark.skipif(not SLIDES, reason="static caches of these transformers are other ones")
@pytest.mark.parametrize("window", [None, 12])
def test_the_keys_of_a_static_cache(window: int | None) -> None:
    """The places that it fills later are hidden from the steps before, which may share them."""
    model: Any = decoder(window)
    options: dict[str, Any] = {"cache_implementation": "static", "disable_compile": True}
    with anylocal_bert.capture_attention(model) as maps:
        generate(model, **options)
    rows: list[Any] = [found.rows for found in maps]
    masks = held(row.mask for row in rows if row.mask is not None)
    assert held(operands(maps)) <= 1.2 * keys_of(PROMPT + STEPS, heads_of(maps)) + queries(maps) + masks
    compare(maps, model, **options)


def test_texts_with_padding() -> None:
    """Keys that the first step repeats for all heads of a group are held once."""
    model = decoder()
    texts = torch.cat([torch.zeros(1, PROMPT, dtype=torch.long), torch.arange(10, 10 + 2 * PROMPT).view(2, -1)])
    texts[0, 5:] = torch.tensor([7, 8, 9])
    options: dict[str, Any] = {"attention_mask": (texts > 0).long()}
    with anylocal_bert.capture_attention(model) as maps:
        generate(model, texts, **options)
    rows: list[Any] = [found.rows for found in maps]
    assert held([row.k for row in rows]) <= 1.2 * keys_of(PROMPT + STEPS - 1, heads_of(maps), len(texts))
    compare(maps, model, texts, first=1, **options)


def test_a_query_that_is_part_of_a_larger_tensor() -> None:
    """The keys and values beside it, which the cache has too, are not held with it."""
    model = gpt2()
    with anylocal_bert.capture_attention(model) as maps:
        generate(model)
    beside = 3 * PROMPT * HEADS * SIZE * 4 * LAYERS
    assert held(operands(maps)) <= 1.2 * keys_of(PROMPT + STEPS - 1, HEADS) + queries(maps) + beside
    compare(maps, model)


@pytest.mark.parametrize(
    "options",
    # Older transformers look for the end of the text in a guess, whether the model has one or not.
    [{"num_beams": 3}, {"prompt_lookup_num_tokens": 2, "eos_token_id": 999}],
    ids=["beams", "cut"],
)
def test_caches_that_are_changed_between_steps(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beams change places and guesses are taken back: each step has the keys that it saw."""
    model, texts = decoder(), torch.tensor([[3, 4, 5, 3, 4, 5, 3]])
    with anylocal_bert.capture_attention(model) as maps:
        generate(model, texts, **options)
    kernel, given = torch.nn.functional.scaled_dot_product_attention, list[torch.Tensor]()

    def spy(query: torch.Tensor, key: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        given.append(key.clone())
        return kernel(query, key, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    generate(model, texts, **options)
    rows: list[Any] = [found.rows for found in maps]
    assert len(rows) == len(given)
    for row, keys in zip(rows, given, strict=True):
        # The first step of several texts repeats them for the heads of each group.
        assert torch.equal(row.k, keys[:, :: keys.shape[1] // row.k.shape[1]])


def test_what_is_shared_counts_once() -> None:
    """A limit far below what the steps would hold by themselves is not reached."""
    model, steps = decoder(), 300
    # With the keys repeated for each head, as older transformers do at every step.
    with anylocal_bert.capture_attention(model, limit=8 * keys_of(PROMPT + steps, HEADS)) as maps:
        generate(model, max_new_tokens=steps)
    assert len(maps.forwards) == steps
