"""SAM to SAM 3: encoders that attend within windows, and decoders that relate the tokens of a prompt and an image.

Several models that read documents have SAM's encoder.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from anylocal.adapter import MapAxes, Reading
from anylocal.attention import Patches
from anylocal_bert._family import Family, convolved, in_windows

if TYPE_CHECKING:
    from anylocal.attention import PlacedPatches
    from anylocal_bert._family import Layer


def _grids(layer: Layer) -> MapAxes | None:
    given = layer.given("")
    shape, prompts = given.get("image_embeddings"), given.get("sparse_prompt_embeddings")
    if shape is None:
        return None
    image = Patches(shape[-2:], prefix=(), image_size=layer.image)
    # Each image has several prompts, one after the other in the batch.
    count = 1 if prompts is None else prompts[1]
    return MapAxes(
        image if "image_to_token" in layer.name else None, image if "token_to_image" in layer.name else None, count
    )


def _windows(layer: Layer) -> MapAxes | None:
    found, grid = re.match(r"layers\.(\d+)\.", layer.name), _embedded(layer)
    if found is None or grid is None:
        return None
    axis = _divided(grid, layer.owner.layers[int(found[1])].window_size, layer.image)
    return MapAxes(axis, axis, _count(axis))


def _pooling_windows(layer: Layer) -> MapAxes | None:
    found, grid = re.match(r"blocks\.(\d+)\.", layer.name), _embedded(layer)
    if found is None or grid is None:
        return None
    for block in layer.owner.blocks[: int(found[1])]:
        grid = _pooled(grid, block.query_stride)
    own: Any = layer.owner.blocks[int(found[1])]
    keys, stride = _divided(grid, own.window_size, layer.image), own.query_stride
    if stride is None:
        return MapAxes(keys, keys, _count(keys))
    if own.window_size % stride[0] or stride[0] != stride[1]:
        return MapAxes(None, keys, _count(keys))
    queries = _divided(_pooled(grid, stride), own.window_size // stride[0], layer.image)
    return MapAxes(queries if _count(queries) == _count(keys) else None, keys, _count(keys))


def _embedded(layer: Layer) -> tuple[int, int] | None:
    """Return the rows and columns of patches that the first convolution makes."""
    parts = layer.owner.named_modules()
    name, first = next((name, part) for name, part in parts if isinstance(part, torch.nn.Conv2d))
    return convolved(first, layer.given(name))


def _pooled(grid: tuple[int, int], stride: tuple[int, int] | None) -> tuple[int, int]:
    return grid if stride is None else (grid[0] // stride[0], grid[1] // stride[1])


def _divided(grid: tuple[int, int], window: int, size: tuple[int, int] | None) -> Patches | PlacedPatches:
    return in_windows(grid, window, image_size=size) if window else Patches(grid, prefix=(), image_size=size)


def _count(axis: Patches | PlacedPatches) -> int:
    return 1 if isinstance(axis, Patches) else axis.windows


FAMILY = Family(
    # It drops the softmax that it computes, of heads with heads; the map is that of the function that it calls then.
    functions=r"Sam2MultiScaleAttention\.forward",
    reading=Reading(),
    grids={
        r"Sam(HQ|2)?MaskDecoder": _grids,
        r"\w*Sam(HQ)?VisionEncoder|(GotOcr2|SLANeXt)VisionEncoder|Sam3ViTModel": _windows,
        r"Sam2HieraDetModel": _pooling_windows,
    },
)
