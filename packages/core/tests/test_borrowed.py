"""Attention functions that do not take the module: their maps are those of the module that called them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402  # torch may not be there
from torch.nn import functional as F  # noqa: E402, N812  # as everybody calls it

from anylocal.errors import OverlookedWarning  # noqa: E402  # as above

from .of_torch import OfTorch  # noqa: E402  # as above


def attend(q: Any, k: Any, v: Any, *, fails: bool = False) -> Any:
    attn = (q @ k.mT * 0.5).softmax(-1)
    if fails:
        raise ValueError(attn.shape)
    return attn @ v


def attend_of_two(q: Any, k: Any, v: Any) -> Any:
    attn = (q @ k.mT * 0.5).softmax(-1)
    return attn @ v


class Base(nn.Module):
    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def split(self, x: Any) -> Any:
        return self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)

    def join(self, x: Any) -> Any:
        return x.transpose(1, 2).flatten(2)


class PlainAttention(Base):
    def forward(self, x: Any) -> Any:
        return self.join(self.inner(*self.split(x)))

    def inner(self, q: Any, k: Any, v: Any) -> Any:
        return attend(q, k, v, fails=self.fails)


class AttnProcessor:
    """As those of diffusers."""

    def __call__(self, attn: Any, x: Any) -> Any:
        q, k, v = attn.split(x)
        return attn.join(F.scaled_dot_product_attention(q, k, v, scale=0.5))


class Attention(Base):
    def __init__(self) -> None:
        super().__init__()
        self.processor = AttnProcessor()

    def forward(self, x: Any) -> Any:
        return self.processor(self, x)


class SharedAttention(Base):
    def forward(self, x: Any) -> Any:
        return self.join(attend_of_two(*self.split(x)))


class Mixer(Base):
    def forward(self, x: Any) -> Any:
        return self.join(attend_of_two(*self.split(x)))


def given() -> Any:
    return torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


def inputs_of(model: nn.Module, x: Any) -> dict[str, Any]:
    """Return the input of each layer, by its name."""
    found: dict[str, Any] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: found.update({name: args[0]}))
        for name, module in model.named_modules()
        if isinstance(module, Base)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def check(maps: Any, model: nn.Module) -> None:
    """Compare each map with the softmax in float64 of what its layer is given."""
    inputs, layers = inputs_of(model, given()), dict(model.named_modules())
    for attention in maps:
        layer: Any = layers[attention.name]
        q, k, _ = layer.split(inputs[attention.name])
        expected = (q.double() @ k.double().mT * 0.5).softmax(-1)
        torch.testing.assert_close(attention.tensor().double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [PlainAttention, Attention])
def test_each_map_is_that_of_the_layer_that_called(kind: Any) -> None:
    """A plain function, or an object that is not a module, works for any layer."""
    model = nn.Sequential(kind(), kind())
    with OfTorch().capture_attention(model) as maps:
        for _ in range(2):
            model(given())
    assert [(attention.name, attention.forward) for attention in maps] == [("0", 0), ("1", 0), ("0", 1), ("1", 1)]
    check(maps, model)
    assert not maps.unsupported


@pytest.mark.parametrize("kind", [PlainAttention, Attention])
def test_a_layer_alone(kind: Any) -> None:
    """It is a model of its own, each of whose runs is a forward pass."""
    model = kind()
    with OfTorch().capture_attention(model) as maps:
        for _ in range(2):
            model(given())
    assert [(attention.name, attention.forward) for attention in maps] == [("", 0), ("", 1)]


@pytest.mark.parametrize("kind", [PlainAttention, Attention])
def test_another_model_is_not_captured(kind: Any) -> None:
    """Its layers call the same function."""
    model, other = nn.Sequential(kind(), kind()), kind()
    with OfTorch().capture_attention(model) as maps:
        other(given())
        model(given())
        other(given())
    assert maps.names == ["0", "1"]
    check(maps, model)


@pytest.mark.parametrize("kind", [PlainAttention, Attention])
def test_chosen_layers(kind: Any) -> None:
    """Only they have maps."""
    model = nn.Sequential(kind(), kind())
    with OfTorch().capture_attention(model, modules="1") as maps:
        model(given())
    assert maps.names == ["1"]
    check(maps, model)


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
@pytest.mark.parametrize("kind", [PlainAttention, Attention])
def test_compiled(kind: Any) -> None:
    """In one graph."""
    model = nn.Sequential(kind(), kind())
    with OfTorch().capture_attention(model) as maps, torch.no_grad():
        torch.compile(model, backend="eager", fullgraph=True)(given())
    assert maps.names == ["0", "1"]
    check(maps, model)


def test_a_call_that_raises() -> None:
    """The layers that run afterwards have their own maps, and other models none."""
    first = PlainAttention()
    model = nn.Sequential(first, PlainAttention())
    with OfTorch().capture_attention(model) as maps:
        first.fails = True
        with pytest.raises(ValueError, match="Size"):
            model(given())
        first.fails = False
        PlainAttention()(given())
        model(given())
    assert maps.names == ["0", "1"]
    check(maps, model)


class AroundAttention(PlainAttention):
    """Goes on where the layer inside it raises."""

    def __init__(self) -> None:
        super().__init__()
        self.part = PlainAttention()
        self.part.fails = True

    def inner(self, q: Any, k: Any, v: Any) -> Any:
        with contextlib.suppress(ValueError):
            self.part(self.join(q).repeat(1, 1, 1))
        return attend(q, k, v)


def test_a_call_inside_that_raises() -> None:
    """What another model calls afterwards is not taken for a part of it."""
    model, other = nn.Sequential(AroundAttention()), PlainAttention()
    with OfTorch().capture_attention(model) as maps:
        model(given())
        other(given())
    assert maps.names == ["0"]


def test_a_function_that_others_call_as_well() -> None:
    """Where a module that is not called attention calls it, the layer would be a guess: it is told."""
    model = nn.Sequential(PlainAttention(), SharedAttention(), Mixer())
    scope = OfTorch().capture_attention(model).open()
    model(given())
    with pytest.warns(OverlookedWarning, match="'attend_of_two'.*does not take the module"):
        scope.close()
    assert scope.maps.names == ["0"]
    assert {*scope.unsupported} == {"attend_of_two", "1"}
