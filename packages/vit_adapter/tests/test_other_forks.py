"""Attention classes that are not timm's, as other projects write them: found by their structure, with their axes."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import anylocal_vit
from anylocal import find, get_local
from anylocal.attention import Axis, Patches, PlacedPatches
from anylocal.errors import TargetError
from anylocal.testing import perturb

HEAD = """
import torch
from torch import nn
import torch.nn.functional as F


class PatchEmbed(nn.Module):
    def __init__(self, img_size=32, patch_size=8, dim=24):
        super().__init__()
        self.img_size, self.patch_size = img_size, patch_size
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)
"""

VIT = """

class Model(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 24))
        self.blocks = nn.ModuleList(Block(24, 3) for _ in range(2))

    def forward(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return x
"""

# As in the source of DINO: the layer returns its map, and its block passes it on when asked.
DINO = (
    HEAD
    + """

class Attention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv, self.attn_drop, self.proj = nn.Linear(dim, dim * 3), nn.Dropout(0.0), nn.Linear(dim, dim)

    def forward(self, x):
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q @ k.transpose(-2, -1)) * self.scale
        attn = attn.softmax(dim=-1)
        attn = self.attn_drop(attn)
        x = (attn @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x), attn


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, heads)

    def forward(self, x, return_attention=False):
        y, attn = self.attn(self.norm1(x))
        self.seen = attn
        return attn if return_attention else x + y
"""
    + VIT
)

# As in vit-pytorch: the softmax is a module called attend, its operands are made at once, and heads are `heads`.
VIT_PYTORCH = (
    HEAD
    + """

class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.attend = nn.Softmax(dim=-1)
        self.dropout, self.to_qkv = nn.Dropout(0.0), nn.Linear(dim, dim * 3, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x):
        qkv = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = map(lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2), qkv)
        dots = torch.matmul(q, k.transpose(-1, -2)) * self.scale
        attn = self.attend(dots)
        attn = self.dropout(attn)
        self.seen = attn
        out = torch.matmul(attn, v).transpose(1, 2).flatten(2)
        return self.to_out(out)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.attn = Attention(dim, heads)

    def forward(self, x):
        return x + self.attn(x)
"""
    + VIT
)

# As in BEiT and in transformers: other names, a bias, another function for the softmax.
BEIT = (
    HEAD
    + """

class SelfAttention(nn.Module):
    def __init__(self, dim, num_attention_heads):
        super().__init__()
        self.num_attention_heads = num_attention_heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.relative_position_bias = nn.Parameter(torch.randn(num_attention_heads, 17, 17))
        self.dropout = nn.Dropout(0.0)

    def heads(self, x):
        return x.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)

    def forward(self, hidden_states):
        query_layer = self.heads(self.query(hidden_states))
        key_layer = self.heads(self.key(hidden_states))
        value_layer = self.heads(self.value(hidden_states))
        attention_scores = torch.matmul(query_layer, key_layer.transpose(-1, -2)) / query_layer.shape[-1] ** 0.5
        attention_scores = attention_scores + self.relative_position_bias
        attention_probs = nn.functional.softmax(attention_scores, dim=-1)
        self.seen = attention_probs
        attention_probs = self.dropout(attention_probs)
        return torch.matmul(attention_probs, value_layer).transpose(1, 2).flatten(2)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.attention = SelfAttention(dim, heads)

    def forward(self, x):
        return x + self.attention(x)
"""
    + VIT
)

# As in CLIP's open source: heads are part of the batch, and the product is bmm.
OPEN_CLIP = (
    HEAD
    + """

class Attention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.in_proj, self.out_proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        q = q.reshape(B, N, self.num_heads, -1).transpose(1, 2).reshape(B * self.num_heads, N, -1)
        k = k.reshape(B, N, self.num_heads, -1).transpose(1, 2).reshape(B * self.num_heads, N, -1)
        v = v.reshape(B, N, self.num_heads, -1).transpose(1, 2).reshape(B * self.num_heads, N, -1)
        q = q * self.scale
        attn = torch.bmm(q, k.transpose(-1, -2))
        attn = attn.softmax(dim=-1)
        self.seen = attn.unflatten(0, (B, self.num_heads))
        x = torch.bmm(attn, v)
        x = x.reshape(B, self.num_heads, N, -1).transpose(1, 2).reshape(B, N, C)
        return self.out_proj(x)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.attn = Attention(dim, heads)

    def forward(self, x):
        return x + self.attn(x)
"""
    + VIT
)

# As in Microsoft's Swin: a block is given a list of patches, and keeps its rows and columns.
SWIN = (
    HEAD
    + """

class WindowAttention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv, self.softmax, self.proj = nn.Linear(dim, dim * 3), nn.Softmax(dim=-1), nn.Linear(dim, dim)

    def forward(self, x, mask=None):
        B_, N, C = x.shape
        qkv = self.qkv(x).reshape(B_, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        q = q * self.scale
        attn = (q @ k.transpose(-2, -1))
        if mask is not None:
            attn = attn + mask
            attn = self.softmax(attn)
        else:
            attn = self.softmax(attn)
        self.seen = attn
        x = (attn @ v).transpose(1, 2).reshape(B_, N, C)
        return self.proj(x)


class SwinTransformerBlock(nn.Module):
    def __init__(self, dim, heads, shift_size):
        super().__init__()
        self.input_resolution, self.window_size, self.shift_size = (4, 4), 2, shift_size
        self.attn = WindowAttention(dim, heads)

    def forward(self, x):
        H, W = self.input_resolution
        B, L, C = x.shape
        y = torch.roll(x.view(B, H, W, C), (-self.shift_size, -self.shift_size), (1, 2))
        y = y.view(B, 2, 2, 2, 2, C).transpose(2, 3).reshape(-1, 4, C)
        y = self.attn(y)
        y = y.view(B, 2, 2, 2, 2, C).transpose(2, 3).reshape(B, H, W, C)
        return x + torch.roll(y, (self.shift_size, self.shift_size), (1, 2)).view(B, L, C)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.layers = nn.ModuleList(SwinTransformerBlock(24, 3, shift) for shift in (0, 1))

    def forward(self, x):
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return x
"""
)

FORKS = {"dino": DINO, "vit_pytorch": VIT_PYTORCH, "beit": BEIT, "open_clip": OPEN_CLIP, "swin": SWIN}
forks = pytest.mark.parametrize("source", FORKS.values(), ids=FORKS)

Load = Callable[[str], types.ModuleType]


def build(module: Any) -> Any:
    torch.manual_seed(0)
    return perturb(module.Model(), scale=0.2).eval()


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def captured(model: Any) -> Any:
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(images())
    return maps


def seen(model: Any) -> list[torch.Tensor]:
    """Return the maps that the layers themselves have kept."""
    return [module.seen for module in model.modules() if hasattr(module, "seen")]


@forks
def test_maps_of_a_fork(load: Load, source: str) -> None:
    """Each map is the layer's own, as (batch, head, query, key)."""
    model = build(load(source))
    maps = captured(model)
    assert len(maps) == len(seen(model)) == 2
    for attention, softmax in zip(maps, seen(model), strict=True):
        assert attention.shape == softmax.shape
        assert torch.equal(attention.tensor(), softmax)
        assert attention.tensor().std() > 0.1 / attention.shape[-1], "a uniform map proves nothing"


@pytest.mark.parametrize(
    "source", [DINO, VIT_PYTORCH, BEIT, OPEN_CLIP], ids=["dino", "vit_pytorch", "beit", "open_clip"]
)
def test_axes_of_a_fork(load: Load, source: str) -> None:
    """The class token and the patches of a fork are recognised by their names in its source."""
    assert captured(build(load(source)))[0].queries == Patches((4, 4), prefix=("cls",), image_size=(32, 32))


def test_windows_of_a_fork(load: Load) -> None:
    """The windows of a Swin that is not timm's are in the places to which its blocks shift them."""
    plain, shifted = captured(build(load(SWIN)))
    assert plain.keys == PlacedPatches(
        (4, 4), [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]], image_size=(32, 32)
    )
    assert shifted.keys.places[0].tolist() == [5, 6, 9, 10]
    assert shifted.keys.places[3].tolist() == [15, 12, 3, 0]
    assert (plain.windows, plain.images) == (4, 2)


@forks
def test_a_fork_is_installed_as_a_module(load: Load, source: str) -> None:
    """`install` marks the attention of a module of a fork, and the cache then holds its maps."""
    module = load(source)
    model = build(module)
    anylocal_vit.install(module)
    get_local.activate()
    with torch.no_grad():
        model(images())
    (cached,) = (values for key, values in get_local.cache.items() if values)
    assert len(cached) == 2
    for array, softmax in zip(cached, seen(model), strict=True):
        np.testing.assert_array_equal(array, softmax.numpy())


def test_structure_is_found(load: Load) -> None:
    """`find` lists the locals of a fork's attention, whatever their names."""
    sites = {site.function.__qualname__: site for site in find(build(load(VIT_PYTORCH)))}
    assert {"dots", "attn"} <= set(sites["Attention.forward"].names)
    assert sites["Attention.forward"].modules == ("blocks.0.attn", "blocks.1.attn")


GATE = (
    HEAD
    + """

class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed, self.q, self.k = PatchEmbed(), nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x):
        q = self.q(self.patch_embed(x))
        k = self.k(q)
        k = k.softmax(dim=-1)
        return q.mean() + k.mean()


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.qkv = Gate(), nn.Linear(24, 72)

    def forward(self, x):
        q, k, v = self.qkv(self.gate.patch_embed(x)).chunk(3, -1)
        k = k.softmax(dim=1)
        context = k.transpose(1, 2) @ v
        attn = (q @ context).softmax(dim=1)
        return attn
"""
)


@pytest.mark.parametrize("name", ["Gate", "Linear"])
def test_other_softmaxes_are_no_maps(load: Load, name: str) -> None:
    """Gates and linear attention have no map, though they have a q, a k and a softmax."""
    with pytest.raises(TargetError, match="no attention map"):
        anylocal_vit.capture_attention(getattr(load(GATE), name)())


def test_a_fork_without_a_grid_counts(load: Load) -> None:
    """Positions that are not patches of the image are only counted."""
    model = build(load(DINO.replace("flatten(2).transpose(1, 2)", "flatten(2).transpose(1, 2)[:, 3:]")))
    assert captured(model)[0].queries == Axis(14)


REARRANGE = """

def rearrange(t, pattern, **lengths):
    h = lengths["h"]
    t = t.unflatten(-1, (h, -1))
    return {
        "b n (h d) -> (h b) n d": lambda: t.permute(2, 0, 1, 3).flatten(0, 1),
        "b n (h d) -> (b h) n d": lambda: t.transpose(1, 2).flatten(0, 1),
        "b n (h d) -> b h d n": lambda: t.permute(0, 2, 3, 1),
        "b n (h d) -> b h n d": lambda: t.transpose(1, 2),
    }[pattern]()

"""

MERGED = (
    HEAD
    + REARRANGE
    + """

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.n_head, self.q, self.k = 3, nn.Linear(24, 24), nn.Linear(24, 24)

    def forward(self, x):
        q, k = (self.q(x), self.k(x))
        LAYOUT
        MAP
"""
)

HEADS_LEAD = {
    "permute": "q, k = (t.view(2, 5, 3, 8).permute(2, 0, 1, 3).contiguous().view(-1, 5, 8) for t in (q, k))",
    "permute of keys": """q = q.view(2, 5, 3, 8).movedim(2, 0).reshape(-1, 5, 8)
        k = torch.permute(k.view(2, 5, 3, 8), (2, 0, 3, 1)).reshape(-1, 8, 5).mT""",
    "transpose": "q, k = (t.unflatten(-1, (3, 8)).transpose(1, 2).transpose(0, 1).flatten(0, 1) for t in (q, k))",
    "einops": "q, k = (rearrange(t, 'b n (h d) -> (h b) n d', h=self.n_head) for t in (q, k))",
    "split": "q, k = (torch.cat(t.split(24 // self.n_head, dim=-1), dim=0) for t in (q, k))",
    "chunk": "q, k = torch.cat(torch.chunk(q, 3, dim=2)), torch.cat(torch.chunk(k, 3, dim=2))",
    "parts": "q, k = (torch.cat([t[..., 8 * i : 8 * i + 8] for i in range(self.n_head)], 0) for t in (q, k))",
}
SAMPLES_LEAD = {
    "transpose": "q, k = (t.view(2, 5, 3, 8).transpose(1, 2).reshape(-1, 5, 8) for t in (q, k))",
    "einops": "q, k = (rearrange(t, 'b n (h d) -> (b h) n d', h=self.n_head) for t in (q, k))",
    "one go": """qk = torch.cat([q, k], -1).reshape(2, 5, 2, 3, 8).permute(2, 0, 3, 1, 4)
        q, k = qk.reshape(2, 6, 5, 8).unbind(0)""",
    "docstring": """"Not permute(2, 0, 1, 3)."
        q, k = (t.view(2, 5, 3, 8).transpose(1, 2).flatten(0, 1) for t in (q, k))""",
    "comment": """# This is no permute(2, 0, 1, 3).
        q, k = (t.view(2, 5, 3, 8).transpose(1, 2).flatten(0, 1) for t in (q, k))""",
}
PLAIN_MAP = """attn = torch.bmm(q, k.transpose(1, 2)) / 8 ** 0.5
        attn = attn.softmax(dim=-1)
        return attn.view(2, 3, 5, 5).permute(2, 0, 1, 3)"""
FUSED_MAP = "return F.scaled_dot_product_attention(q, k, k)"


@pytest.mark.parametrize("made", [PLAIN_MAP, FUSED_MAP], ids=["plain", "fused"])
@pytest.mark.parametrize(
    "layout",
    [*HEADS_LEAD.values(), *SAMPLES_LEAD.values()],
    ids=[*(f"heads lead: {name}" for name in HEADS_LEAD), *(f"samples lead: {name}" for name in SAMPLES_LEAD)],
)
def test_heads_in_the_batch_are_taken_out_of_it_as_they_were_put_in(load: Load, layout: str, made: str) -> None:
    """The source tells whether all heads of a sample or all samples of a head come first."""
    model = build(load(MERGED.replace("LAYOUT", layout).replace("MAP", made)))
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(x)
        q, k = (each(x).unflatten(-1, (3, 8)).transpose(1, 2) for each in (model.q, model.k))
    torch.testing.assert_close(maps[0].tensor(), (q @ k.mT / 8**0.5).softmax(-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["num_heads", "heads", "n_heads", "n_head", "nhead", "nheads", "num_attention_heads"])
def test_what_layers_call_the_number_of_their_heads(load: Load, name: str) -> None:
    """Without it, heads could not be separated from the batch."""
    source = MERGED.replace("LAYOUT", SAMPLES_LEAD["transpose"]).replace("MAP", PLAIN_MAP).replace("n_head", name)
    model = build(load(source))
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(torch.randn(2, 5, 24))
    assert maps[0].shape == (2, 3, 5, 5)


CHANNELS = (
    HEAD
    + REARRANGE
    + """

class CrossCovariance(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_qkv = nn.Linear(24, 72)
        self.attend = nn.Softmax(dim=-1)

    def forward(self, x):
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = map(lambda t: rearrange(t, 'b n (h d) -> b h d n', h=3), (q, k, v))
        sim = PRODUCT
        attn = self.attend(sim)
        return (attn @ v).flatten(1, 2).transpose(1, 2)


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_qk = nn.Linear(24, 48)
        self.attend = nn.Softmax(dim=-1)

    def forward(self, x):
        q, k = map(lambda t: rearrange(t, 'b n (h d) -> b h d n', h=3), self.to_qk(x).chunk(2, dim=-1))
        sim = torch.einsum('b h d i, b h d j -> b h i j', q, k)
        attn = self.attend(sim)
        return x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.channels, self.positions = CrossCovariance(), Positions()

    def forward(self, x):
        return self.positions(self.channels(x))
"""
)


@pytest.mark.parametrize(
    "product", ["torch.einsum('b h i n, b h j n -> b h i j', q, k)", "q @ k.transpose(-2, -1)", "torch.matmul(q, k.mT)"]
)
def test_channels_are_no_positions(load: Load, product: str) -> None:
    """Attention that sums over positions relates channels, as in XCiT, and has no map."""
    model = build(load(CHANNELS.replace("PRODUCT", product)))
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(torch.randn(2, 5, 24))
    assert maps.names == ["positions"]
    assert maps[0].shape == (2, 3, 5, 5)
    assert list(maps.unsupported) == ["channels"]
    assert "channels with channels" in maps.unsupported["channels"]
