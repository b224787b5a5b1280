"""The choice of layers, forward passes, and refused models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch

import anylocal_vit
from anylocal import errors

Make = Callable[..., Any]


def run(model: Any, times: int = 1) -> None:
    with torch.no_grad():
        for _ in range(times):
            model(torch.randn(1, 3, 64, 64))


def test_forward_passes_are_separate(make: Make) -> None:
    """Each forward pass has its own maps, and functions of one forward pass refuse several."""
    model = make(img_size=64, depth=2)
    with anylocal_vit.capture_attention(model) as maps:
        run(model, times=3)
    assert [forward.names for forward in maps.forwards] == [["blocks.0.attn", "blocks.1.attn"]] * 3
    with pytest.raises(errors.ChoiceError, match="forwards"):
        maps.rollout()


def test_submodules_called_directly_are_forward_passes(make: Make) -> None:
    """A submodule that is called directly counts as a forward pass of its own."""
    model = make(img_size=64, depth=2)
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        for _ in range(2):
            model.forward_features(torch.randn(1, 3, 64, 64))
    assert [len(forward) for forward in maps.forwards] == [2, 2]


def test_a_forward_that_raised_keeps_to_itself(make: Make) -> None:
    """The maps of a forward pass that raised do not mix with those of the next."""
    model = make(img_size=64, depth=2)
    handle = model.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with anylocal_vit.capture_attention(model) as maps:
        with pytest.raises(ZeroDivisionError):
            run(model)
        handle.remove()
        run(model)
    assert [len(forward) for forward in maps.forwards] == [1, 2]


def test_modules_selects_layers(make: Make) -> None:
    """`modules` captures only the layers whose names match."""
    model = make(img_size=64, depth=3)
    with anylocal_vit.capture_attention(model, modules="blocks.[02].attn") as maps:
        run(model)
    assert maps.names == ["blocks.0.attn", "blocks.2.attn"]


def test_maps_can_be_read_while_the_scope_is_open(make: Make) -> None:
    """The maps grow while the model runs."""
    model = make(img_size=64, depth=2)
    with anylocal_vit.capture_attention(model) as maps:
        run(model)
        assert len(maps) == 2
        run(model)
        assert len(maps) == 4


def test_a_capture_can_be_cleared(make: Make) -> None:
    """A long-lived capture forgets its maps on request and goes on."""
    model = make(img_size=64, depth=2)
    capture = anylocal_vit.capture_attention(model).open()
    run(model)
    capture.clear()
    assert len(capture.maps) == 0
    run(model)
    capture.close()
    assert len(capture.maps) == 2


def test_gradients_flow_through_kept_graphs(make: Make) -> None:
    """With `keep="graph"` a loss of the map has a gradient in the layer's weights."""
    model = make(img_size=64, depth=1)
    with anylocal_vit.capture_attention(model, keep="graph") as maps:
        model(torch.randn(1, 3, 64, 64))
    maps[0][:, :, 0].square().sum().backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().max() > 0


def test_a_model_without_attention_says_what_it_has() -> None:
    """A convolutional network is refused with the list of its layers."""
    with pytest.raises(
        errors.TargetError, match=r"ResNet computes no attention map .* BasicBlock, BatchNorm2d, Conv2d"
    ):
        anylocal_vit.capture_attention(timm.create_model("resnet18"))


class Difference(torch.nn.Module):
    """Attention that is the difference of two maps."""

    def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        first = (q @ k.mT).softmax(-1)
        second = (k @ q.mT).softmax(-1)
        return first - second


def test_a_map_that_could_not_be_exact_is_refused() -> None:
    """A layer with two softmaxes is refused by name."""
    with pytest.raises(errors.UnsupportedError, match=r"Difference\.forward .* makes several maps"):
        anylocal_vit.capture_attention(torch.nn.Sequential(Difference()))


def test_a_scope_without_a_forward_warns(make: Make) -> None:
    """A capture in which the model never ran says so."""
    with (
        pytest.warns(errors.NothingRecordedWarning, match="recorded no attention map: .* was not called"),
        anylocal_vit.capture_attention(make(img_size=64, depth=1)),
    ):
        pass


def test_operands_changed_in_place_are_reported(make: Make) -> None:
    """If the kernel's operands are changed in place afterwards, reading the map says so."""
    model = make(img_size=64, depth=1)
    buffers: list[torch.Tensor] = []
    model.blocks[0].attn.qkv.register_forward_hook(lambda _, __, output: buffers.append(output))
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
        buffers[0].mul_(2)
    with pytest.warns(errors.ChangedInPlaceWarning):
        maps[0].tensor()
