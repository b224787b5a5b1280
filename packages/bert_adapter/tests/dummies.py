"""Inputs for a model of any type, derived from its signature and its configuration."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers.configuration_utils import PretrainedConfig

from .tiny import WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BATCH: Final = 2
TOKENS: Final = 24
"""Longer than any window."""
MORE: Final = 17
"""Length of the decoder's text."""


_BINS: Final = (
    *("num_mel_bins", "feature_size", "input_feat_per_channel", "feature_projection_input_dim"),
    *("input_dim", "n_mels"),
)
"""Names of the number of frequencies in configurations."""


def inputs(model: Any) -> Iterator[dict[str, Any]]:
    """Yield sets of inputs that a model may take, the most complete first."""
    config = model.config
    takes = inspect.signature(model.forward).parameters
    main = model.main_input_name
    text = dict(_text(config, takes))
    pixels = {"pixel_values": _pixels(config)} if "pixel_values" in takes else {}
    features = dict(_features(config, takes))
    for extra in ({**pixels, **features}, pixels, features, {}):
        yield from _together(text, extra, main)
    if main not in text and main in takes:
        yield {main: _pixels(config)}
        yield {main: _noise(BATCH, TOKENS, WIDTH)}
    if "spatial_shapes" in takes:
        cut = {"pixel_values": _noise(BATCH, 16, 3 * 16 * 16), "spatial_shapes": torch.full((BATCH, 2), 4)}
        yield {**text, **cut, "pixel_attention_mask": torch.ones(BATCH, 16, dtype=torch.long)}
        yield {**cut, "pixel_attention_mask": torch.ones(BATCH, 16, dtype=torch.long)}
    if takes.keys() & {"grid_thw", "image_grid_thw"}:
        yield from _patches(config, takes)
    yield {"inputs_embeds": _noise(BATCH, TOKENS, WIDTH)}
    yield from _series(config, takes)
    yield from _sounds_and_videos(config, takes)


def _together(text: dict[str, Any], extra: dict[str, Any], main: str) -> Iterator[dict[str, Any]]:
    both = {**text, **extra}
    if both and main in {*both, "input_ids"}:
        yield both
    if "attention_mask" in both:
        yield {name: value for name, value in both.items() if name != "attention_mask"}
    if extra:
        yield extra
        if "decoder_input_ids" in text:
            yield {**extra, "decoder_input_ids": text["decoder_input_ids"]}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=_generator())


def _first(config: Any, *names: str) -> Any:
    """Return the first of several fields that a configuration or a part of it has."""
    parts = [config, *(part for part in vars(config).values() if isinstance(part, PretrainedConfig))]
    parts += [p for part in parts[1:] for p in vars(part).values() if isinstance(p, PretrainedConfig)]
    values = (getattr(part, name, None) for name in names for part in parts)
    return next((value for value in values if value is not None), None)


def _text(config: Any, takes: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    if "input_ids" in takes:
        yield "input_ids", _ids(config, TOKENS)
        if "attention_mask" in takes:
            mask = torch.ones(BATCH, TOKENS, dtype=torch.long)
            mask[1, -4:] = 0
            yield "attention_mask", mask
    if "decoder_input_ids" in takes:
        yield "decoder_input_ids", _ids(config, MORE)
    if "bbox" in takes:
        corners = torch.randint(0, 100, (BATCH, TOKENS, 4), generator=_generator())
        yield "bbox", corners.cumsum(-1).clamp(max=900)


def _ids(config: Any, length: int) -> torch.Tensor:
    tokens = _first(config, "vocab_size")
    # Above the special tokens of most vocabularies.
    most = min(tokens, 190) if isinstance(tokens, int) else 100
    return torch.randint(5, most, (BATCH, length), generator=_generator())


def _pixels(config: Any) -> torch.Tensor:
    side = _first(config, "image_size", "input_size") or 64
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    channels = _first(config, "num_channels", "in_channels", "in_chans") or 3
    return _noise(BATCH, int(channels), int(height), int(width))


def _patches(config: Any, takes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield images of any size that are already divided into patches, concatenated."""
    side = int(_first(config, "patch_size") or 14)
    channels = int(_first(config, "in_channels", "in_chans", "num_channels") or 3)
    grid = torch.tensor([[1, 8, 4], [1, 4, 4]])
    for frames in dict.fromkeys((int(_first(config, "temporal_patch_size") or 1), 1)):
        cut = _noise(int(grid.prod(1).sum()), channels * frames * side * side)
        for first in {"hidden_states", "pixel_values"} & takes.keys():
            for second in {"grid_thw", "image_grid_thw"} & takes.keys():
                yield {first: cut, second: grid}


def _features(config: Any, takes: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    bins = int(_first(config, *_BINS) or 80)
    kind = str(getattr(config, "model_type", ""))
    if "input_features" in takes and kind == "whisper":
        yield "input_features", _noise(BATCH, bins, 2 * config.max_source_positions)
    elif "input_features" in takes:
        yield "input_features", _noise(BATCH, 96, bins)
    if "input_values" in takes and kind.startswith("audio-spec"):
        yield "input_values", _noise(BATCH, config.max_length, config.num_mel_bins)
    elif "input_values" in takes:
        yield "input_values", _noise(BATCH, 6400)


def _series(config: Any, takes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if "past_values" not in takes:
        return
    context = int(_first(config, "context_length", "seq_length") or TOKENS)
    channels = int(_first(config, "num_input_channels", "input_size") or 1)
    yield {"past_values": _noise(BATCH, context, channels)}
    past = context + int(max(_first(config, "lags_sequence") or [0]))
    future = int(_first(config, "prediction_length") or 4)
    times = int(_first(config, "num_time_features") or 0)
    each = () if channels == 1 else (channels,)
    yield {
        "past_values": _noise(BATCH, past, *each),
        "past_time_features": _noise(BATCH, past, times),
        "past_observed_mask": torch.ones(BATCH, past, *each),
        "future_values": _noise(BATCH, future, *each),
        "future_time_features": _noise(BATCH, future, times),
    }
    yield {"past_values": _noise(BATCH, context)}


def _sounds_and_videos(config: Any, takes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name in {"pixel_values", "pixel_values_videos"} & takes.keys():
        frames = int(_first(config, "num_frames", "frames_per_clip") or 4)
        yield {name: _pixels(config)[:, None].repeat(1, frames, 1, 1, 1)}
    bins = int(_first(config, "num_mel_bins", "feature_size") or 80)
    if "input_values" in takes:
        yield {"input_values": _noise(BATCH, 1, 6400)}
        yield {"input_values": _noise(BATCH, TOKENS, bins)}
    if "input_features" in takes:
        yield {"input_features": _noise(BATCH, bins, 3000)}
