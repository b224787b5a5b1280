"""What the adapter must know about one family of models."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from anylocal.adapter import module_names
from anylocal.attention import Patches, PlacedPatches

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable, Iterator, Mapping

    import torch

    from anylocal import Call
    from anylocal.adapter import InputContext, MapAxes, Observation, Reading
    from anylocal.attention import Axis

    ReadMedia: TypeAlias = Callable[[Any, Mapping[str, Any]], Iterable["Run | str"]]
    ReadGrids: TypeAlias = Callable[["Layer"], MapAxes | None]
    Windows: TypeAlias = Callable[[Call, InputContext, int, tuple[int, int] | None], Axis | None]

# What several families have in place of a map.
APPROXIMATED: Final = "attention that is approximated without its map"
GATE: Final = "a gate, which weighs positions without a query"
LINEAR: Final = "linear attention, which never relates a query to a key"
RECURRENT: Final = "a recurrent layer, which has no map"


class Run(NamedTuple):
    """The placeholders of one image, video or sound, or of one view of an image that a model sees several times."""

    kind: Literal["image", "video", "audio"]
    source: int
    """Which one of its kind it is in the batch."""
    patches: Patches
    """Those of an image, or of each frame of a video."""
    cells: Sequence[int]
    """For each placeholder, which of the patches it stands for, counted through all frames; -1 for a separator."""
    frames: int | None = None
    view: str = ""
    seconds: float | None = None
    """How much later each frame of a sound begins."""


class Layer(NamedTuple):
    """An attention layer inside a model that has grids of its own kind."""

    owner: Any
    """The model, a module."""
    name: str
    """The layer's name inside it."""
    given: Callable[[str], Any]
    """From the name of a convolution inside the model to the shape of its input; from "" to the model's own input."""
    image: tuple[int, int] | None
    """Rows and columns of the image that the innermost model around the layer was given, None where not known."""
    keys: int
    """How many keys this call of the layer has."""
    memory: dict[str, Any]
    """What the family keeps of the layer from one call to the next."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the adapter must know about one family, by the names of its classes, which forks keep."""

    functions: str = ""
    r"""A pattern of its attention functions, such as ``r"\w*SelfAttention\.forward"``, for the next four fields."""
    reading: Reading | None = None
    """How the map is read off their calls, where their source does not show it."""
    layout: Callable[[Call, torch.Tensor], torch.Tensor] | None = None
    """From a call and its softmax to the map, (batch, head, query, key)."""
    locals: tuple[str, ...] = ()
    """Further locals recorded in them."""
    fills_blocks: bool = False
    """Whether the model may append padding to the text by itself, and look that up apart."""
    hints: tuple[str, ...] = ()
    """Further locals recorded in every attention function that binds them."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """By a pattern of functions that make a second map in a layer: the part of the layer whose name that map has."""
    padding: Callable[[Mapping[str, Any]], torch.Tensor | None] | None = None
    """From the recorded values to the keys that are padding, (batch, key), None where they do not show it."""
    late_functions: Callable[[torch.nn.Module], Iterable[types.FunctionType]] | None = None
    """From a model to the attention functions of modules that it may create while it runs."""
    observations: Callable[[torch.nn.Module], Iterable[Observation]] | None = None
    """From a model to what must be recorded for `windows`."""
    windows: Windows | None = None
    """From a call, the input, the number of keys and the image size to the patches in each window, None without any."""
    media: Mapping[str, ReadMedia] = field(default_factory=dict)
    """By a pattern of models that take text and media: from a model and its input (shapes of what is no integer, the
    ``tokens`` that are placeholders, the ``tokenizer``, and the ``processor``) to the placeholders of each, or why
    their patches are not known."""
    sounds: Mapping[str, Callable[[Any], Iterable[torch.nn.Module]]] = field(default_factory=dict)
    """By a pattern of encoders of sound: from one to the convolutions that make frames of its input."""
    grids: Mapping[str, ReadGrids] = field(default_factory=dict)
    """By a pattern of models: from a layer inside one to the patches that it relates, of a video or a feature map."""
    unsupported: Mapping[str, str] = field(default_factory=dict)
    """By a pattern of classes that have no map, though they are called attention or replace it: what they are."""
    supported: str = ""
    """A pattern of classes that have a map, though their name says otherwise."""

    def fits(self, function: types.FunctionType) -> bool:
        """Return whether `reading` applies to a function, which may only share its name with the family's."""
        if self.reading is None or not re.fullmatch(self.functions, function.__qualname__):
            return False
        needed = {name for match in self.reading.spec.resulted for name in (match.name, match.uses)}
        return needed.union(self.locals) <= {*function.__code__.co_varnames, *function.__code__.co_names}


def modules_of(context: InputContext) -> dict[str, Any]:
    """Return the modules of a model by name, listed once: to list them takes longer than to read a row of a map."""
    if "modules" not in context.memory:
        context.memory["modules"] = dict(module_names(context.model))
    found: dict[str, Any] = context.memory["modules"]
    return found


def seconds_of(processor: Any, argument: str) -> float | None:
    """Return how long a step of a sound is that a processor made: a sample, or a column of a spectrogram."""
    extractor = getattr(processor, "feature_extractor", processor)
    rate, hop = (getattr(extractor, name, None) for name in ("sampling_rate", "hop_length"))
    step = hop if argument == "input_features" else 1
    return step / rate if isinstance(step, int) and isinstance(rate, int) else None


def images(shape: tuple[int, ...] | None, side: int, *, before: int = 0) -> Iterator[Run]:
    """Yield the placeholders of images of one size, (..., channel, height, width), divided into squares of `side`."""
    if shape is not None:
        patches = Patches((shape[-2] // side, shape[-1] // side), prefix=(), image_size=(shape[-2], shape[-1]))
        for source in range(math.prod(shape[:-3])):
            yield Run("image", source, patches, [*[-1] * before, *range(len(patches))])


def sized(sizes: Any, side: int) -> Iterator[Run]:
    """Yield the placeholders of images whose sizes, (image, 2), are whole squares of `side`, or cut off to such."""
    for source, (height, width) in enumerate(sizes.tolist() if hasattr(sizes, "tolist") else sizes):
        patches = Patches((height // side, width // side), prefix=(), image_size=(height, width))
        yield Run("image", source, patches, range(len(patches)))


def in_windows(
    grid: tuple[int, int], window: int, *, shift: int = 0, image_size: tuple[int, int] | None = None
) -> Patches | PlacedPatches:
    """Return the patches of square windows, for which a grid is padded below and to the right, and then rolled."""
    rows, columns = grid
    index = np.arange(rows * columns).reshape(grid)
    index = np.pad(index, ((0, -rows % window), (0, -columns % window)), constant_values=-1)
    index = np.roll(index, (-shift, -shift), (0, 1))
    down, across = index.shape[0] // window, index.shape[1] // window
    places = index.reshape(down, window, across, window).transpose(0, 2, 1, 3).reshape(-1, window * window)
    # A single window whose patches are in order is the whole grid.
    if len(places) == 1 and np.array_equal(places[0], np.arange(rows * columns)):
        return Patches(grid, prefix=(), image_size=image_size)
    return PlacedPatches(grid, places, image_size=image_size)


def convolved(convolution: Any, shape: tuple[int, ...] | None) -> tuple[int, int] | None:
    """Return the rows and columns that a convolution makes of an input of this shape."""
    if shape is None:
        return None
    sides = zip(shape[-2:], convolution.kernel_size, convolution.stride, convolution.padding, strict=True)
    high, wide = ((size + 2 * padding - kernel) // stride + 1 for size, kernel, stride, padding in sides)
    return high, wide


def tiled(source: int, tile: Patches, places: Sequence[tuple[int, int]]) -> Run:
    """Return the placeholders of all tiles of an image, which are counted from 1, as one grid of patches."""
    (down, right), (high, wide) = max(places), tile.grid
    cells = np.arange(down * high * right * wide).reshape(down, high, right, wide)
    order = [cell for row, column in places for cell in cells[row - 1, :, column - 1].ravel().tolist()]
    size = tile.image_size or (0, 0)
    patches = Patches((down * high, right * wide), prefix=(), image_size=(down * size[0], right * size[1]))
    return Run("image", source, patches, order, view="tiles")
