"""Pictures of what words attend to in a sound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import transformers

import anylocal_bert
from anylocal.attention import AttentionMap, AttentionMaps, Media, Patches, Tokens
from anylocal.errors import NameNotFoundError, OptionError, ShapeError, StateError
from anylocal_bert import plot

from .test_sounds import RATE, sound, whisper


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def text_with_sound(seconds: float | None = 0.5, frames: int = 4) -> AttentionMap:
    media = Media("audio", range(1, frames + 1), Patches((1, frames), prefix=()), seconds=seconds)
    axis = Tokens(["<s>", *["<sound>"] * frames, "an", "owl"], media=[media])
    weights = torch.rand(1, 2, len(axis), len(axis), generator=torch.Generator().manual_seed(0))
    return AttentionMap.from_weights(weights / weights.sum(-1, keepdim=True), queries=axis, keys=axis)


def drawn(ax: Any) -> Any:
    return np.asarray(ax.images[1].get_array())


def test_a_word_over_the_spectrogram() -> None:
    """Its weights are those of the frames, and the axis is in seconds."""
    attention = text_with_sound()
    ax = plot.spectrogram(attention, np.sin(np.arange(2 * RATE)), query="owl", rate=RATE)
    expected = attention.tensor()[0, :, 6, 1:5].mean(0).reshape(1, 4)
    np.testing.assert_allclose(drawn(ax), expected, rtol=1e-5)
    assert ax.get_xlabel() == "time in seconds"
    ax.figure.canvas.draw()
    shown = [float(text.get_text()) for text in ax.get_xticklabels()]
    width = ax.get_xlim()[1]
    np.testing.assert_allclose(ax.get_xticks() / width * 2, shown, atol=1e-3)
    assert f"{expected.sum():.2g}".removeprefix("0") in ax.get_title()


def test_frequencies_of_samples_are_told() -> None:
    """A tone's row is as high as its frequency, from 0 at the bottom to half the rate; without a rate none is known."""
    tone = np.sin(2 * np.pi * 3000 * np.arange(2 * RATE) / RATE)
    ax = plot.spectrogram(text_with_sound(), tone, query="owl", rate=RATE)
    ax.figure.canvas.draw()
    assert ax.get_ylabel() == "frequency in kHz"
    shown = [float(text.get_text()) for text in ax.get_yticklabels()]
    (bottom, top), rows = ax.get_ylim(), np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose((ax.get_yticks() - bottom) / (top - bottom) * RATE / 2000, shown, atol=1e-3)
    loudest = 1 - (rows.mean((1, *range(2, rows.ndim))).argmax() + 0.5) / len(rows)
    assert loudest * RATE / 2 == pytest.approx(3000, abs=RATE / 2 / len(rows))
    plain = plot.spectrogram(text_with_sound(), tone, query="owl")
    assert (plain.get_ylabel(), len(plain.get_yticks())) == ("frequency", 0)


def test_frames_after_the_end_of_a_sound_are_left_out() -> None:
    """A model may fill a sound up with silence."""
    ax = plot.spectrogram(text_with_sound(), np.ones(int(0.9 * RATE)), query="owl", rate=RATE)
    assert drawn(ax).shape == (1, 2)
    with pytest.raises(ShapeError, match=r"lasts 3 s and the model heard 2 s"):
        plot.spectrogram(text_with_sound(), np.ones(3 * RATE), query="owl", rate=RATE)


def test_a_spectrogram_covers_all_frames() -> None:
    """Its loudest column is white, low frequencies are at the bottom, and frames without times are numbered."""
    given = np.zeros((8, 16))
    given[0, 4] = 1.0
    ax = plot.spectrogram(text_with_sound(None), given, query="owl")
    assert drawn(ax).shape == (1, 4)
    assert ax.get_xlabel() == "frame"
    assert np.argwhere(np.asarray(ax.images[0].get_array()) == 1.0).tolist() == [[7, 4]]


def test_sounds_that_cannot_be_drawn() -> None:
    """Their shape, their rate, and maps without a sound."""
    with pytest.raises(ShapeError, match="got"):
        plot.spectrogram(text_with_sound(), np.ones((2, 2, 2)), query="owl")
    with pytest.raises(OptionError, match="must be positive"):
        plot.spectrogram(text_with_sound(), np.ones(8), query="owl", rate=0)
    with pytest.raises(StateError, match="No map has a sound"):
        plot.spectrogram(AttentionMap.from_weights(torch.eye(2)[None, None]), np.ones(8), query=0)


def test_the_words_that_whisper_writes_over_its_sound() -> None:
    """Of its maps, those of the text that attends to the sound; the steps of a generation are joined."""
    model, extractor = whisper()
    features = extractor(sound(), sampling_rate=RATE, return_tensors="pt")
    make: Any = transformers.WhisperForConditionalGeneration
    writer = make(model.config).eval()
    writer.model = model
    tokens = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": 1}
    with anylocal_bert.capture_attention(writer, tokenizer=extractor) as maps, torch.no_grad():
        writer.generate(**features, **tokens, decoder_input_ids=torch.tensor([[2]]), return_timestamps=False)
    # Its generate() returns other tokens than those that its text has read.
    read = [int(label) for label in AttentionMaps(maps).generation()[-1].queries.labels()]
    assert len(read) >= 4
    ax = plot.spectrogram(maps, sound(), query=1, rate=RATE)
    with anylocal_bert.capture_attention(writer, tokenizer=extractor) as whole, torch.no_grad():
        writer(**features, decoder_input_ids=torch.tensor([read]))
    expected = np.mean([layer.tensor()[0, :, 1].mean(0) for layer in whole if "encoder_attn" in layer.name], axis=0)
    np.testing.assert_allclose(drawn(ax)[0], expected, atol=1e-5)
    assert "mean of 2 layers" in ax.get_title()
    with pytest.raises(NameNotFoundError):
        plot.spectrogram(maps, sound(), query="0.4 s", rate=RATE)
    tower = [each for each in maps if each.name.startswith("model.encoder")]
    assert "query 0.4 s" in plot.spectrogram(tower, sound(), query="0.4 s", rate=RATE).get_title()
