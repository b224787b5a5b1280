"""SigLIP 2 NaFlex: each image of a batch has a grid of its own, and patches of padding after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anylocal.adapter import MapAxes
from anylocal.attention import Media, Patches, Tokens
from anylocal_bert._family import Family

if TYPE_CHECKING:
    from anylocal_bert._family import Layer


def _grids(layer: Layer) -> MapAxes | None:
    given = layer.given("")
    shapes, pixels = given.get("spatial_shapes"), given.get("pixel_values")
    if shapes is None or pixels is None:
        return None
    length, side = pixels[1], layer.owner.config.patch_size
    media, names, padding = [], [], []
    for text, (rows, columns) in enumerate(shapes.tolist()):
        grid = Patches((rows, columns), prefix=(), image_size=(rows * side, columns * side))
        media.append(Media("image", range(len(grid)), grid, text=text))
        names.append([*grid.labels(), *(str(place) for place in range(len(grid), length))])
        padding.append([place >= len(grid) for place in range(length)])
    axis = Tokens(names, padding=padding, media=media)
    # The pooling head has a query of its own.
    return MapAxes(None if layer.name.startswith("head") else axis, axis)


FAMILY = Family(grids={r"Siglip2VisionModel": _grids})
