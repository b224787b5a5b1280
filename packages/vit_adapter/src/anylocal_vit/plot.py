"""Recipes: attention over the image, and statistics layer by layer.

The image keeps its colours where there is no attention, and the weights of the patches cover it exactly where the model
saw them. Prefix tokens cover no pixels: they are cells below the image, with their weight written in them. Patches
outside a window leave the image bare. The recipes of `anylocal.plot` are here as well.
"""

from anylocal.plot import difference, entropy, heads, heatmap, model
from anylocal_vit._by_layer import distance, prefix
from anylocal_vit._over_image import query, rollout, windows
from anylocal_vit._panels import grid, over_heads, over_layers

__all__ = [
    "difference",
    "distance",
    "entropy",
    "grid",
    "heads",
    "heatmap",
    "model",
    "over_heads",
    "over_layers",
    "prefix",
    "query",
    "rollout",
    "windows",
]


def __dir__() -> list[str]:
    return __all__
