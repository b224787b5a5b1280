"""Mixed maps, windows, pooled and padded grids, and layers without a map."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch

import anylocal_vit
from anylocal.adapter import InputContext
from anylocal.attention import Patches, PlacedPatches
from anylocal.errors import TargetError
from anylocal.testing import perturb
from anylocal_vit._axes import LayerAxes

Make = Callable[..., Any]


def image(height: int = 64, width: int = 64, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def captured(model: Any, inputs: Any) -> Any:
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(inputs)
    return maps


def given_to(modules: Any) -> list[torch.Tensor]:
    """Record the inputs of modules."""
    noted: list[torch.Tensor] = []
    for module in modules:
        module.register_forward_pre_hook(lambda _, arguments: noted.append(arguments[0].clone()))
    return noted


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ["cait_xxs24_224", "convit_tiny"])
def test_mixed_is_what_dropout_is_given(make: Make, name: str, training: bool) -> None:
    """Talking heads and gated attention have their mix in `mixed`, before dropout, and the softmax as their map."""
    model = make(name, img_size=64, depth=2, attn_drop_rate=0.5).train(training)
    layers = [block.attn for block in model.blocks]
    noted = given_to(layer.attn_drop for layer in layers)
    maps = captured(model, image())[:2]
    for attention, mix in zip(maps, noted, strict=True):
        assert attention.mixed is not None
        assert torch.equal(attention.mixed, mix)
        assert not torch.allclose(attention.tensor(), mix, atol=1e-2)
        rows = attention.tensor().sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))


def test_a_map_that_is_not_mixed_has_no_mix(make: Make) -> None:
    """Dropout is not a mix."""
    model = make(img_size=64, depth=1, attn_drop_rate=0.5).train()
    model.blocks[0].attn.fused_attn = False
    assert captured(model, image())[0].mixed is None


class Difference(torch.nn.Module):
    """Differential attention alone."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        pytest.importorskip("timm.layers.diff_attention", reason="timm has it from 1.0.23 on")
        self.attn = timm.layers.DiffAttention(24, num_heads=3, depth=1)
        self.attn.fused_attn = fused

    def forward(self, x: torch.Tensor) -> Any:
        return self.attn(x)


@pytest.mark.parametrize("fused", [True, False])
def test_difference_of_two_maps(fused: bool) -> None:
    """The two maps of each head are neighbours, and their difference is multiplied by the values."""
    torch.manual_seed(0)
    model = perturb(Difference(fused=fused), scale=0.3).eval()
    layer: Any = model.attn
    made = given_to([layer.sub_norm])
    x = torch.randn(2, 5, 24)
    (attention,) = captured(model, x)
    assert attention.shape == (2, 6, 5, 5)
    assert attention.mixed.shape == (2, 3, 5, 5)
    v = layer.qkv(x).chunk(3, dim=2)[2].reshape(2, 5, 3, 8).transpose(1, 2)
    torch.testing.assert_close(attention.mixed @ v, made[0], atol=1e-5, rtol=0)


def test_fused_and_unfused_differences_are_the_same() -> None:
    """The maps and their differences do not depend on how the layer runs."""
    torch.manual_seed(0)
    model = perturb(Difference(fused=True), scale=0.3).eval()
    layer: Any = model.attn
    x = torch.randn(2, 5, 24)
    (fused,) = captured(model, x)
    layer.fused_attn = False
    (plain,) = captured(model, x)
    assert (fused.fused, plain.fused) == (True, False)
    torch.testing.assert_close(fused.tensor(), plain.tensor(), atol=1e-6, rtol=0)
    torch.testing.assert_close(fused.mixed, plain.mixed, atol=1e-6, rtol=0)


SWIN = {"embed_dim": 24, "depths": (2,), "num_heads": (3,), "window_size": 4, "img_size": (32, 48)}


def test_windows_of_a_rectangle(make: Make) -> None:
    """A Swin on a rectangle has windows over its own grid, plain ones and shifted ones."""
    plain, shifted = captured(make("swin_tiny_patch4_window7_224", **SWIN), image(32, 48))
    assert (plain.shape, plain.windows, plain.images) == ((12, 3, 16, 16), 6, 2)
    assert isinstance(plain.keys, PlacedPatches)
    assert (plain.keys.grid, plain.keys.image_size) == ((8, 12), (32, 48))
    assert plain.keys.cell(0, 1) == (0, 4)
    assert shifted.keys.cell(0, 1) == (2, 6)


def test_padding_of_windows_is_labelled(make: Make) -> None:
    """Positions of a window beyond the grid are padding."""
    plain, _ = captured(make("swin_tiny_patch4_window7_224", **{**SWIN, "img_size": (40, 40)}), image(40, 40))
    assert plain.keys.grid == (10, 10)
    assert plain.keys.labels(2)[2:4] == ["padding", "padding"]


def test_shifted_windows_of_the_fused_layer_too(make: Make) -> None:
    """Swin's fused branch gets the same bias and mask as the other one."""
    model = make("swin_tiny_patch4_window7_224", **SWIN)
    maps = captured(model, image(32, 48))
    for block in model.layers[0].blocks:
        block.attn.fused_attn = True
    fused = captured(model, image(32, 48))
    assert [attention.fused for attention in fused] == [True, True]
    for one, other in zip(maps, fused, strict=True):
        torch.testing.assert_close(one.tensor(), other.tensor(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["visformer_tiny", "coatnet_pico_rw_224", "test_vit2"])
def test_fused_and_unfused_layers_are_the_same(make: Make, name: str) -> None:
    """The map is computed of the operands as they are transformed for the kernel."""
    model = make(name)
    size = timm.data.resolve_model_data_config(model)["input_size"][1]
    found = []
    for fused in (True, False):
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused
        found.append(captured(model, image(size, size, batch=1)))
    one, other = found
    assert all(attention.fused for attention in one)
    assert not any(attention.fused for attention in other)
    # Later layers get another input, as the kernel's output is not bit-equal.
    torch.testing.assert_close(one[0].tensor(), other[0].tensor(), atol=1e-4, rtol=0)


def test_pooled_keys_have_a_grid_of_their_own(make: Make) -> None:
    """The keys of a PVT are a coarser grid of the same image."""
    model = make("pvt_v2_b0", depths=(1, 1, 1, 1))
    queries, keys = (captured(model, image(64, 96))[0].queries, captured(model, image(64, 96))[0].keys)
    assert queries == Patches((16, 24), prefix=(), image_size=(64, 96))
    assert keys == Patches((2, 3), prefix=(), image_size=(64, 96))


def test_keys_pooled_along_the_list_are_no_grid(make: Make) -> None:
    """NextViT pools runs of patches across rows: they are named, not taken for a coarser grid."""
    model = make("nextvit_small")
    attention = captured(model, image(64, 128))[0]
    assert attention.queries == Patches((8, 16), prefix=(), image_size=(64, 128))
    assert attention.keys.labels()[:2] == ["(0, 0)–(0, 15)", "(1, 0)–(1, 15)"]
    assert len(attention.keys) == 8


def test_a_rectangle_without_patch_embedding(make: Make) -> None:
    """The grid of a convolutional network's attention has the shape of the image."""
    model = make("fastvit_mci0", layers=(1, 1, 1, 1))
    assert captured(model, image(64, 128))[0].keys == Patches((2, 4), prefix=(), image_size=(64, 128))


@pytest.fixture
def naflex(make: Make) -> Any:
    return make("naflexvit_base_patch16_par_gap", depth=1, embed_dim=48, num_heads=3)


def test_images_of_several_sizes_in_one_batch(naflex: Any) -> None:
    """Each image of a NaFlex batch has its own patches, and padding."""
    coordinates = torch.tensor([[[0, 0], [0, 1], [1, 0], [1, 1]], [[0, 0], [0, 1], [0, 2], [0, 0]]])
    valid = torch.tensor([[True] * 4, [True, True, True, False]])
    batch = {"patches": torch.randn(2, 4, 768), "patch_coord": coordinates, "patch_valid": valid}
    (attention,) = captured(naflex, batch)
    registers = ("reg1", "reg2", "reg3", "reg4")
    assert attention.keys == PlacedPatches((2, 3), [[0, 1, 3, 4], [0, 1, 2, -1]], prefix=registers)
    assert attention.windows == 1
    assert attention[1, :, :-1, -1].abs().max() == 0, "padding gets nothing"


def test_padding_may_be_marked_by_coordinates(naflex: Any) -> None:
    """Without a mask of valid patches, a patch at (-1, -1) is padding."""
    coordinates = torch.tensor([[[0, 0], [0, 1], [-1, -1]]])
    call: Any = SimpleNamespace(name="", module=naflex, values={})
    seen = {"": {"patch_coord": coordinates, "patch_valid": None}}
    context = InputContext(naflex, seen, about=None, memory={})
    keys = LayerAxes(call, (1, 3, 7, 7), context).axes().keys
    assert isinstance(keys, PlacedPatches)
    assert keys.places.tolist() == [[0, 1, -1]]


def test_plain_blocks_are_not_observed(make: Make) -> None:
    """A plain transformer's blocks have no windows, and capturing touches none of them."""
    model = make(img_size=64, depth=1)
    asked = {also.function.__qualname__ for also in anylocal_vit.adapter.observations(model)}
    assert "VisionTransformer.forward" in asked
    assert "Block.forward" not in asked


def test_naflex_takes_plain_images_too(naflex: Any) -> None:
    """Plain images have a plain grid."""
    registers = ("reg1", "reg2", "reg3", "reg4")
    expected = Patches((2, 3), prefix=registers, image_size=(32, 48))
    assert captured(naflex, image(32, 48))[0].keys == expected


def test_merged_patches_are_only_counted(make: Make) -> None:
    """Where blocks keep the number of patches, fewer patches are not taken for a smaller grid."""

    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :5]

    model = make(img_size=64, depth=2)
    model.blocks.insert(1, Half())
    first, second = captured(model, image())
    assert isinstance(first.keys, Patches)
    assert repr(second.keys) == "Axis(5)"


def test_layers_without_a_map_are_named(make: Make) -> None:
    """Layers without a map are listed by module, with what they are instead."""
    maps = captured(make("xcit_nano_12_p16_224", depth=2, cls_attn_layers=1), image())
    assert maps.names == ["cls_attn_blocks.0.attn"]
    assert list(maps.unsupported) == ["blocks.0.attn", "blocks.1.attn"]
    assert "and 2 without a map: attention of channels with channels" in repr(maps)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("edgenext_xx_small", "attention of channels with channels"),
        ("coat_tiny", "linear attention"),
        ("efficientvim_m1", "a state-space layer"),
        ("resnest14d", "a gate"),
    ],
)
def test_a_model_with_no_map_says_what_it_has(name: str, what: str) -> None:
    """If no layer has a map, the error names the model's kinds of attention."""
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    model = timm.create_model(name)
    with pytest.raises(TargetError, match=f"no attention map .* It has {what}"):
        anylocal_vit.capture_attention(model)


def test_no_function_of_timm_is_refused() -> None:
    """The maps of every attention function of timm can be read."""
    functions = list(anylocal_vit.adapter.functions())
    files = {function.__module__ for function in functions}
    assert {"timm.models.swin_transformer", "timm.layers.attention", "timm.models.efficientvit_msra"} <= files
    assert not any(function.__qualname__.startswith(("XCA.", "ChannelAttention")) for function in functions)
