"""Swin and models built like it: a grid of patches is padded, rolled and divided into windows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from anylocal.adapter import Observation, argument_names, functions_in
from anylocal_bert._family import Family, in_windows, modules_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from anylocal import Call
    from anylocal.adapter import InputContext
    from anylocal.attention import Axis

_LAYER: Final = re.compile(r"(\w*Swin\w*|ClapAudio)Layer")

# The argument of a layer that holds the rows and columns of its patches.
_GRID: Final = "input_dimensions"


def _observations(model: torch.nn.Module) -> Iterator[Observation]:
    for cls in dict.fromkeys(type(module) for module in model.modules()):
        if _LAYER.fullmatch(cls.__name__):
            for function in functions_in(vars(cls).get("forward")):
                if _GRID in argument_names(function.__code__):
                    yield Observation(function, arguments=(_GRID,))


def _windows(call: Call, context: InputContext, keys: int, image_size: tuple[int, int] | None) -> Axis | None:
    name, _, inner = call.name.rpartition(".")
    while inner and _GRID not in context.seen.get(name, {}):
        name, _, inner = name.rpartition(".")
    if not inner:
        return None
    layer = modules_of(context)[name]
    rows, columns = (int(size) for size in context.seen[name][_GRID])
    window, shift = int(layer.window_size), int(layer.shift_size)
    if window * window != keys:
        # A later, smaller image has reduced `window_size` for good.
        return None
    return in_windows((rows, columns), window, shift=shift, image_size=image_size)


FAMILY = Family(observations=_observations, windows=_windows)
