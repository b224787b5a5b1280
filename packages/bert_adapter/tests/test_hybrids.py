"""Attention with sinks or of latent keys, and models in which only some layers are attention: as eager in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import anylocal_bert
from anylocal.testing import perturb

pytestmark = pytest.mark.skipif(
    int(transformers.__version__.partition(".")[0]) < 5, reason="its configurations have other names"
)

LENGTH = 11
SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "first_k_dense_replace": 2,
    "topk_method": "greedy",
}
STATES = {"mamba_d_state": 8, "mamba_d_conv": 2, "mamba_expand": 2}
CHUNKS = {"mamba_n_groups": 1, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_chunk_size": 4}
SPACE, LINEAR = "a state-space layer, which has no map", "linear attention, which never relates a query to a key"

# The options of a model, the layers with a map, and those without.
MODELS: dict[str, tuple[dict[str, Any], list[str], dict[str, str]]] = {
    "GptOss": (
        EXPERTS
        | {"head_dim": 16, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
        ["layers.0.self_attn", "layers.1.self_attn"],
        {},
    ),
    "DeepseekV2": (LATENT, ["layers.0.self_attn", "layers.1.self_attn"], {}),
    "DeepseekV3": (LATENT, ["layers.0.self_attn", "layers.1.self_attn"], {}),
    "Jamba": (
        STATES
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "num_experts_per_tok": 1}
        | {"use_mamba_kernels": False},
        ["layers.1.self_attn"],
        {"layers.0.mamba": SPACE},
    ),
    "Bamba": (
        STATES | CHUNKS | {"attn_layer_indices": [1]},
        ["layers.1.self_attn"],
        {"layers.0.mamba": SPACE},
    ),
    "FalconH1": (
        STATES | CHUNKS | {"mamba_d_ssm": 64, "mamba_d_head": 8},
        ["layers.0.self_attn", "layers.1.self_attn"],
        {"layers.0.mamba": SPACE, "layers.1.mamba": SPACE},
    ),
    "NemotronH": (
        {"layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 8, "head_dim": 16}
        | {"n_groups": 1, "ssm_state_size": 8, "chunk_size": 4},
        ["layers.1.mixer"],
        {"layers.0.mixer": SPACE},
    ),
    "Zamba2": (
        STATES
        | {"layers_block_type": ["mamba", "hybrid"], "mamba_ngroups": 1, "n_mamba_heads": 4, "chunk_size": 4}
        | {"num_mem_blocks": 1, "attention_head_dim": 32, "num_key_value_heads": 4},
        ["layers.1.shared_transformer.self_attn"],
        {"layers.0.mamba": SPACE, "layers.1.mamba_decoder.mamba": SPACE},
    ),
    "Qwen3Next": (
        {"layer_types": ["linear_attention", "full_attention"], "head_dim": 16, "linear_num_value_heads": 4}
        | {"linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
        | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
        | {"shared_expert_intermediate_size": 32},
        ["layers.1.self_attn"],
        {"layers.0.linear_attn": LINEAR},
    ),
}


def built(name: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES | MODELS[name][0])
    model = getattr(transformers, f"{name}Model")(config).eval()
    perturb(model, scale=0.1)
    if hasattr(model, "set_experts_implementation"):
        # Other implementations of experts have no float64.
        model.set_experts_implementation("eager")
    return model


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_maps_and_layers_without_one(name: str, implementation: str) -> None:
    """Layers of attention have exact maps, and all others are named with what they are."""
    if (name, implementation) == ("GptOss", "sdpa"):
        pytest.skip("It has sinks, which the kernel has not.")
    model, ids = built(name), torch.randint(3, SIZES["vocab_size"], (2, LENGTH))
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    model.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = [each for each in model.double()(**given, output_attentions=True).attentions if each is not None]
        model.float().set_attn_implementation(implementation)
        before = model(**given)[0]
        with anylocal_bert.capture_attention(model) as maps:
            assert torch.equal(model(**given)[0], before)
    _, names, others = MODELS[name]
    assert [attention.name for attention in maps] == names
    assert maps.unsupported == others
    for attention, reference in zip(maps, wanted, strict=True):
        assert reference.std() > 0.05  # far from uniform
        assert type(attention.keys).__name__ == "Tokens"
        apart = (attention.tensor().double() - reference).abs().transpose(1, 2)[mask.bool()]
        assert apart.max() < 4e-6
        assert name != "GptOss" or attention[1].sum(-1).max() < 1 - 1e-3
