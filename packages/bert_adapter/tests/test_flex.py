"""Maps of models that run flex attention: those of their eager path in float64."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import transformers
from torch.nn.attention.flex_attention import flex_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import anylocal_bert
from anylocal.testing import perturb

pytestmark = [
    pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0"),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask"),
    pytest.mark.skipif(int(transformers.__version__.partition(".")[0]) < 5, reason="its flex attention has no masks"),
]

LENGTH = 11
SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", {"num_key_value_heads": 2}),
    "soft cap": (
        "Gemma2",
        {"num_key_value_heads": 2, "head_dim": 16, "attn_logit_softcapping": 1.0, "sliding_window": 4},
    ),
    "window": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 4}),
    "sinks": (
        "GptOss",
        {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 4, "num_local_experts": 4}
        | {"num_experts_per_tok": 2, "layer_types": ["sliding_attention", "full_attention"]}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    ),
    "both sides": (
        "ModernBert",
        {"local_attention": 4, "global_attn_every_n_layers": 2}
        | dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
    ),
}


@pytest.fixture(autouse=True)
def _without_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers trace its kernel, as it does, and not build it, which takes minutes on a CPU."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def built(name: str) -> tuple[Any, dict[str, Any]]:
    family, options = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | options)
    model = getattr(transformers, f"{family}Model")(config).eval()
    perturb(model, scale=0.1)
    ids = torch.randint(3, SIZES["vocab_size"], (2, LENGTH))
    mask = torch.ones_like(ids)
    if family != "ModernBert":
        # There a padded query sees only padding in its window, and eager attention makes it NaN.
        mask[0, -3:] = 0
    return model, {"input_ids": ids, "attention_mask": mask}


def run(model: Any, given: dict[str, Any], **options: Any) -> Any:
    with torch.no_grad():
        return model(**given, **options)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "sinks"])
def test_maps_of_flex_attention(name: str) -> None:
    """They are exact for soft caps, windows, grouped heads and padding, and the output has the same bits."""
    model, given = built(name)
    model.set_attn_implementation("eager")
    wanted = run(model.double(), given, output_attentions=True).attentions
    model.float().set_attn_implementation("flex_attention")
    before = run(model, given)[0]
    with anylocal_bert.capture_attention(model) as maps:
        after = run(model, given)[0]
    assert torch.equal(before, after)
    assert len(maps) == len(wanted) == SIZES["num_hidden_layers"]
    assert all(attention.fused and attention.name.startswith("layers.") for attention in maps)
    real = given["attention_mask"].bool()
    for attention, reference in zip(maps, wanted, strict=True):
        assert reference.amax(-1).mean() > 2 / LENGTH  # far from uniform
        rows = (attention.tensor().double() - reference).abs().transpose(1, 2)[real]
        assert rows.max() < 2e-6


def flex_with_sinks(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
    """Do what transformers does with sinks on a GPU only: add them to the result of the kernel, by its log-sum-exp."""
    s_aux = kwargs["s_aux"]
    output, lse = flex_attention(
        query, key, value, block_mask=mask, scale=kwargs["scaling"], enable_gqa=True, return_lse=True
    )
    combined = torch.logaddexp(lse, s_aux[:, None])
    return (output * (lse - combined).exp()[..., None]).transpose(1, 2).contiguous(), lse


@pytest.mark.filterwarnings("ignore:return_lse is deprecated")
def test_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinks that are added to the result of the kernel take part in each row."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    for interface in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        monkeypatch.setattr(type(interface), "_global_mapping", {**interface._global_mapping})
    transformers.AttentionInterface.register("with_sinks", flex_with_sinks)
    transformers.AttentionMaskInterface.register("with_sinks", ALL_MASK_ATTENTION_FUNCTIONS["flex_attention"])
    model, given = built("sinks")
    model.set_experts_implementation("eager")
    model.set_attn_implementation("eager")
    wanted = run(model.double(), given, output_attentions=True).attentions
    model.float().set_attn_implementation("with_sinks")
    with anylocal_bert.capture_attention(model) as maps:
        run(model, given)
    real = given["attention_mask"].bool()
    for attention, reference in zip(maps, wanted, strict=True):
        assert reference[1].sum(-1).max() < 1 - 1e-3
        for found in (attention, attention.cpu()):
            assert (found.tensor().double() - reference).abs().transpose(1, 2)[real].max() < 2e-6


def test_sinks_are_refused() -> None:
    """Sinks are no part of a kernel's map, and of another than flex attention it is unknown who adds them."""
    from types import SimpleNamespace

    from anylocal.errors import UnsupportedError
    from anylocal_bert._layout import unpacked

    call: Any = SimpleNamespace(values={"s_aux": torch.zeros(4)}, name="layers.0.self_attn")
    with pytest.raises(UnsupportedError, match=r"'layers\.0\.self_attn' has attention sinks"):
        unpacked(call, {"query": torch.zeros(1, 4, 5, 8), "key": torch.zeros(1, 4, 5, 8)})
