"""Sounds: which frames and tokens stand for which time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

import anylocal_bert
from anylocal.attention import AttentionMap, Axis, Tokens

from .media_types import PADDING, TEXT, built
from .test_media import media_of

RATE = 16000
ENCODER = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 32, "d_model": 32, "num_mel_bins": 80}


def perturbed(model: Any) -> Any:
    """Return a model whose maps are far from uniform, and in which no layer but the text's mixes frames."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            if name.endswith(("encoder_attn.k_proj.weight", "encoder_attn.q_proj.weight")):
                parameter.mul_(2)
        for name, module in model.named_modules():
            encoder = "encoder.layers" in name or "audio_tower.layers" in name
            if "decoder" not in name and encoder and name.endswith(("attn.out_proj", "attention.out_proj")):
                module.weight.zero_()
            # The frame's own columns only.
            if name.endswith(("conv1", "conv2")):
                module.weight[..., 0] = 0
                module.weight[..., 2] *= name.endswith("conv2")
            if name.endswith("pos_conv_embed.conv"):
                torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
                module.weight.zero_()
    return model.eval()


def extractor_of(name: str, **options: Any) -> Any:
    """Return a feature extractor."""
    make: Any = getattr(transformers, f"{name}FeatureExtractor")
    return make(**options)


def whisper() -> tuple[Any, Any]:
    """Return a model and its feature extractor, for sounds of one second."""
    sizes = {name.replace("encoder", "decoder"): size for name, size in ENCODER.items() if "encoder" in name}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "vocab_size": 50}
    config = built("WhisperConfig")(max_source_positions=50, **ENCODER, **sizes, **tokens)
    make: Any = transformers.WhisperModel
    return perturbed(make(config)), extractor_of("Whisper", chunk_length=1)


def sound(start: float | None = None, end: float = 0.0) -> np.ndarray[Any, Any]:
    """Return a second of noise, which is another between two times."""
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    if start is not None:
        part = slice(int(start * RATE), int(end * RATE))
        noise[part] = 3 * np.random.default_rng(1).normal(size=len(noise[part]))
    return noise


def whisper_maps(model: Any, extractor: Any, given: Any, **options: Any) -> Any:
    features = extractor(given, sampling_rate=RATE, return_tensors="pt")
    with anylocal_bert.capture_attention(model, **options) as maps, torch.no_grad():
        model(**features, decoder_input_ids=torch.tensor([[2, 10, 11]]))
    return maps


@pytest.mark.parametrize("part", ["encoder.layers.0.self_attn", "decoder.layers.0.encoder_attn"])
def test_the_frame_of_a_sound_that_changes_changes_most(part: str) -> None:
    """The column that changes most is at the time of the change, in Whisper's encoder and where its text reads it."""
    model, extractor = whisper()
    before, after = (
        whisper_maps(model, extractor, given, tokenizer=extractor)[part] for given in (sound(), sound(0.4, 0.5))
    )
    (frames,) = media_of(before)
    assert frames.name == "audio 0: 50 frames of 0.02 s"
    change = (
        (after[0] - before[0]).abs().sum((0, 1))
        if "encoder_attn" in part
        else (after[0] - before[0])[:, 5].abs().sum(0)
    )
    assert 0.4 <= float(before.keys.label(int(change.argmax())).removesuffix(" s")) < 0.5


def test_frames_without_a_feature_extractor_are_counted() -> None:
    """Only it knows how many samples are a second."""
    model, extractor = whisper()
    assert whisper_maps(model, extractor, sound())["encoder.layers.0.self_attn"].keys == Axis(50)


def convolutional(name: str) -> tuple[Any, Any]:
    """Return a model of samples, whose frames begin every 20 samples, and its feature extractor."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    convolutions = {"conv_dim": (16, 16), "conv_kernel": (5, 4), "conv_stride": (5, 4), "num_feat_extract_layers": 2}
    extras = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer"}
    config = built(f"{name}Config")(vocab_size=32, **sizes, **convolutions, **extras)
    return perturbed(getattr(transformers, f"{name}Model")(config)), extractor_of("Wav2Vec2", do_normalize=False)


@pytest.mark.parametrize("name", ["Wav2Vec2", "Hubert"])
def test_samples_that_change_change_their_frame_most(name: str) -> None:
    """The frames of a batch, of which one sound is shorter, are known by the sampling rate."""
    model, extractor = convolutional(name)
    mask = torch.ones(2, 400, dtype=torch.long)
    mask[1, 300:] = 0
    given = torch.from_numpy(sound()[:800].reshape(2, 400))
    changed = given.clone()
    changed[:, 160:180] = 3 * given[:, :20]
    maps = []
    for each in (given, changed):
        with anylocal_bert.capture_attention(model, tokenizer=extractor) as found, torch.no_grad():
            model(input_values=each, attention_mask=mask)
        maps.append(found[0])
    before, after = maps
    assert [item.name for item in media_of(before)] == [
        f"audio 0{text}: 20 frames of 0.00125 s" for text in ("", " of text 1")
    ]
    assert isinstance(before.keys, Tokens)
    assert before.keys.is_padding(1).any()
    assert not before.keys.is_padding(0).any()
    for text in (0, 1):
        change = (after[text] - before[text])[:, 2].abs().sum(0)
        assert before.keys.label(int(change.argmax()), text) == "0.01 s"


def qwen2_audio() -> tuple[Any, Any]:
    """Return a model of texts with sounds of up to one second, and its feature extractor."""
    tower = {**ENCODER, "max_source_positions": 50}
    text: Any = built("Qwen2Config")(**TEXT)
    config = built("Qwen2AudioConfig")(audio_config=tower, text_config=text, audio_token_index=60)
    make: Any = transformers.Qwen2AudioForConditionalGeneration
    return perturbed(make(config)), extractor_of("Whisper", chunk_length=1)


def test_the_token_of_a_sound_that_changes_changes_most() -> None:
    """Qwen2-Audio's tokens are two frames each; sounds of two lengths, in texts that are padded on the left."""
    model, extractor = qwen2_audio()
    lengths = (12, 25)
    texts = [[2, *[60] * 12, 10, 11], [*[60] * 25, 12]]
    longest = max(map(len, texts))
    ids = torch.tensor([[PADDING] * (longest - len(text)) + text for text in texts])

    def maps_of(*given: Any) -> AttentionMap:
        made = extractor(list(given), sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
        mask = (ids != PADDING).long()
        features = {"input_features": made["input_features"], "feature_attention_mask": made["attention_mask"]}
        with anylocal_bert.capture_attention(model, tokenizer=extractor) as maps, torch.no_grad():
            model(input_ids=ids, attention_mask=mask, **features)
        return next(each for each in maps if "language_model" in each.name)

    before = maps_of(sound()[: RATE // 2], sound())
    media = media_of(before)
    assert [item.name for item in media] == ["audio 0: 12 frames of 0.04 s", "audio 0 of text 1: 25 frames of 0.04 s"]
    assert [len(item.positions) for item in media] == [*lengths]
    for text, start in ((0, 0.2), (1, 0.6)):
        changed = [sound()[: RATE // 2], sound()]
        changed[text] = sound(start, start + 0.08)[: len(changed[text])]
        change = (maps_of(*changed)[text, :, -1] - before[text, :, -1]).abs().sum(0)
        frame = int(media[text].picture(change).argmax())
        assert int(change.argmax()) == media[text].positions[frame]
        assert start <= frame * 0.04 + 0.02 < start + 0.08
