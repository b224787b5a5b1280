"""
Your own fork of a model
========================

A model that was copied and changed is captured like the original, if its layers show
how they compute attention: they are torch's own, pass locals to the fused kernel, or
assign one softmax of query and key.

This page has two layers of a fork, with random weights: one that can be read, and one
that cannot.
"""

import math

import torch
from torch import nn

from anylocal.errors import AnylocalError
from anylocal_vit import capture_attention


class MyAttention(nn.Module):
    """A softmax of query and key, under names of its own."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)

    def forward(self, tokens):
        q, k, v = (
            self.to_qkv(tokens)
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        similarity = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        probabilities = similarity.softmax(dim=-1)
        return (probabilities @ v).transpose(1, 2).flatten(2)


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), MyAttention(), MyAttention()).eval()
with capture_attention(model) as maps, torch.no_grad():
    model(torch.randn(1, 5, 8))
maps

# %%
# Nothing was registered, and no name had to be ``attn``: the source is enough. It does
# not say what the positions are, so label them:

from anylocal import plot
from anylocal.attention import Named

axis = Named(("red", "green", "blue", "white", "black"))
ax = plot.heatmap(maps[0].labelled(queries=axis, keys=axis))

# %%
# What cannot be read
# -------------------
#
# A layer that cannot be read exactly is refused by name, never guessed:


class Unreadable(nn.Module):
    """Never assigns its softmax to a variable."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)

    def forward(self, tokens):
        q, k, v = (
            self.to_qkv(tokens)
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        return (
            ((q @ k.transpose(-2, -1)).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        )


try:
    capture_attention(Unreadable())
except AnylocalError as error:
    print(f"{type(error).__name__}: {error}")

# %%
# Assign the softmax to a variable in your source; or capture the variables that it has,
# and create the map yourself.

from anylocal import capture
from anylocal.attention import AttentionMap

layer = Unreadable().eval()
with capture(layer, "q", "k") as cap, torch.no_grad():
    layer(torch.randn(1, 5, 32))
(call,) = cap.calls
AttentionMap.from_qk(call.values["q"], call.values["k"], scale=1.0, name="layer")

# %%
# To use the decorator's cache, mark a whole fork of timm by its Python module,
# ``anylocal_vit.install(your_package.vision_transformer)``, then call
# :meth:`~anylocal.get_local.activate`.
