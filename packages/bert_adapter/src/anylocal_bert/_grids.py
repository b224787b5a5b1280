"""Grids of patches that layers attend to beside the patches of a vision transformer: of videos and of feature maps."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal.adapter import MapAxes, Observation, argument_names, functions_in
from anylocal_bert._family import Layer, modules_of
from anylocal_bert._sources import around
from anylocal_bert.families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anylocal.adapter import InputContext
    from anylocal.attention import Axis
    from anylocal_bert._family import ReadGrids

_IMAGE: Final = "pixel_values"
_GIVEN: Final = (
    *(_IMAGE, "pixel_values_videos", "spatial_shapes", "grid_thw"),
    *("image_features", "multi_scale_features", "inputs_embeds", "image_embeddings", "sparse_prompt_embeddings"),
)
"""The arguments that tell of grids: of models, and of their parts that are given feature maps."""


def grid_observations(model: torch.nn.Module) -> Iterator[Observation]:
    """Yield what records the sizes of images and videos, and of what convolutions are given."""
    kinds: Any = dict.fromkeys(type(module) for module in model.modules()) if has_grids(model) else ()
    for cls in kinds:
        for function in functions_in(cls.forward):
            given = argument_names(function.__code__)
            # The image may be given to a model around the part whose grids are known; `_media` sees those with a text.
            told = _GIVEN if _reader(cls) is not None else () if "input_ids" in given else (_IMAGE,)
            names = tuple(name for name in told if name in given)
            if names:
                yield Observation(function, arguments=names, keep=_kept)


def has_grids(model: torch.nn.Module) -> bool:
    """Return whether a part of a model has grids of its own kind."""
    return any(_reader(type(module)) is not None for module in model.modules())


def grids_of(name: str, queries: int, keys: int, context: InputContext) -> MapAxes | None:
    """Return the axes of a layer, each where it has as many positions; None where no family knows them."""
    modules = modules_of(context)
    owner = next((each for each in around(name) if each in modules and _reader(type(modules[each])) is not None), None)
    read = None if owner is None else _reader(type(modules[owner]))
    if owner is None or read is None:
        return None

    def seen(part: str) -> Any:
        inner = f"{owner}.{part}".strip(".")
        found = context.seen.get(inner, {})
        return found if not part else found.get("input")

    shapes = (context.seen.get(each, {}).get(_IMAGE) for each in around(owner))
    image = next((shape[-2:] for shape in shapes if shape is not None), None)
    memory = context.memory.setdefault("grids", {}).setdefault(name, {})
    found = read(Layer(modules[owner], name.removeprefix(owner).strip("."), seen, image, keys, memory))
    if found is None:
        return None
    made = MapAxes(_fitting(found.queries, queries), _fitting(found.keys, keys), found.windows)
    return None if made == MapAxes(None, None) else made


def _fitting(axis: Axis | None, length: int) -> Axis | None:
    return axis if axis is not None and len(axis) == length else None


def _reader(cls: type) -> ReadGrids | None:
    return _reader_named(cls.__name__)


@functools.cache
def _reader_named(name: str) -> ReadGrids | None:
    patterns = (pair for family in FAMILIES for pair in family.grids.items())
    return next((read for pattern, read in patterns if re.fullmatch(pattern, name)), None)


def _kept(value: Any) -> Any:
    """Return the numbers of grids, and of images and feature maps only their shapes."""
    if isinstance(value, list | tuple):
        return tuple(map(_kept, value))
    if not isinstance(value, torch.Tensor):
        return value
    return tuple(value.shape) if value.is_floating_point() else value.detach().clone()
