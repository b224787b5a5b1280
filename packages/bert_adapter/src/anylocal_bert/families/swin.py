"""Swin and models built like it: a grid of patches is padded, rolled and divided into windows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anylocal.adapter import Observation, argument_names, functions_in, module_names
from anylocal.attention import Axis, Patches, PlacedPatches
from anylocal_bert._family import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    import torch

    from anylocal import Call
    from anylocal.adapter import InputContext

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
    layer: Any = context.memory.setdefault("layers", dict(module_names(context.model)))[name]
    rows, columns = (int(size) for size in context.seen[name][_GRID])
    window, shift = int(layer.window_size), int(layer.shift_size)
    if window * window != keys:
        # A later, smaller image has reduced `window_size` for good.
        return None
    places = _places(rows, columns, window, shift)
    # A single window whose patches are in order is the whole grid.
    if len(places) == 1 and np.array_equal(places[0], np.arange(rows * columns)):
        return Patches((rows, columns), prefix=(), image_size=image_size)
    return PlacedPatches((rows, columns), places, image_size=image_size)


def _places(rows: int, columns: int, window: int, shift: int) -> npt.NDArray[np.int64]:
    """Return the index in the grid of each patch of each window, -1 for the padding below and to the right."""
    index = np.arange(rows * columns).reshape(rows, columns)
    index = np.pad(index, ((0, -rows % window), (0, -columns % window)), constant_values=-1)
    index = np.roll(index, (-shift, -shift), (0, 1))
    down, across = index.shape[0] // window, index.shape[1] // window
    return index.reshape(down, window, across, window).transpose(0, 2, 1, 3).reshape(-1, window * window)


FAMILY = Family(observations=_observations, windows=_windows)
