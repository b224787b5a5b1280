"""Frames of a sound: how many the convolutions of an encoder make of its input, and when each begins."""

from __future__ import annotations

import inspect
import math
import re
from typing import TYPE_CHECKING, Any, Final

from anylocal.adapter import Observation, functions_in
from anylocal.attention import Media, Patches, Tokens
from anylocal_bert._family import modules_of, seconds_of
from anylocal_bert._sources import around
from anylocal_bert.families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch

    from anylocal.adapter import InputContext

_GIVEN: Final = ("input_features", "input_values")
"""The arguments of encoders that are sounds: columns of a spectrogram, and samples."""


def sound_observations(model: torch.nn.Module) -> Iterator[Observation]:
    """Yield what records the length of the sounds that encoders are given."""
    kinds: Any = dict.fromkeys(type(module) for module in model.modules())
    for cls in (cls for cls in kinds if _convolutions(cls) is not None):
        for function in functions_in(cls.forward):
            yield Observation(function, arguments=(_argument(cls),), keep=_shape)


def frames_of(name: str, length: int, context: InputContext) -> tuple[str, Tokens] | None:
    """Return the encoder around a layer and its frames, of which there must be so many; None where a time is unknown.

    Times are known of a processor, or a feature extractor, that the capture was given.
    """
    if context.about is None:
        return None
    modules = modules_of(context)
    owner = next((each for each in around(name) if _convolutions(type(modules.get(each))) is not None), None)
    if owner is None:
        return None
    known: dict[tuple[str, int], Tokens | None] = context.memory.setdefault("frames", {})
    if (owner, length) not in known:
        known[owner, length] = _frames(modules[owner], context.seen.get(owner, {}), length, context.about)
    frames = known[owner, length]
    return None if frames is None else (owner, frames)


def _frames(encoder: Any, seen: Any, length: int, about: Any) -> Tokens | None:
    argument = _argument(type(encoder))
    shape, step = seen.get(argument), seconds_of(about, argument)
    convolutions: Any = _convolutions(type(encoder))
    layers = [*convolutions(encoder)]
    if shape is None or step is None or _after(layers, shape[-1]) != length:
        return None
    seconds = step * math.prod(layer.stride[0] for layer in layers)
    media = Media("audio", range(length), Patches((1, length), prefix=()), seconds=seconds)
    return Tokens([f"{number * seconds:.6g} s" for number in range(length)], media=[media])


def _after(layers: Iterable[Any], length: int) -> int:
    """Return how many frames convolutions make, one after the other."""
    for layer in layers:
        reach = layer.dilation[0] * (layer.kernel_size[0] - 1)
        length = (length + 2 * layer.padding[0] - reach - 1) // layer.stride[0] + 1
    return length


def _convolutions(cls: type) -> Callable[[Any], Iterable[torch.nn.Module]] | None:
    patterns = (pair for family in FAMILIES for pair in family.sounds.items())
    return next((found for pattern, found in patterns if re.fullmatch(pattern, cls.__name__)), None)


def _argument(cls: Any) -> str:
    return next(name for name in _GIVEN if name in inspect.signature(cls.forward).parameters)


def _shape(value: Any) -> Any:
    return tuple(value.shape) if hasattr(value, "shape") else None
