"""Tiny models of every type of transformers, derived from their configurations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModel
from transformers.configuration_utils import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING

HEADS: Final = 4
WIDTH: Final = 32
WINDOW: Final = 8

# The first pattern that matches the full name of a field decides its value; None leaves it unchanged.
_RULES: Final[tuple[tuple[str, Any], ...]] = (
    (r"(num_)?experts_per_tok\w*|num_experts_per_token|moe_topk|moe_top_k|moe_k|top_k|topk|num_selected_experts", 2),
    (r"n_group|topk_group|num_expert_group\w*", 1),
    (r"index_topk|index_n_heads", 4),
    (r"rotary_dim|rope_dim|rotary_ndims|rope_head_dim", WIDTH // HEADS),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index|mlp_only_layers", 1),
    (r"prediction_length", None),
    (r"mamba_n_heads|mamba_num_heads|linear_num_\w+_heads", HEADS),
    (r"mamba_d_head|mamba_head_dim", WIDTH * 2 // HEADS),
    (r"mamba_d_state|ssm_state_size|state_size|mamba_d_ssm", 16),
    (r"linear_\w+_head_dim", 8),
    (
        r"(num|n)_(attention_|attn_|self_attention_|encoder_|decoder_)?heads?|n_head|\w+_attention_heads|num_heads",
        HEADS,
    ),
    (r"(num|n)_(key_value|kv)_heads|num_key_value_heads|\w*num_key_value_heads", 2),
    (r"multi_query_group_num", 2),
    (r"head_dim|attention_head_dim|d_kv|kv_channels|qk_nope_head_dim|v_head_dim|attention_head_size", WIDTH // HEADS),
    (r"qk_rope_head_dim|qk_head_dim", WIDTH // HEADS),
    (r"q_lora_rank|kv_lora_rank", 16),
    (
        r"(hidden|embed|d|n|emb|embedding|model|encoder_hidden|decoder_hidden|enc_hidden|projection|attention)_?(size|dim|model|embd|embed)",
        WIDTH,
    ),
    (
        r"hidden_size\w*|encoder_hidden_size|\w+_hidden_size|true_hidden_size|dim|d_model|n_embd|embed_dim|word_embed_dim",
        WIDTH,
    ),
    (r"\w*intermediate_size\w*|d_ff|\w*ffn_dim|n_inner|hidden_dim|ffn_hidden_size|feed_forward_size|d_inner", 48),
    (r"\w*vocab_size\w*", None),
    (r"max_position_embeddings|n_positions|max_source_positions|max_target_positions|max_seq_len|seq_length", 512),
    (r"(num_hidden|n|num|encoder|decoder|num_encoder|num_decoder|text|vision|num_text|num_vision)_layers?", 2),
    (r"depth|num_layers?|num_blocks|n_layers?|\w*num_hidden_layers", 2),
    (r"sliding_window|local_attention|attention_window|window_size|local_window_size", WINDOW),
    (r"(num|n)_(local_|routed_|moe_)?experts|moe_num_experts|num_local_experts", 4),
    (r"moe_intermediate_size|shared_expert_intermediate_size", 16),
)


# Earlier versions build configurations from dicts only.
_TAKES_PARTS: Final = int(transformers.__version__.partition(".")[0]) >= 5

_SECTIONS: Final[dict[str, Any]] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
_HALVES: Final[dict[str, Any]] = {**_SECTIONS, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]}

# Exceptions to the rules.
_FIELDS: Final[Mapping[str, dict[str, Any]]] = {
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": WINDOW},
    # Small enough for the texts of the tests: attention over few blocks is not sparse.
    "big_bird": {"block_size": 2, "num_random_blocks": 2},
    "bigbird_pegasus": {"block_size": 2, "num_random_blocks": 2},
    "owlvit_text_model": {"max_position_embeddings": 64},
    "owlv2_text_model": {"max_position_embeddings": 64},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "granitemoehybrid": {"layer_types": ["attention", "mamba"]},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"]},
    "qwen2_vl_text": {"rope_parameters": _SECTIONS},
    "qwen2_5_vl_text": {"rope_parameters": _SECTIONS},
    "glm4v_text": {"rope_parameters": _HALVES},
    "glm4v_moe_text": {"rope_parameters": _HALVES},
    "glm_ocr_text": {"rope_parameters": _HALVES},
    "glm_image_text": {"rope_parameters": _HALVES},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "xmod": {"default_language": "en_XX"},
    "recurrent_gemma": {"block_types": ["attention", "recurrent"]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "autoformer": {"prediction_length": 4},
    "informer": {"prediction_length": 4},
    "time_series_transformer": {"prediction_length": 4},
    "blip-2": {"use_decoder_only_language_model": True},
}


def _shrunk(name: str, value: Any, level: int) -> Any:
    """Return a smaller value for a field; fewer fields change at each level."""
    # In transformers 4 each configuration also has the fields of generation.
    if isinstance(value, bool) or not isinstance(value, int) or (name, value) == ("top_k", 50):
        return value
    for pattern, small in _RULES:
        if re.fullmatch(pattern, name):
            if small is None or value <= small:
                return value
            kept = {0: (), 1: (WIDTH // HEADS,)}.get(level)
            return value if (small not in {1, 2, 4, WINDOW} if kept is None else small in kept) else small
    return value


def configuration(model_type: str, level: int = 0) -> Any:
    """Return a tiny configuration of a type."""
    return _tiny(CONFIG_MAPPING[model_type], level)


def _tiny(cls: type[PretrainedConfig], level: int, given: Any = None) -> Any:
    default = given if given is not None else cls()
    if cls.model_type == "timm_backbone":
        default.backbone = "resnet18"
        return default
    fields = {name: value for name, value in vars(default).items() if not name.startswith("_")}
    changes: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, PretrainedConfig):
            part = _tiny(type(value), level, value)
            changes[name] = part if _TAKES_PARTS else part.to_dict()
        else:
            small = _shrunk(name, value, level)
            if small is not value:
                changes[name] = small
    for settle in (_heads, _layers, _images, _positions, _vocabulary):
        changes |= dict(settle(fields, changes, level))
    changes |= _FIELDS.get(cls.model_type, {})
    if "block_sizes" in changes:
        changes.pop("num_hidden_layers", None)
    config = cls(**changes)
    # If AutoModel could choose among several classes, this decides.
    classes = MODEL_MAPPING.get(cls, None)
    if isinstance(classes, tuple):
        config.architectures = [getattr(classes[0], "__name__", "")]
    return config


# Each of these yields further changes that make fields fit each other.

Fields: TypeAlias = Mapping[str, Any]
Changes: TypeAlias = Iterator[tuple[str, Any]]


def _heads(fields: Fields, changes: Fields, level: int) -> Changes:
    if level < 2:
        for name, small in (("head_dim", WIDTH // HEADS), ("num_key_value_heads", HEADS)):
            if name in fields and fields[name] is None:
                yield name, small
    for name in (name for name in fields if "key_value_heads" in name or "kv_heads" in name):
        of = name.replace("key_value", "attention").replace("kv_", "")
        if name in changes and fields.get(of) == fields[name]:
            yield name, HEADS


def _layers(fields: Fields, _changes: Fields, _level: int) -> Changes:
    kinds = fields.get("layer_types")
    if isinstance(kinds, list) and kinds:
        # Attention comes first: the cache of a model whose first layer has none does not know its length.
        distinct = sorted(dict.fromkeys(kinds), key=lambda kind: "attention" not in kind or "linear" in kind)
        layers = max(2, len(distinct))
        yield "layer_types", (distinct * layers)[:layers]
        yield "num_hidden_layers", layers
    if "attn_layer_indices" in fields:
        yield "attn_layer_indices", [0]
    if "attn_layer_period" in fields:
        yield from (("attn_layer_period", 2), ("attn_layer_offset", 0))


def _images(fields: Fields, _changes: Fields, level: int) -> Changes:
    patch, side, windows = fields.get("patch_size"), fields.get("image_size"), fields.get("window_size")
    if isinstance(patch, int) and isinstance(side, int) and windows is None and not level:
        yield "image_size", min(side, 4 * patch)
    if windows is not None and "spatial_merge_size" in fields:
        yield "window_size", windows
    heads = fields.get("num_heads")
    if isinstance(heads, (list, tuple)) and isinstance(fields.get("embed_dim"), int):
        yield "embed_dim", 8 * heads[0]
    if isinstance(fields.get("depths"), (list, tuple)):
        yield "depths", [min(depth, 2) for depth in fields["depths"]]


def _positions(fields: Fields, _changes: Fields, _level: int) -> Changes:
    for value in (fields.get("rope_parameters"), fields.get("rope_scaling")):
        if isinstance(value, dict) and "mrope_section" in value:
            yield "rope_parameters", {**value, "mrope_section": [2, 1, 1]}


def _vocabulary(fields: Fields, _changes: Fields, _level: int) -> Changes:
    tokens = fields.get("vocab_size")
    if isinstance(tokens, int):
        special = (value for name, value in fields.items() if name.endswith("_token_id") and isinstance(value, int))
        yield "vocab_size", min(tokens, max(200, max(special, default=0) + 1))


def model_of(model_type: str, config: Any) -> Any:
    """Return the model that AutoModel builds from a configuration."""
    torch.manual_seed(0)
    make: Any = AutoModel.from_config
    return make(config).eval()


def size(config: Any) -> float:
    """Return the approximate number of parameters of a model."""
    try:
        with torch.device("meta"):
            make: Any = AutoModel.from_config
            return float(sum(parameter.numel() for parameter in make(config).parameters()))
    # Some models need numbers while they are built, which meta tensors do not have.
    except RuntimeError:
        return 0.0
