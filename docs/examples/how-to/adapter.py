"""
Write an adapter
================

An adapter says where a zoo keeps its attention, and what its positions are. The engine
does the rest: it finds the functions, records what decides the map, tells forwards
apart, checks versions.

Here, for a zoo of one model: it attends over the pixels of a small image.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class PixelAttention(nn.Module):
    """Attention over pixels, behind one class token."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class PixelNet(nn.Module):
    """Two layers of it."""

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
# Two methods are needed: which functions compute attention, and what the axes of a map
# are.

from anylocal.adapter import Adapter, MapAxes, attention_functions
from anylocal.attention import Patches


class PixelAdapter(Adapter):
    """Captures the attention of PixelNet."""

    # Yours: its metadata says which versions of the zoo it knows.
    distribution = "anylocal"
    # The zoo's.
    zoo = "torch"

    def functions(self):
        return attention_functions(PixelAttention)

    def axes(self, call, shape, context):
        side = context.model.side
        axis = Patches(grid=(side, side), prefix=("cls",), image_size=(side, side))
        return MapAxes(axis, axis)


adapter = PixelAdapter()

# %%
# How the map is read off ``PixelAttention.forward`` was not said: its source tells,
# that it hands ``q`` and ``k`` to a fused kernel. Where a zoo does something that the
# source does not tell, an adapter overrides ``reading``, ``operands`` or ``weights``.

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
# `anylocal.testing` has the tests that every adapter must pass, for yours to inherit:
# output equal to the bit, code put back after exceptions, rows that sum to 1, the same
# maps when compiled, …
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
# A package that holds its instance as ``adapter`` is found by its entry point:
#
# .. code-block:: toml
#
#    [project.entry-points."anylocal.adapters"]
#    pixels = "your_package"

from anylocal.adapter import adapters

sorted(adapters())

# %%
# Reference: :mod:`anylocal.adapter`, :mod:`anylocal.testing`.
