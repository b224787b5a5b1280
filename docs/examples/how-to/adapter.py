"""
Write an adapter
================

An adapter says where a model library keeps its attention, and what the positions are.
The base class does the rest: it finds the attention functions of a model, records what
determines the map, separates forward passes, and checks versions.

The library in this example has one model, which attends over the pixels of a small
image.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class PixelAttention(nn.Module):
    """Attention over a class token and pixels."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class PixelNet(nn.Module):
    """Two layers of pixel attention."""

    def __init__(self, side=6, width=16):
        super().__init__()
        self.side = side
        self.embed = nn.Linear(1, width)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.layers = nn.ModuleList(PixelAttention(width) for _ in range(2))

    def forward(self, image):
        x = torch.cat(
            [
                self.cls.expand(len(image), -1, -1),
                self.embed(image.flatten(1)[..., None]),
            ],
            1,
        )
        for layer in self.layers:
            x = x + layer(x)
        return x[:, 0]


# %%
# The adapter
# -----------
#
# Two methods are required: one returns the functions that compute attention, the other
# the axes of a map.

from anylocal.adapter import Adapter, MapAxes, attention_functions
from anylocal.attention import Patches


class PixelAdapter(Adapter):
    """Captures the attention of PixelNet."""

    # Your own distribution; its metadata has the oldest version of the library.
    distribution = "anylocal"
    # The library's distribution.
    zoo = "torch"

    def functions(self):
        return attention_functions(PixelAttention)

    def axes(self, call, shape, context):
        side = context.model.side
        axis = Patches(grid=(side, side), prefix=("cls",), image_size=(side, side))
        return MapAxes(axis, axis)


adapter = PixelAdapter()

# %%
# The adapter does not say how to read the map from ``PixelAttention.forward``: the
# call of the fused kernel is recorded with what it receives. Where that is not enough,
# an adapter overrides ``reading``, ``operands`` or ``weights``.

torch.manual_seed(0)
model = PixelNet().eval()
image = torch.rand(1, 6, 6)
with adapter.capture_attention(model) as maps, torch.no_grad():
    model(image)
maps

# %%

from anylocal_vit import plot

ax = plot.query(maps[1], image.expand(3, -1, -1), query=(2, 3))

# %%
# The contract
# ------------
#
# `anylocal.testing` has tests that every adapter must pass. Inherit them for yours: the
# output is bit-equal, code is restored after exceptions, rows sum to 1, the maps are
# the same when compiled, …
#
# .. code-block:: python
#
#    class TestPixels(AdapterContract):
#        adapter = adapter
#
#        def make_model(self):
#            return PixelNet().eval()
#
#        def run(self, model):
#            with torch.no_grad():
#                return model(torch.ones(1, 6, 6))
#
#        def functions(self):
#            return [PixelAttention.forward]
#
# Register it
# -----------
#
# A package whose module has the instance as ``adapter`` is found by its entry point,
# which is named after the library:
#
# .. code-block:: toml
#
#    [project.entry-points."anylocal.adapters"]
#    pixels = "your_package"

from anylocal.adapter import adapters

sorted(adapters())

# %%
# Reference: :mod:`anylocal.adapter`, :mod:`anylocal.testing`.
