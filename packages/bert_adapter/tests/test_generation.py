"""The joined map of a generation against one forward pass of its whole text, in float64 with written-out attention."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
import transformers.cache_utils

import anylocal_bert
from anylocal.attention import AttentionMaps, Tokens
from anylocal.errors import UnsupportedError
from anylocal.testing import perturb
from anylocal.view import explore

STEPS, WINDOW = 8, 6
SIZES: dict[str, Any] = dict.fromkeys(("hidden_size", "intermediate_size"), 32)
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 40}
SIZES |= {"max_position_embeddings": 64, "eos_token_id": None, "bos_token_id": 1, "pad_token_id": 0}
PROMPT = torch.tensor([[5, 9, 7, 11, 5, 9, 7, 13]])
PADDED = torch.tensor([[0, 0, 0, 11, 5, 9, 7, 13], [5, 9, 7, 11, 5, 9, 7, 14]])
IMPLEMENTATION = "_attn_implementation"


def of(name: str, **more: Any) -> Any:
    """Return a model whose maps are far from uniform."""
    torch.manual_seed(0)
    kind: Any = getattr(transformers, name.replace("ForCausalLM", "Config").replace("3C", "3TextC"))
    model: Any = perturb(getattr(transformers, name)(kind(**SIZES, **more)), scale=0.3).double().eval()
    model.generation_config.cache_implementation = None
    return model


def expected(model: Any, out: torch.Tensor, **given: Any) -> Any:
    """Return the maps of the whole text but for its last token."""
    other = copy.deepcopy(model)
    for module in other.modules():
        if hasattr(module, "config"):
            setattr(module.config, IMPLEMENTATION, "eager")
    with torch.no_grad():
        return other(**{"input_ids": out[:, :-1], "output_attentions": True, **given})


def generated(model: Any, prompt: torch.Tensor = PROMPT, **options: Any) -> tuple[AttentionMaps, torch.Tensor]:
    given: dict[str, Any] = {"attention_mask": (prompt != 0).long(), "max_new_tokens": STEPS, "do_sample": False}
    # A static cache is changed in place.
    with anylocal_bert.capture_attention(model, keep="clone") as maps, torch.no_grad():
        out = model.generate(prompt, **given | options)
    return maps, out


def check(joined: AttentionMaps, references: Any, out: torch.Tensor) -> None:
    assert len(joined) == len(references)
    for item, reference in zip(joined, references, strict=True):
        assert reference.max() > 0.5, "a uniform map proves nothing"
        torch.testing.assert_close(item.tensor(), reference, atol=5e-7, rtol=0)
        assert item.queries == item.keys
        assert item.keys.labels() == [str(token) for token in out[0, :-1].tolist()]


SLIDING = hasattr(transformers.cache_utils, "DynamicSlidingWindowLayer")
STATIC = hasattr(transformers.cache_utils, "StaticLayer")
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "growing cache": ("LlamaForCausalLM", {}, {}),
    "static cache": ("LlamaForCausalLM", {}, {"cache_implementation": "static"}),
    "window": ("MistralForCausalLM", {"sliding_window": WINDOW}, {}),
    # Older transformers look for the end of the text in a guess, whether the model has one or not.
    "guesses from the prompt": ("LlamaForCausalLM", {}, {"prompt_lookup_num_tokens": 3, "eos_token_id": 999}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_joined_map_is_that_of_the_whole_text(case: str) -> None:
    """Whatever cache the steps read, and however many tokens at a time."""
    name, config, options = CASES[case]
    if case == "window" and not SLIDING:
        pytest.skip("needs a transformers whose cache slides")
    if case == "static cache" and not STATIC:
        pytest.skip("the static cache of this transformers does not tell which of its places are filled")
    model = of(name, **config)
    maps, out = generated(model, **options)
    assert len(maps.forwards) > 2
    check(maps.generation(), expected(model, out).attentions, out)


def test_layers_with_and_without_a_window() -> None:
    """Gemma 3 has both, and the joined maps agree on the text."""
    if not SLIDING:
        pytest.skip("needs a transformers whose cache slides")
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
    model = of("Gemma3ForCausalLM", **kinds)
    maps, out = generated(model)
    check(maps.generation(), expected(model, out).attentions, out)


def test_guesses_of_a_small_model_are_left_out() -> None:
    """Rows of tokens that were taken back are those of the tokens in their place."""
    model, small = of("LlamaForCausalLM"), of("LlamaForCausalLM", rms_norm_eps=1e-2)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    maps, out = generated(model, assistant_model=small)
    check(maps.generation(), expected(model, out).attentions, out)


def test_padding_on_the_left_stays_padding() -> None:
    """Each text of the batch has its own tokens, and the rows of real ones are right."""
    model = of("LlamaForCausalLM")
    maps, out = generated(model, PADDED)
    joined = maps.generation()
    # Written-out attention makes NaN of rows of padding in float64: the oracle reads the text without any.
    short, full = (expected(model, text).attentions for text in (out[:1, 3:], out[1:]))
    for item, alone, reference in zip(joined, short, full, strict=True):
        torch.testing.assert_close(item[0, :, 3:, 3:], alone[0], atol=5e-7, rtol=0)
        assert not item[0, :, 3:, :3].any()
        torch.testing.assert_close(item[1], reference[0], atol=5e-7, rtol=0)
        assert isinstance(item.keys, Tokens)
        assert item.keys.is_padding(0).tolist() == [True] * 3 + [False] * (PADDED.shape[1] + STEPS - 4)
        assert item.keys.labels(1) == [str(token) for token in out[1, :-1].tolist()]


def bart() -> Any:
    torch.manual_seed(0)
    sides = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 32))}
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "decoder_start_token_id": 2}
    kind: Any = transformers.BartConfig
    config = kind(vocab_size=40, d_model=32, max_position_embeddings=64, **sides, **heads, **tokens)
    model: Any = perturb(transformers.BartForConditionalGeneration(config), scale=0.3).double().eval()
    model.generation_config.eos_token_id = model.generation_config.forced_eos_token_id = None
    return model


@pytest.mark.skipif(not SLIDING, reason="its masks cannot be made in float64")
def test_an_encoder_decoder_has_both_attentions() -> None:
    """The decoder's own is joined over its text, the one to the encoder with the keys of the encoder's text."""
    model = bart()
    maps, out = generated(model, PADDED[1:])
    joined = maps.generation()
    ref = expected(model, out, input_ids=PADDED[1:], decoder_input_ids=out[:, :-1])
    own = [item for item in joined if "decoder" in item.name and "encoder_attn" not in item.name]
    cross = [item for item in joined if "encoder_attn" in item.name]
    check(AttentionMaps(own), ref.decoder_attentions, out)
    for item, reference in zip(cross, ref.cross_attentions, strict=True):
        torch.testing.assert_close(item.tensor(), reference, atol=5e-7, rtol=0)
        assert item.queries == own[0].queries
        assert item.keys.labels() == [str(token) for token in PADDED[1].tolist()]
    encoder = [item for item in joined if item.name.startswith("model.encoder")]
    assert [item.shape[2:] for item in encoder] == [(8, 8)] * 2


def test_beams_that_change_places_are_refused() -> None:
    """The rows of earlier steps belong to other texts then."""
    maps, _ = generated(of("LlamaForCausalLM"), num_beams=4)
    with pytest.raises(UnsupportedError, match="beams have changed places"):
        maps.generation()


def test_pictures_pages_and_rollout_take_the_joined_maps() -> None:
    """They are maps like those of one forward pass."""
    maps, out = generated(of("LlamaForCausalLM"))
    joined = maps.generation()
    assert joined.rollout().shape == (1, out.shape[1] - 1, out.shape[1] - 1)
    axes = anylocal_bert.plot.tokens(joined[0], head=0)
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["5", "9"]
    assert f'"{out[0, -2]}"' in explore(joined).html
