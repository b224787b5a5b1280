"""Whisper and others with its encoder of sounds: two convolutions make frames of a spectrogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anylocal.attention import Patches
from anylocal_bert._family import Family, Run, seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _convolutions(encoder: Any) -> list[Any]:
    return [encoder.conv1, encoder.conv2]


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    mask = given.get("feature_attention_mask")
    if mask is None:
        return
    tower, step = model.audio_tower, seconds_of(given["processor"], "input_features")
    # Two frames of the encoder are one token.
    pooled = tower.conv1.stride[0] * tower.conv2.stride[0] * tower.avg_pooler.stride[0]
    seconds = None if step is None else step * pooled
    _, lengths = tower._get_feat_extract_output_lengths(mask.sum(-1))  # noqa: SLF001  # the model counts itself
    for source, length in enumerate(lengths.tolist()):
        yield Run("audio", source, Patches((1, length), prefix=()), range(length), seconds=seconds)


FAMILY = Family(
    sounds={r"(Whisper|Qwen2Audio)Encoder": _convolutions},
    media={r"Qwen2Audio(Model|ForConditionalGeneration)": _media},
)
