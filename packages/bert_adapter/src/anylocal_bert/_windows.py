"""Where the patches of windows lie, in models built like Swin: a grid that is padded, rolled and cut up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anylocal.adapter import functions_in, module_names
from anylocal.attention import Axis, Patches, PlacedPatches

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

    import numpy.typing as npt
    import torch

    from anylocal import Call
    from anylocal.adapter import InputContext

_LAYER: Final = re.compile(r"(\w*Swin\w*|ClapAudio)Layer")

GRID: Final = "input_dimensions"
"""The argument by which a layer is told how many rows and columns of patches it is given."""


def cutting_functions(model: torch.nn.Module) -> Iterator[types.FunctionType]:
    """Give the functions that cut a grid up, which are told how large it is."""
    for cls in dict.fromkeys(type(module) for module in model.modules()):
        if _LAYER.fullmatch(cls.__name__):
            for function in functions_in(vars(cls).get("forward")):
                if GRID in function.__code__.co_varnames[: function.__code__.co_argcount]:
                    yield function


def in_windows(call: Call, context: InputContext, length: int, image_size: tuple[int, int] | None) -> Axis | None:
    """Return the patches of the windows of a layer, None where it is no such layer, or does not tell.

    Parameters
    ----------
    call : Call
        The call of its attention.
    context : InputContext
        The model, and what its layers were given.
    length : int
        How many patches a window has.
    image_size : (int, int), optional
        Height and width of the image that was cut into patches.
    """
    name, _, inner = call.name.rpartition(".")
    while inner and GRID not in context.seen.get(name, {}):
        name, _, inner = name.rpartition(".")
    if not inner:
        return None
    layer: Any = context.memory.setdefault("layers", dict(module_names(context.model)))[name]
    rows, columns = (int(size) for size in context.seen[name][GRID])
    window, shift = int(layer.window_size), int(layer.shift_size)
    if window * window != length:
        # A smaller image, later, has made it smaller for good.
        return None
    places = _places(rows, columns, window, shift)
    # One window that holds all patches row by row is the plain thing.
    if len(places) == 1 and np.array_equal(places[0], np.arange(rows * columns)):
        return Patches((rows, columns), prefix=(), image_size=image_size)
    return PlacedPatches((rows, columns), places, image_size=image_size)


def _places(rows: int, columns: int, window: int, shift: int) -> npt.NDArray[np.int64]:
    """Return where the patches of each window lie: padded below and to the right first, then rolled."""
    index = np.arange(rows * columns).reshape(rows, columns)
    index = np.pad(index, ((0, -rows % window), (0, -columns % window)), constant_values=-1)
    index = np.roll(index, (-shift, -shift), (0, 1))
    down, across = index.shape[0] // window, index.shape[1] // window
    return index.reshape(down, window, across, window).transpose(0, 2, 1, 3).reshape(-1, window * window)
