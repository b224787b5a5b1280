"""Maps of models that run flex attention: those of their eager path in float64."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import transformers

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


@pytest.mark.parametrize("name", MODELS)
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


def test_sinks_are_refused() -> None:
    """Sinks are no part of the kernel's map, and transformers adds them afterwards, on a GPU only."""
    from types import SimpleNamespace

    from anylocal.errors import UnsupportedError
    from anylocal_bert._layout import unpacked

    call: Any = SimpleNamespace(values={"s_aux": torch.zeros(4)}, name="layers.0.self_attn")
    with pytest.raises(UnsupportedError, match=r"'layers\.0\.self_attn' has attention sinks"):
        unpacked(call, {"query": torch.zeros(1, 4, 5, 8), "key": torch.zeros(1, 4, 5, 8)})
