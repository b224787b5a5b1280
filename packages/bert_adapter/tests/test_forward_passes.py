"""What `generate` runs before the model's own forward, such as a vision tower, belongs to the prefill."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import transformers

import anylocal_bert
from anylocal.testing import perturb

LAYERS, STEPS = 2, 3
IMAGE, VIDEO = 40, 41
SIDES, HEADS = ("encoder", "decoder"), "attention_heads"
TEXT: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": LAYERS}


def of(name: str, config: Any) -> Any:
    torch.manual_seed(0)
    return perturb(getattr(transformers, name)(config), scale=0.3).eval()


def llava() -> tuple[Any, dict[str, Any]]:
    """Return a model that encodes the image in 16 patches, and a prompt with one."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=4
    )
    text = LlamaConfig(**TEXT, num_attention_heads=4, num_key_value_heads=2, eos_token_id=None, pad_token_id=0)
    model = of(
        "LlavaForConditionalGeneration", LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    )
    ids = torch.tensor([[5, *[IMAGE] * 16, 6, 7]])
    return model, {"input_ids": ids, "pixel_values": torch.randn(1, 3, 16, 16)}


def qwen(*media: str) -> tuple[Any, dict[str, Any]]:
    """Return a model whose vision tower attends window by window, and a prompt with images or videos of 24 patches."""
    config_class: Any = getattr(transformers, "Qwen2_5_VLConfig", None)
    if config_class is None:
        pytest.skip("needs a transformers with Qwen2.5-VL")
    sections = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = {**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    text |= {"rope_scaling": sections, "eos_token_id": None, "bos_token_id": 0, "pad_token_id": 0}
    if hasattr(config_class(), "text_config"):
        text = {"text_config": {**text, "rope_parameters": sections}}
    sizes = {"patch_size": 4, "window_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    tokens = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": 42, "vision_end_token_id": 43}
    config = config_class(**text, vision_config={**vision, **sizes, "fullatt_block_indexes": [1]}, **tokens)
    model = of("Qwen2_5_VLForConditionalGeneration", config)
    ids = [5]
    given: dict[str, Any] = {}
    for kind, token in (("image", IMAGE), ("video", VIDEO)):
        if kind in media:
            ids += [42, *[token] * 6, 43]
            given[f"{kind}_grid_thw"] = torch.tensor([[1, 4, 6]])
            given["pixel_values" if kind == "image" else "pixel_values_videos"] = torch.randn(24, 96)
    given["input_ids"] = torch.tensor([[*ids, 6, 7]])
    # Earlier versions find images and videos by their tokens alone.
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        given["mm_token_type_ids"] = (given["input_ids"] == IMAGE).long() + 2 * (given["input_ids"] == VIDEO).long()
    return model, given


def generated(model: Any, given: dict[str, Any]) -> Any:
    options: Any = {"max_new_tokens": STEPS, "do_sample": False}
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        out = model.generate(**given, **options)
    assert out.shape[1] >= STEPS
    return maps


def test_a_vision_tower_belongs_to_the_prefill() -> None:
    """LLaVA's prompt and each further token are one forward pass, and the first holds the image's layers."""
    prefill, *steps = generated(*llava()).forwards
    assert [("vision" in name) for name in prefill.names] == [True] * 3 + [False] * LAYERS
    assert [len(step) for step in steps] == [LAYERS] * (STEPS - 1)
    assert [step[0].forward for step in steps] == [1, 2]


@pytest.mark.parametrize("media", [("image",), ("video", "image")], ids=["image", "image and video"])
def test_a_tower_that_runs_window_by_window_belongs_to_the_prefill(media: tuple[str, ...]) -> None:
    """Qwen2.5-VL calls its kernel for each window, and its tower for images and for videos."""
    prefill, *steps = generated(*qwen(*media)).forwards
    assert next(name for name in prefill.names if "visual" not in name).endswith("layers.0.self_attn")
    assert sum("blocks.1" in each.name for each in prefill) == len(media)
    assert [len(step) for step in steps] == [LAYERS] * (STEPS - 1)


def test_a_tower_called_alone_window_by_window_is_one_forward_pass() -> None:
    """Several kernel calls of one layer are no sign that the model runs again."""
    model, given = qwen("image")
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        for _ in range(2):
            model.get_image_features(given["pixel_values"], given["image_grid_thw"])
    assert [each.names for each in maps.forwards] == [maps.names] * 2


def test_a_single_layer_called_alone_twice_makes_two_forward_passes() -> None:
    """The same layer runs again, for another text."""
    kind: Any = transformers.BertConfig
    model = of("BertForSequenceClassification", kind(**{**TEXT, "num_hidden_layers": 1}, num_attention_heads=4))
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        for _ in range(2):
            model.bert(torch.tensor([[5, 6, 7]]))
    assert [len(each) for each in maps.forwards] == [1, 1]


@pytest.mark.parametrize("name", ["T5", "Bart", "Whisper"])
def test_an_encoder_belongs_to_the_first_step_of_the_decoder(name: str) -> None:
    """`generate` encodes the text or sound and decodes the first token: that is one run of the whole model."""
    kind: Any = getattr(transformers, f"{name}Config")
    sizes: dict[str, Any] = {"d_ff": 32, "d_kv": 8, "num_heads": 4, "num_layers": 2}
    if name != "T5":
        sizes = {f"{side}_{what}": n for side in SIDES for what, n in (("layers", 2), ("ffn_dim", 32), (HEADS, 4))}
        sizes |= {"pad_token_id": 0, "bos_token_id": 1}
    sounds = {"max_source_positions": 20, "num_mel_bins": 8} if name == "Whisper" else {}
    config = kind(vocab_size=50, d_model=32, decoder_start_token_id=2, **sizes, **sounds)
    model = of(f"{name}ForConditionalGeneration", config)
    settings = model.generation_config
    settings.eos_token_id = settings.forced_eos_token_id = settings.begin_suppress_tokens = None
    given = {"input_features": torch.randn(1, 8, 40)} if name == "Whisper" else {"input_ids": torch.tensor([[5, 6, 7]])}
    first, *steps = generated(model, given).forwards
    assert [each.name.partition("coder.")[0][-2:] for each in first] == ["en"] * 2 + ["de"] * 4
    assert [len(step) for step in steps] == [4] * (STEPS - 1)
    with torch.no_grad():
        one = {**given, "decoder_input_ids": torch.tensor([[config.decoder_start_token_id]])}
        with anylocal_bert.capture_attention(model) as maps:
            model(**one)
    assert first.names == maps.names


def test_two_calls_of_generate_are_apart() -> None:
    """Each encodes its own image for its own prefill."""
    model, given = llava()
    options: Any = {"max_new_tokens": 1, "do_sample": False}
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        for _ in range(2):
            model.generate(**given, **options)
    assert [each.names for each in maps.forwards] == [maps.names] * 2
