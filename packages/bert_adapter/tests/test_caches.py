"""The keys in a cache are named if it is certain which text they belong to, and only numbered otherwise."""

from __future__ import annotations

import copy
import functools
import types
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers.cache_utils

import anylocal_bert
from anylocal.attention import AttentionMaps, Tokens

from .caching import cache_of, with_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

ATTENTION = ["sdpa", "eager"]
SLIDES = hasattr(transformers.cache_utils, "DynamicSlidingWindowLayer")


def llama(implementation: str = "sdpa") -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    make: Any = LlamaForCausalLM
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4
    )
    config._attn_implementation = implementation
    return make(config).eval()


def gpt2(implementation: str = "sdpa") -> Any:
    """Return a model whose caches were tuples before transformers 4.50."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    make: Any = GPT2LMHeadModel
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    config._attn_implementation = implementation
    return make(config).eval()


def ids(*tokens: int) -> torch.Tensor:
    return torch.tensor([tokens])


@torch.no_grad()
def filled(model: Any, *tokens: int) -> Any:
    """Return the cache of a text."""
    return cache_of(model(ids(*tokens), use_cache=True))


@torch.no_grad()
def go_on(model: Any, cache: Any, *tokens: int) -> None:
    model(ids(*tokens), **with_cache(cache))


def keys(maps: AttentionMaps) -> list[str]:
    """Return the labels of the keys of the last forward pass, equal in all layers."""
    labels = [attention.keys.labels() for attention in maps.forwards[-1]]
    assert labels == [labels[0]] * len(labels)
    return labels[0]


def names(*tokens: int) -> list[str]:
    return [str(token) for token in tokens]


def counted(length: int) -> list[str]:
    return [str(place) for place in range(length)]


@pytest.mark.parametrize("implementation", ATTENTION)
def test_texts_of_one_length_in_turns(implementation: str) -> None:
    """Each cache keeps its own text, whichever was read last."""
    model = llama(implementation)
    with anylocal_bert.capture_attention(model) as maps:
        first, second = filled(model, 3, 4, 5), filled(model, 6, 7, 8)
        go_on(model, first, 10)
        assert keys(maps) == names(3, 4, 5, 10)
        go_on(model, second, 11)
        assert keys(maps) == names(6, 7, 8, 11)
        go_on(model, first, 12, 13)
        assert keys(maps) == names(3, 4, 5, 10, 12, 13)


def decode(modules: Any = None) -> AttentionMaps:
    """Read two targets, and continue the first."""
    from transformers import DynamicCache, EncoderDecoderCache, T5Config, T5ForConditionalGeneration

    make: Any = T5ForConditionalGeneration
    settings: Any = T5Config
    config = settings(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    model = make(config).eval()
    with anylocal_bert.capture_attention(model, modules=modules) as maps, torch.no_grad():
        run = functools.partial(model, input_ids=ids(20, 21, 22, 23))
        # Without a cache given, transformers 4 returns its own as tuples.
        first, second = (EncoderDecoderCache(DynamicCache(), DynamicCache()) for _ in range(2))
        run(decoder_input_ids=ids(3, 4, 5), **with_cache(first))
        run(decoder_input_ids=ids(6, 7, 8), **with_cache(second))
        run(decoder_input_ids=ids(10), **with_cache(first))
    return maps


def test_caches_of_a_decoder() -> None:
    """The cache of an encoder-decoder holds two texts, and self-attention reads the decoder's."""
    own, cross = decode().forwards[-1][-2:]
    assert own.keys.labels() == names(3, 4, 5, 10)
    assert cross.keys.labels() == names(20, 21, 22, 23)
    assert isinstance(cross.queries, Tokens)
    assert cross.queries.start == 3


def test_a_cross_attention_in_front() -> None:
    """The cache that it fills is not the decoder's own, even if no self-attention before it is captured."""
    chosen = {"decoder.block.0.layer.1.EncDecAttention", "decoder.block.1.layer.0.SelfAttention"}
    maps = decode(lambda name, _: name in chosen)
    assert maps[-1].keys.labels() == names(3, 4, 5, 10)


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("implementation", ATTENTION)
def test_a_cache_from_before(make: Any, implementation: str) -> None:
    """A text read before the capture is unknown, whatever else is read inside it."""
    model = make(implementation)
    cache = filled(model, 40, 41, 42)
    with anylocal_bert.capture_attention(model) as maps:
        filled(model, 3, 4, 5)
        go_on(model, cache, 10)
    assert keys(maps) == counted(4)
    assert maps[-1].queries.labels() == names(10)


def test_a_text_outlives_its_maps() -> None:
    """Who reads and clears after each step, to hold one step's maps only, still knows the text in the cache."""
    model = llama()
    scope = anylocal_bert.adapter.capture_attention(model)
    with scope as maps:
        cache = filled(model, 3, 4, 5)
        scope.clear()
        for step, token in enumerate((6, 7, 8)):
            go_on(model, cache, token)
            assert len(maps) == 2
            assert keys(maps) == names(3, 4, 5, 6, 7, 8)[: 4 + step]
            scope.clear()


def test_a_cache_that_grows_behind_the_back() -> None:
    """A cache that was filled further while the capture was closed holds unknown tokens."""
    model = llama()
    scope = anylocal_bert.adapter.capture_attention(model).open()
    cache = filled(model, 3, 4, 5)
    scope.close()
    go_on(model, cache, 6)
    scope.open()
    go_on(model, cache, 7)
    scope.close()
    assert keys(scope.maps) == counted(5)


def test_a_copy_of_a_cache() -> None:
    """It is another cache, and the capture has not seen it filled."""
    model = llama()
    with anylocal_bert.capture_attention(model) as maps:
        copied = copy.deepcopy(filled(model, 3, 4, 5))
        go_on(model, copied, 10)
    assert keys(maps) == counted(4)


def test_a_cache_that_was_cut() -> None:
    """The tokens that replaced those cut off are unknown."""
    model = llama()
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        cache = filled(model, 3, 4, 5)
        cache.crop(-2)
        model(inputs_embeds=torch.randn(1, 2, 32), **with_cache(cache))
        go_on(model, cache, 10)
    assert keys(maps) == counted(4)


def test_a_forward_pass_that_looks_nothing_up() -> None:
    """Embeddings given instead of tokens are not taken for the tokens of an earlier forward pass."""
    model = llama()
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        model(ids(3, 4, 5))
        model(inputs_embeds=torch.randn(1, 3, 32))
    assert keys(maps) == counted(3)


def test_texts_that_change_places() -> None:
    """The tokens change places as the texts in the cache do."""
    model = llama()
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        first = cache_of(model(torch.tensor([[3, 4], [5, 6]]), use_cache=True))
        model(torch.tensor([[7, 8], [9, 10]]), use_cache=True)
        first.reorder_cache(torch.tensor([1, 0]))
        model(torch.tensor([[11], [12]]), **with_cache(first))
    assert [maps[-1].keys.labels(sample) for sample in (0, 1)] == [names(5, 6, 11), names(3, 4, 12)]


def test_layers_that_are_not_captured() -> None:
    """The caches that they fill are not taken for those of a later forward pass without any."""
    model = llama()
    with anylocal_bert.capture_attention(model, modules="model.layers.0.*") as maps, torch.no_grad():
        cache = filled(model, 3, 4, 5)
        model(ids(6, 7, 8), use_cache=False)
        go_on(model, cache, 10)
    assert keys(maps) == names(3, 4, 5, 10)


def test_the_same_tensor_twice() -> None:
    """Two forward passes on the same tensor are two, even if the capture keeps the tensor itself."""
    model, token = llama(), ids(3)
    with anylocal_bert.capture_attention(model, keep="graph") as maps:
        cache = cache_of(model(token, use_cache=True))
        model(token, **with_cache(cache))
    assert keys(maps) == names(3, 3)


# torch says so of the very first 3.13.
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_a_compiled_model() -> None:
    """Compiled code does not tell which cache it fills."""
    model = llama()
    torch._dynamo.reset()
    compiled: Any = torch.compile(model, backend="eager")
    with anylocal_bert.capture_attention(model) as maps:
        first, _ = filled(compiled, 3, 4, 5), filled(compiled, 6, 7, 8)
        assert keys(maps) == names(6, 7, 8)
        go_on(compiled, first, 10)
    assert keys(maps) == counted(4)


# Generation


def texts_of_steps(model: Any) -> list[list[list[int]]]:
    """Return a list to which each forward pass of `generate` appends all tokens so far."""
    wholes: list[list[list[int]]] = []
    prepare = model.prepare_inputs_for_generation

    @functools.wraps(prepare)
    def prepared(_self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        wholes.append(input_ids.tolist())
        return prepare(input_ids, *args, **kwargs)

    model.prepare_inputs_for_generation = types.MethodType(prepared, model)
    return wholes


OPTIONS: Sequence[dict[str, Any]] = [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "beams", "prompt lookup"])
@pytest.mark.parametrize("implementation", ATTENTION)
@pytest.mark.parametrize("make", [llama, gpt2])
def test_generation(make: Any, implementation: str, options: dict[str, Any]) -> None:
    """The keys of each step are all tokens so far, for each beam its own, without rejected guesses."""
    model = make(implementation)
    prompt = ids(3, 4, 5, 3, 4, 5, 3)
    wholes = texts_of_steps(model)
    with anylocal_bert.capture_attention(model) as maps:
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            pad_token_id=0,
            max_new_tokens=8,
            do_sample=False,
            **options,
        )
    assert len(maps.forwards) == len(wholes) > 2
    # Calls between two forward passes do not count as one.
    assert [step[0].forward for step in maps.forwards] == [*range(len(wholes))]
    for step, whole in zip(maps.forwards, wholes, strict=True):
        for attention in step:
            texts = [attention.keys.labels(sample) for sample in range(len(whole))]
            assert texts == [names(*text) for text in whole]


def test_generation_that_goes_on_with_a_cache_from_before() -> None:
    """The text of a chat's earlier turns, read before the capture, is the one that `generate` is told to continue."""
    model = llama()
    cache = filled(model, 6, 7, 8)
    with anylocal_bert.capture_attention(model) as maps:
        filled(model, 3, 4, 5)
        prompt = ids(6, 7, 8, 9)
        mask = torch.ones_like(prompt)
        model.generate(prompt, attention_mask=mask, pad_token_id=0, **with_cache(cache), max_new_tokens=1)
    assert keys(maps) == names(6, 7, 8, 9)


def mistral(window: int = 6) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    make: Any = MistralForCausalLM
    settings: Any = MistralConfig
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = settings(vocab_size=50, num_key_value_heads=2, sliding_window=window, eos_token_id=None, **sizes)
    return make(config).eval()


@pytest.mark.skipif(not SLIDES, reason="caches of these transformers do not tell which of their layers slide")
@pytest.mark.parametrize("prompt", [4, 10])
def test_a_cache_that_slides(prompt: int) -> None:
    """The keys of a step are the last tokens, as many as the window holds, and know their places in the text."""
    model = mistral()
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        texts = model.generate(torch.arange(10, 10 + prompt)[None], max_new_tokens=5, do_sample=False)
    for step, of_step in enumerate(maps.forwards):
        for attention in of_step:
            length = prompt + step
            keys, queries = attention.keys, attention.queries
            expected = names(*texts[0, :length].tolist())
            assert keys.labels() == expected[-attention.shape[3] :]
            assert queries.labels() == expected[-attention.shape[2] :]
            assert isinstance(keys, Tokens)
            assert isinstance(queries, Tokens)
            assert (keys.start, queries.start) == (length - len(keys), length - len(queries))
    assert maps[-1].shape[3] == 6


@pytest.mark.skipif(not SLIDES, reason="caches of these transformers do not tell which of their layers slide")
def test_a_cache_that_slides_from_before() -> None:
    """What it holds is unknown, and its keys are counted."""
    model = mistral()
    cache = filled(model, *range(10, 20))
    with anylocal_bert.capture_attention(model) as maps:
        go_on(model, cache, 20)
    assert keys(maps) == counted(6)


@pytest.mark.skipif(not SLIDES, reason="caches of these transformers do not tell which of their layers slide")
def test_padding_of_a_cache_that_slides() -> None:
    """Padding on the left that is still in the window is padding, and none is once it has left it."""
    model = mistral()
    texts = torch.tensor([[0, 0, 0, 11, 12], [10, 11, 12, 13, 14]])
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        model.generate(texts, attention_mask=(texts > 0).long(), max_new_tokens=5, do_sample=False, pad_token_id=0)
    first: list[Any] = [of_step[0].keys for of_step in maps.forwards]
    flags = [[axis.is_padding(text).tolist() for text in range(2)] for axis in first]
    assert flags[3] == [[True, *[False] * 5], [False] * 6]
    assert flags[4] == [[False] * 6] * 2


@pytest.mark.skipif(not SLIDES, reason="caches of these transformers do not tell how much room they have")
@pytest.mark.parametrize("make", [llama, mistral])
def test_a_cache_with_free_places(make: Any) -> None:
    """The places of a static cache are those of the text, as far as it goes; the rest are padding without a name."""
    options: dict[str, Any] = {"cache_implementation": "static", "disable_compile": True, "pad_token_id": 0}
    model = make()
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        texts = model.generate(ids(3, 4, 5), **options, max_new_tokens=3, do_sample=False)
    for step, of_step in enumerate(maps.forwards[1:], start=1):
        for attention in of_step:
            text = names(*texts[0, : 3 + step].tolist())
            free = attention.shape[3] - len(text)
            axis: Any = attention.keys
            assert axis.labels() == [*text, *[""] * free]
            assert axis.is_padding().tolist() == [*[False] * len(text), *[True] * free]
            assert attention.queries.labels() == text[-1:]
    assert maps.forwards[1][0].shape[3] > 4
