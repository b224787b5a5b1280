"""A user's own copy of timm's source is captured the same way, marked by hand or not."""

from __future__ import annotations

import inspect
import re
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import anylocal_vit
from anylocal import get_local
from anylocal.attention import Patches
from anylocal.errors import OverlookedWarning, TargetError

Fork = Callable[[Callable[[str], str]], types.ModuleType]

# A fork has its Attention in its own file, as timm had it before 1.0.20; its forward is timm's, unfused and plain.
ATTENTION = """
class Attention(nn.Module):
    def __init__(self, dim, num_heads=8, qkv_bias=False, attn_drop=0., proj_drop=0., **_):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.fused_attn = False

{mark}    def forward(self, x, attn_mask=None, **_):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        if self.fused_attn:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        else:
            attn = (q @ k.transpose(-2, -1)) * self.scale
            attn = attn.softmax(dim=-1)
            attn = self.attn_drop(attn)
            x = attn @ v
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(B, N, C)))


class Block("""


def with_own_attention(mark: str) -> Callable[[str], str]:
    def change(source: str) -> str:
        return source.replace("class Block(", ATTENTION.format(mark=mark), 1).replace(
            "from typing import", "from anylocal import get_local\nfrom typing import", 1
        )

    return change


PLAIN, MARKED = with_own_attention(""), with_own_attention('    @get_local("attn")\n')


def build(module: types.ModuleType, **options: Any) -> Any:
    torch.manual_seed(0)
    if "attn_layer" in inspect.signature(module.VisionTransformer).parameters:
        # Newer timm takes the class of its layers from a table, which does not hold the fork's own.
        options["attn_layer"] = module.Attention
    return module.VisionTransformer(img_size=64, embed_dim=48, depth=2, num_heads=3, num_classes=4, **options).eval()


def run(model: Any) -> torch.Tensor:
    with torch.no_grad():
        output = model(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    assert isinstance(output, torch.Tensor)
    return output


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("change", [PLAIN, MARKED], ids=["plain", "marked"])
def test_capture_of_a_fork(fork: Fork, change: Callable[[str], str], fused: bool) -> None:
    """A fork gives the same maps fused and unfused, with its axes, decorated or not."""
    model = build(fork(change))
    with anylocal_vit.capture_attention(model) as expected:
        run(model)
    for block in model.blocks:
        block.attn.fused_attn = fused
    with anylocal_vit.capture_attention(model) as maps:
        run(model)
    assert [attention.fused for attention in maps] == [fused] * 2
    assert maps[0].queries == Patches(grid=(4, 4), prefix=("cls",), image_size=(64, 64))
    for attention, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(attention.tensor(), reference.tensor(), atol=2e-6, rtol=0)


def install_quietly(module: types.ModuleType) -> None:
    """Mark a fork, whose file may also hold a layer of two softmaxes, depending on timm's version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlookedWarning)
        anylocal_vit.install(module)


TWICE = """

class Twice(nn.Module):
    def forward(self, q, k):
        first = (q @ k.mT).softmax(-1)
        second = (k @ q.mT).softmax(-1)
        return first @ second
"""


def test_a_layer_that_cannot_be_read_is_overlooked(fork: Fork) -> None:
    """A layer whose maps cannot be told apart is named in a warning, and the others of its file are marked."""
    with pytest.warns(OverlookedWarning) as caught:
        anylocal_vit.install(fork(lambda source: PLAIN(source) + TWICE))
    assert any(re.search(r"Not marked: Twice\.forward .* several maps", str(w.message)) for w in caught)
    get_local.activate()
    assert "Attention.forward" in get_local.cache
    assert "Twice.forward" not in get_local.cache


def cached(model: Any) -> list[Any]:
    run(model)
    values = list(get_local.cache["Attention.forward"])
    get_local.deactivate()
    get_local.clear()
    return values


def test_four_ways_to_the_same_maps(fork: Fork) -> None:
    """Unmarked, marked before and after `activate`, and a fork marked by `install` all give the same maps."""
    plain = fork(PLAIN)
    model = build(plain)
    weights = model.state_dict()
    with anylocal_vit.capture_attention(model) as maps:
        run(model)
    expected = [attention.numpy() for attention in maps]

    install_quietly(plain)
    get_local.activate()
    installed = cached(model)
    anylocal_vit.uninstall()

    before = build(fork(MARKED))
    before.load_state_dict(weights)
    get_local.activate()
    marked_before = cached(before)

    get_local.activate()
    after = build(fork(MARKED))
    after.load_state_dict(weights)
    marked_after = cached(after)

    for way in (installed, marked_before, marked_after):
        assert len(way) == len(expected) == 2
        for array, reference in zip(way, expected, strict=True):
            np.testing.assert_array_equal(array, reference)


def test_the_seeds_cache_of_a_stock_model(make: Callable[..., Any]) -> None:
    """`install` and `activate` give the seed tools' list of 12 arrays on timm's own fused model."""
    model = make("vit_tiny_patch16_224", img_size=64)
    anylocal_vit.install()
    get_local.activate()
    run(model)
    cache = get_local.cache["Attention.forward"]
    assert [array.shape for array in cache] == [(1, 3, 17, 17)] * 12
    assert all(type(array) is np.ndarray and array.dtype == np.float32 for array in cache)


def test_a_module_without_attention_cannot_be_installed(fork: Fork) -> None:
    """Marking a Python module that computes no attention says so."""
    with pytest.raises(TargetError, match="json holds no function that computes attention"):
        anylocal_vit.install(__import__("json"))


def test_torchs_own_attention_may_be_the_model() -> None:
    """If torch's own attention is the model, its observed call is not taken for a second map."""
    model, x = torch.nn.MultiheadAttention(16, 2), torch.randn(5, 3, 16)
    with anylocal_vit.capture_attention(model) as maps:
        _, expected = model(x, x, x, average_attn_weights=False)
    assert len(maps) == 1
    torch.testing.assert_close(maps[0].tensor(), expected)
