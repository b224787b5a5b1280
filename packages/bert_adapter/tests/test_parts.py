"""Models of several parts: positions have the names of their own part's input, or are only counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import anylocal_bert
from anylocal.attention import Axis, Patches, PlacedPatches, Tokens

from .test_forward_passes import qwen

PATCHES = Patches(grid=(4, 4), prefix=("cls",), image_size=(16, 16))
IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LAYERS: dict[str, Any] = dict.fromkeys(("hidden_size", "intermediate_size"), 32)
LAYERS |= {"num_hidden_layers": 2, "num_attention_heads": 2}
VISION: dict[str, Any] = {**LAYERS, "image_size": 16, "patch_size": 4}


def of(name: str, config: Any) -> Any:
    torch.manual_seed(0)
    return getattr(transformers, name)(config).eval()


def captured(model: Any, **given: Any) -> dict[str, Any]:
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        model(**given)
    return {item.name: item for item in maps}


def text(length: int, *before: int) -> torch.Tensor:
    return torch.tensor([[*before, *range(10, 10 + length - len(before))]])


@pytest.mark.parametrize("length", [8, len(PATCHES)], ids=["a short text", "as many tokens as patches"])
def test_learned_queries_attend_to_patches(length: int) -> None:
    """BLIP-2 queries the image: these queries are neither words nor patches, and the keys are patches."""
    kind: Any = transformers.Blip2Config
    opt: dict[str, Any] = {
        "hidden_size": 32,
        "ffn_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 100,
    }
    opt |= {"word_embed_proj_dim": 32, "model_type": "opt", "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": None}
    former = {**LAYERS, "encoder_hidden_size": 32, "cross_attention_frequency": 1, "vocab_size": 50}
    config = kind(
        vision_config=VISION, qformer_config=former, text_config=opt, num_query_tokens=4, image_token_index=99
    )
    ids = text(length, 99, 99, 99, 99)
    maps = captured(of("Blip2ForConditionalGeneration", config), pixel_values=IMAGE, input_ids=ids)
    cross = next(item for name, item in maps.items() if "crossattention" in name)
    assert (cross.queries, cross.keys) == (Axis(4), PATCHES)
    assert next(item for name, item in maps.items() if "qformer" in name).keys == Axis(4)
    assert maps["language_model.model.decoder.layers.0.self_attn"].keys.labels()[4:6] == ["10", "11"]


@pytest.mark.parametrize("length", [8, len(PATCHES)], ids=["a short text", "as many tokens as patches"])
def test_a_text_decoder_attends_to_patches(length: int) -> None:
    """The keys of BLIP's captions are patches, also where the text has as many tokens."""
    kind: Any = transformers.BlipConfig
    words = {**LAYERS, "vocab_size": 100, "encoder_hidden_size": 32, "bos_token_id": 2, "sep_token_id": 3}
    model = of("BlipForConditionalGeneration", kind(text_config={**words, "is_decoder": True}, vision_config=VISION))
    maps = captured(model, pixel_values=IMAGE, input_ids=text(length))
    cross = next(item for name, item in maps.items() if "crossattention" in name)
    assert cross.queries.labels() == [str(token) for token in text(length)[0].tolist()]
    assert cross.keys == PATCHES


@pytest.mark.parametrize("length", [8, len(PATCHES)], ids=["a short question", "as many tokens as patches"])
def test_which_of_two_parts_cross_attention_sees_is_not_guessed(length: int) -> None:
    """The answer's keys are the question's tokens; where image and question are of one length, they are counted."""
    kind: Any = transformers.BlipConfig
    words = {**LAYERS, "vocab_size": 100, "encoder_hidden_size": 32, "bos_token_id": 2, "sep_token_id": 3}
    model = of("BlipForQuestionAnswering", kind(text_config=words, vision_config=VISION))
    answer = {"decoder_input_ids": text(3), "labels": text(3)}
    maps = captured(model, pixel_values=IMAGE, input_ids=text(length), **answer)
    keys = next(item for name, item in maps.items() if "text_decoder" in name and "crossattention" in name).keys
    expected = [str(token) for token in text(length)[0].tolist()]
    assert keys == Axis(length) if length == len(PATCHES) else keys.labels() == expected


def test_a_tower_beside_the_language_model_has_no_names_of_tokens() -> None:
    """Qwen2.5-VL looks the text up first, and its tower reads as many patches as there are tokens."""
    model, given = qwen("image")
    more = 24 - given["input_ids"].shape[1]
    given = {
        name: torch.nn.functional.pad(value, (0, more)) if value.shape[-1] + more == 24 else value
        for name, value in given.items()
    }
    maps = captured(model, **given)
    patches = next(item for name, item in maps.items() if "blocks.1" in name)
    assert isinstance(patches.keys, PlacedPatches)
    assert patches.keys.grid == (4, 6)
    assert next(item for name, item in maps.items() if "layers.0" in name).keys.labels()[:2] == ["5", "42"]


def test_sounds_have_no_names_of_tokens() -> None:
    """Whisper's encoder reads as many frames as its decoder reads tokens, and they stay frames."""
    sides = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 32))}
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    kind: Any = transformers.WhisperConfig
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "vocab_size": 50}
    config = kind(d_model=32, max_source_positions=20, num_mel_bins=8, **sides, **heads, **tokens)
    maps = captured(of("WhisperModel", config), input_features=torch.randn(1, 8, 40), decoder_input_ids=text(20))
    assert maps["encoder.layers.0.self_attn"].keys == Axis(20)
    assert maps["decoder.layers.0.encoder_attn"].keys == Axis(20)
    assert maps["decoder.layers.0.self_attn"].keys.labels()[:2] == ["10", "11"]


def test_padding_of_sounds_is_known() -> None:
    """Frames that the model's own mask hides are padding; whole sounds are only counted."""
    kind: Any = transformers.Wav2Vec2Config
    convolutions = {"conv_dim": (16, 16), "conv_kernel": (10, 8), "conv_stride": (5, 4), "num_feat_extract_layers": 2}
    extras = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer"}
    model = of("Wav2Vec2Model", kind(vocab_size=32, do_stable_layer_norm=True, **LAYERS, **convolutions, **extras))
    sound, mask = torch.randn(2, 400), torch.ones(2, 400, dtype=torch.long)
    whole = captured(model, input_values=sound)["encoder.layers.0.attention"]
    mask[1, 240:] = 0
    padded = captured(model, input_values=sound, attention_mask=mask)["encoder.layers.0.attention"]
    frames = int(model._get_feat_extract_output_lengths(torch.tensor(240)))
    assert whole.keys == Axis(18)
    assert isinstance(padded.keys, Tokens)
    assert padded.keys.labels() == whole.keys.labels()
    assert padded.keys.is_padding(1).tolist() == [False] * frames + [True] * (18 - frames)
    assert not padded.keys.is_padding(0).any()
