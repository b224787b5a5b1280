"""Types of transformers, one for each deviation of maps from softmax(q kᵀ + mask); `zoo.py` checks all types."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

import anylocal_bert
from anylocal.attention import AttentionMaps
from anylocal.errors import TargetError, UnsupportedError

from .dummies import TOKENS, inputs
from .exactness import GATE, Finding, build, check, run
from .tiny import configuration, model_of

TRAPS = {
    "bert": "padding",
    "big_bird": "parts of a map, each with its own softmax",
    "bigbird_pegasus": "the same, and padding that is looked up apart",
    "codegen": "nn.Softmax(dim=-1)(x), the product in a helper",
    "deberta-v2": "scores of relative positions, heads in the batch",
    "falcon": "the kernel in a class of its own, maps of several names",
    "flint": "a sink that is left out as the softmax is made",
    "fsmt": "positions before the batch, heads in the batch",
    "funnel": "a pooled query",
    "gemma2": "scores capped, windows",
    "gpt_oss": "sinks: rows that do not sum to 1",
    "hiera": "five axes",
    "ibert": "a tuple of the softmax and its scale",
    "layoutlmv3": "a softmax in a helper that is called otherwise",
    "longformer": "a band of keys",
    "qwen3_next": "layers without a map among those with one",
    "siglip": "nn.MultiheadAttention among the fused ones",
    "squeezebert": "a softmax that is a module, a product that is one",
    "t5": "a bias of positions, no scale, cross-attention",
    "xlnet": "a softmax in a helper",
}


NOT_BEFORE_5 = {"fsmt"}
"""Types that earlier versions cannot build from a configuration."""


def known(model_type: str) -> str:
    old = transformers.__version__.startswith("4.")
    if model_type not in CONFIG_MAPPING or (old and model_type in NOT_BEFORE_5):
        pytest.skip(f"transformers {transformers.__version__} has no such {model_type}")
    return model_type


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """Silence the messages of transformers about tiny models."""
    logging: Any = transformers.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@functools.cache
def finding(model_type: str) -> Finding:
    return check(model_type)


# Some modeling files call deprecated functions of their own.
@pytest.mark.filterwarnings("ignore", "error::anylocal.errors.AnylocalWarning")
@pytest.mark.parametrize("model_type", TRAPS)
def test_type(model_type: str) -> None:
    """All its maps equal the softmax in float64 of the inputs of its layers."""
    found = finding(known(model_type))
    assert (found.verdict, found.wrong) == ("exact", [])


def test_the_gate_names_sixty_types_once() -> None:
    """So many types must be exact."""
    assert len(set(GATE)) == len(GATE) >= 60


# Sinks


def test_a_sink_is_no_key() -> None:
    """Its column is left out: each token is a key, and the weight of the sink is missing from the sum of a row."""
    model, given = built("gpt_oss")
    with anylocal_bert.capture_attention(model) as maps:
        run(model, given)
    assert {attention.shape for attention in maps} == {(2, 4, TOKENS, TOKENS)}
    assert all(float(attention.tensor().sum(-1).min()) < 0.99 for attention in maps)  # less than all


# Bands


def test_a_band_with_global_tokens() -> None:
    """Their columns are at their positions, and their own rows in another map."""
    model, given = built("longformer")
    everywhere = torch.zeros(2, TOKENS, dtype=torch.long)
    everywhere[0, [0, 5]] = everywhere[1, 3] = 1
    with anylocal_bert.capture_attention(model) as maps:
        run(model, {**given, "global_attention_mask": everywhere})
    band, others = maps[:2] if maps[0].shape[2] > 2 else (maps[1], maps[0])  # two tokens at most
    with torch.no_grad():
        output = model(**given, global_attention_mask=everywhere, output_attentions=True)
    padded = TOKENS % model.config.attention_window[0]
    assert padded == 0, "transformers pads a text to whole windows"
    reach = model.config.attention_window[0] // 2
    for sample, globals_ in ((0, [0, 5]), (1, [3])):
        expected = output.attentions[0][sample]
        for query in set(range(TOKENS - 4)) - set(globals_):
            row = band[sample, :, query]
            for step in range(-reach, reach + 1):
                if 0 <= query + step < TOKENS and query + step not in globals_:
                    own = expected[:, query, expected.shape[-1] - 2 * reach - 1 + step + reach]
                    torch.testing.assert_close(row[:, query + step], own, atol=1e-6, rtol=0)
            for number, place in enumerate(globals_):
                torch.testing.assert_close(row[:, place], expected[:, query, number], atol=1e-6, rtol=0)
        for number in range(len(globals_)):
            torch.testing.assert_close(
                others[sample, :, number], output.global_attentions[0][sample, :, :, number], atol=1e-6, rtol=0
            )
    assert float(band[0, :, 5].abs().max()) == 0


def test_rows_of_global_tokens_have_a_name_of_their_own() -> None:
    """A layer's own map is found by its name, and attention can be followed through these maps."""
    model, given = built("longformer")
    first = torch.zeros(2, TOKENS, dtype=torch.long)
    first[:, 0] = 1
    with anylocal_bert.capture_attention(model) as maps:
        run(model, {**given, "global_attention_mask": first})
    layers = [name for name in maps.names if not name.endswith(".query_global")]
    assert sorted(maps.names) == sorted([*layers, *(f"{name}.query_global" for name in layers)])
    assert AttentionMaps(maps[name] for name in layers).rollout().shape == (2, TOKENS, TOKENS)
    assert maps[f"{layers[0]}.query_global"].shape[2:] == (1, TOKENS)


class LongformerSelfAttention(torch.nn.Module):
    """Shares only its name with Longformer's layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attn_probs = torch.softmax(x @ x.mT, dim=-1)
        return attn_probs @ x


def test_a_layer_that_shares_only_its_name() -> None:
    """It is read by its own source, and not as a band."""
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    layer = LongformerSelfAttention()
    with anylocal_bert.capture_attention(layer) as maps:
        layer(x)
    assert torch.equal(maps[0].tensor()[:, 0], torch.softmax(x @ x.mT, dim=-1))


# Unsupported layers and models


def built(model_type: str) -> tuple[Any, dict[str, Any]]:
    model = build(known(model_type), 0, 0.3)
    return model, next(iter(inputs(model)))


def test_a_state_space_model_is_refused_by_name() -> None:
    """A model without attention is refused before it runs, with what it has instead."""
    model = model_of("mamba", configuration("mamba"))
    with pytest.raises(TargetError, match=r"MambaModel computes no attention map.*It has a state-space layer"):
        anylocal_bert.capture_attention(model)


def test_layers_without_a_map_are_named() -> None:
    """The layers of a hybrid model that have no map are listed apart."""
    model, given = built("qwen3_next")
    with anylocal_bert.capture_attention(model) as maps:
        run(model, given)
    assert len(maps) == 1
    assert set(maps.unsupported.values()) == {"linear attention, which never relates a query to a key"}


def test_attention_to_earlier_layers_is_no_map() -> None:
    """Inkling 2 mixes the outputs of earlier layers in the kernel of its attention, which relates no positions."""
    model, given = built("inkling2_text")
    with anylocal_bert.capture_attention(model) as maps:
        run(model, given)
    assert {name.rpartition(".")[2] for name in maps.names} == {"self_attn"}
    assert set(maps.unsupported.values()) == {"a mean over earlier layers, which has no map of positions"}


def test_other_kernels_are_refused() -> None:
    """Attention in a kernel that exposes no map is refused, with the setting to change."""
    model, _ = built("bert")
    model.config._attn_implementation = "sage_attention"
    with pytest.raises(UnsupportedError, match=re.escape('set_attn_implementation("sdpa")')):
        anylocal_bert.capture_attention(model)


@pytest.mark.skipif(not hasattr(transformers, "AttentionInterface"), reason="kernels cannot be registered")
def test_kernels_of_modules_that_are_not_chosen() -> None:
    """A part of a model that is left out may run in any kernel, and is not listed."""
    model, given = built("clip")
    before: Any = transformers.AttentionInterface._global_mapping
    before["own"] = lambda module, query, key, value, *_, **__: (value.transpose(1, 2), None)
    try:
        model.vision_model.config._attn_implementation = "own"
        with pytest.raises(UnsupportedError, match="its 'vision_model"):
            anylocal_bert.capture_attention(model)
        with anylocal_bert.capture_attention(model, modules="text_model.*") as maps:
            run(model, given)
    finally:
        before.pop("own")
    assert {attention.name.partition(".")[0] for attention in maps} == {"text_model"}
    assert not maps.unsupported


def test_unsupported_layers_that_are_not_chosen() -> None:
    """They are not listed."""
    model, given = built("qwen3_next")
    with anylocal_bert.capture_attention(model, modules="*.self_attn") as maps:
        run(model, given)
    assert (len(maps), dict(maps.unsupported)) == (1, {})
