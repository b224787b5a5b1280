"""The maps are the model's to the last digits of float32, and capturing changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import anylocal_vit

Make = Callable[..., Any]


def image(size: int = 224, batch: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def eager_maps(model: Any, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Compute each layer's softmax in float64 from the layer's own input, by the textbook formula."""
    double = copy.deepcopy(model).double()
    maps: list[torch.Tensor] = []

    def record(layer: Any, arguments: tuple[torch.Tensor, ...], double_layer: Any) -> None:
        x = arguments[0].double()
        batch, length, width = x.shape
        qkv = double_layer.qkv(x).reshape(batch, length, 3, layer.num_heads, width // layer.num_heads)
        q, k, _ = qkv.permute(2, 0, 3, 1, 4)
        q, k = double_layer.q_norm(q), double_layer.k_norm(k)
        maps.append((q @ k.transpose(-2, -1) * layer.head_dim**-0.5).softmax(-1))

    handles = [
        block.attn.register_forward_pre_hook(lambda m, a, d=other.attn: record(m, a, d))
        for block, other in zip(model.blocks, double.blocks, strict=True)
    ]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return maps


def test_fused_maps_equal_the_eager_ones_in_float64(make: Make) -> None:
    """All 12 maps of a ViT-S, captured fused, are within 2e-6 of the softmax in float64; the output is bit-equal."""
    model = make("vit_small_patch16_224")
    inputs = image()
    with torch.no_grad():
        alone = model(inputs)
        with anylocal_vit.capture_attention(model) as maps:
            captured = model(inputs)
    assert torch.equal(alone, captured)
    assert [attention.fused for attention in maps] == [True] * 12
    assert [attention.shape for attention in maps] == [(1, 6, 197, 197)] * 12
    for attention, expected in zip(maps, eager_maps(model, inputs), strict=True):
        assert expected.max() > 10 / 197, "a uniform map proves nothing"
        torch.testing.assert_close(attention.tensor().double(), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("options", [{"qk_norm": True}, {"qkv_bias": False}, {"num_heads": 6}])
def test_options_of_the_layer(make: Make, options: dict[str, Any]) -> None:
    """Normalised queries and keys, missing biases and other numbers of heads are captured exactly."""
    model = make(img_size=64, depth=2, **options)
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(image(64))
    for attention, expected in zip(maps, eager_maps(model, image(64)), strict=True):
        torch.testing.assert_close(attention.tensor().double(), expected, atol=2e-6, rtol=0)


def test_unfused_maps_are_those_the_model_made(make: Make) -> None:
    """The map of an unfused layer is bit-equal to the input of its dropout."""
    model = make(img_size=64, depth=2)
    made: list[torch.Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, arguments: made.append(arguments[0].clone()))
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(image(64))
    assert not any(attention.fused for attention in maps)
    assert all(torch.equal(attention.tensor(), softmax) for attention, softmax in zip(maps, made, strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_dropout_comes_after_the_map(make: Make, fused: bool) -> None:
    """In train mode the map is the softmax before dropout, so its rows still sum to 1."""
    model = make(img_size=64, depth=2, attn_drop_rate=0.5).train()
    for block in model.blocks:
        block.attn.fused_attn = fused
    with anylocal_vit.capture_attention(model) as maps:
        model(image(64))
    for attention in maps:
        rows = attention.tensor().sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))


class _NoMapSized(TorchDispatchMode):
    """Fails on any tensor that has as many elements as a head's map."""

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.most = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            assert result.numel() < self.most, f"{func} made a tensor of shape {tuple(result.shape)}"
        return result


def test_the_class_tokens_row_needs_no_map(make: Make) -> None:
    """Reading the class token's row of every head makes no tensor of the size query × key."""
    model = make(img_size=1024, depth=1, patch_size=16, embed_dim=24, num_heads=3)
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(image(1024))
        length = maps[0].shape[-1]
        assert length == 64 * 64 + 1
        with _NoMapSized(length * length):
            rows = maps[0][:, :, 0]
    assert rows.shape == (1, 3, length)


def test_running_the_model_makes_no_map(make: Make) -> None:
    """Capturing a fused model makes no tensor of the size query × key."""
    model = make(img_size=512, depth=1, embed_dim=24, num_heads=3)
    length = 32 * 32 + 1
    # The largest tensors of the forward pass itself are the image and the MLP's; here, one head's map is larger.
    with torch.no_grad(), anylocal_vit.capture_attention(model), _NoMapSized(length * length):
        model(image(512))


def test_another_model_of_the_class_is_not_recorded(make: Make) -> None:
    """With two models of one class, only the calls of the captured one are recorded."""
    one, other = make(img_size=64, depth=2), make(img_size=64, depth=2)
    with anylocal_vit.capture_attention(one) as maps, torch.no_grad():
        other(image(64, seed=2))
        one(image(64))
        other(image(64, seed=2))
    assert maps.names == ["blocks.0.attn", "blocks.1.attn"]
    assert len(maps) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_models(make: Make, dtype: torch.dtype) -> None:
    """The map of a bfloat16 or float16 model is the float32 softmax of the operands that the kernel received."""
    model = make(img_size=64, depth=1).to(dtype)
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(image(64).to(dtype))
    rows = maps[0].tensor()
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows.sum(-1)), atol=1e-6, rtol=0)


def test_autocast_and_inference_mode(make: Make) -> None:
    """A model under autocast in inference mode is captured, and its output is bit-equal."""
    model = make(img_size=64, depth=1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        alone = model(image(64))
        with anylocal_vit.capture_attention(model) as maps:
            captured = model(image(64))
    assert torch.equal(alone, captured)
    assert maps[0].tensor().dtype == torch.float32
