"""Several texts in one row of a batch, told apart by positions that begin again: none attends to another."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest
import torch
import transformers

import anylocal_bert
from anylocal.testing import perturb

if importlib.util.find_spec("transformers.masking_utils") is None:
    pytest.skip("needs a transformers that tells packed texts apart", allow_module_level=True)

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13]])
SPANS = [(0, 4), (4, 7), (7, 9)]
POSITIONS = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]])
SIZES: dict[str, Any] = dict.fromkeys(("hidden_size", "intermediate_size"), 32)
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 50}
SIZES |= {"max_position_embeddings": 64, "eos_token_id": None, "bos_token_id": 1, "pad_token_id": 0}


def of(name: str, implementation: str, **more: Any) -> Any:
    torch.manual_seed(0)
    kind: Any = getattr(transformers, f"{name}Config")
    model: Any = perturb(getattr(transformers, f"{name}Model")(kind(**SIZES, **more)), scale=0.3).eval()
    model.set_attn_implementation(implementation)
    return model


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("name", "more"), [("Llama", {}), ("Mistral", {"sliding_window": 3})], ids=["Llama", "Mistral"]
)
def test_each_text_attends_to_itself_as_if_it_were_alone(name: str, more: dict[str, Any], implementation: str) -> None:
    """One map holds the blocks of all texts, with 0 between them, and its axes are all tokens."""
    model = of(name, implementation, **more)
    alone = copy.deepcopy(model).double()
    alone.set_attn_implementation("eager")
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        model(IDS, position_ids=POSITIONS, use_cache=False)
    for start, end in SPANS:
        with torch.no_grad():
            expected = alone(IDS[:, start:end], use_cache=False, output_attentions=True).attentions
        for item, reference in zip(maps, expected, strict=True):
            rows = item[:, :, start:end]
            torch.testing.assert_close(rows[..., start:end], reference.float(), atol=2e-6, rtol=0)
            assert not rows[..., :start].any()
            assert not rows[..., end:].any()
    assert maps[0].queries == maps[0].keys
    assert maps[0].keys.labels() == [str(token) for token in IDS[0].tolist()]
