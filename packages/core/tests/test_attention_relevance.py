"""Relevance: attention times its gradient, against autograd written out, and where it is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from anylocal import capture
from anylocal.attention import AttentionMap, AttentionMaps, relevance
from anylocal.errors import ChoiceError, ShapeError, StateError, UnsupportedError

LAYERS, HEADS, LENGTH, BATCH = 3, 2, 5, 2


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.drop = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, 4).permute(2, 0, 3, 1, 4)
        attn = (q @ k.transpose(-2, -1) * 2).softmax(-1)
        attn = self.drop(attn)
        out: Tensor = (attn @ v).transpose(1, 2).flatten(2)
        return x + out


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention() for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x[:, 0, 0]


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(BATCH, LENGTH, 8, generator=torch.Generator().manual_seed(1))


def captured(model: Model, x: Tensor) -> tuple[AttentionMaps, Tensor]:
    with capture(model, "attn", keep="graph") as cap:
        output = model(x)
    return AttentionMaps(AttentionMap.from_weights(attn, name=str(i)) for i, attn in enumerate(cap["attn"])), output


def written_out(model: Model, x: Tensor) -> Tensor:
    """Compute equations 5 and 6 sample by sample and layer by layer, from hooks."""
    seen: list[Tensor] = []
    handles = [
        layer.drop.register_forward_hook(lambda _module, _inputs, output: seen.append(output))  # type: ignore[union-attr]  # a module
        for layer in model.layers
    ]
    output = model(x)
    for handle in handles:
        handle.remove()
    for attention in seen:
        attention.retain_grad()
    output.sum().backward()
    samples = []
    for sample in range(BATCH):
        flow = torch.eye(LENGTH, dtype=torch.float64)
        for attention in seen:
            assert attention.grad is not None
            weighted = (attention.grad[sample] * attention[sample]).double().clamp(min=0).mean(0)
            flow = flow + weighted @ flow
        samples.append(flow)
    return torch.stack(samples)


def test_it_is_what_the_paper_says(model: Model, x: Tensor) -> None:
    """Within float32, and far from the identity that it starts from."""
    maps, output = captured(model, x)
    expected = written_out(model, x)
    assert (expected - torch.eye(LENGTH)).abs().max() > 0.1
    torch.testing.assert_close(maps.relevance(output).double(), expected, rtol=0, atol=1e-6)


def test_the_graph_is_kept(model: Model, x: Tensor) -> None:
    """Another output may be explained after it."""
    maps, output = captured(model, x)
    first = relevance(maps, output)
    torch.testing.assert_close(relevance(maps, output), first)
    output.sum().backward()


def test_samples_do_not_mix(model: Model, x: Tensor) -> None:
    """Each has the relevance that it has alone."""
    both = relevance(*captured(model, x))
    alone = relevance(*captured(model, x[1:]))
    torch.testing.assert_close(both[1:], alone)


def test_fused_maps_are_refused() -> None:
    """The message says what to switch off."""
    q = torch.randn(1, 1, 3, 4, requires_grad=True)
    with pytest.raises(UnsupportedError, match="set_fused_attn"):
        relevance([AttentionMap.from_qk(q, q, fused=True)], q.sum())


def test_maps_without_a_graph_are_refused(model: Model, x: Tensor) -> None:
    """They were captured without ``keep="graph"``."""
    with capture(model, "attn") as cap:
        output = model(x)
    with pytest.raises(StateError, match='keep="graph"'):
        relevance(map(AttentionMap.from_weights, cap["attn"]), output)


def test_an_output_without_a_graph_is_refused(model: Model, x: Tensor) -> None:
    """It was detached."""
    maps, output = captured(model, x)
    with pytest.raises(StateError, match="output has no graph"):
        relevance(maps, output.detach())


def test_an_output_of_another_run_is_refused(model: Model, x: Tensor) -> None:
    """It does not depend on these maps."""
    maps, _ = captured(model, x)
    with pytest.raises(UnsupportedError, match="does not depend"):
        relevance(maps, model(x))


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_the_maps_of_a_model_that_was_compiled_as_a_whole_are_refused(model: Model, x: Tensor) -> None:
    """AOTAutograd has no gradient with respect to them."""
    run = torch.compile(model, backend="aot_eager")
    with capture(model, "attn", keep="graph") as cap:
        output = run(x)
    with pytest.raises(UnsupportedError, match="compiled as a whole"):
        relevance(map(AttentionMap.from_weights, cap["attn"]), output)


def test_maps_of_several_forwards_are_refused() -> None:
    """They are to be chosen from."""
    weights = torch.eye(2, requires_grad=True)
    maps = [AttentionMap.from_weights(weights, forward=forward) for forward in (0, 1)]
    with pytest.raises(ChoiceError, match="relevance takes one forward pass"):
        relevance(maps, weights.sum())


def test_cross_attention_is_refused() -> None:
    """Its queries are no keys."""
    weights = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(ShapeError, match="self-attention"):
        relevance([AttentionMap.from_weights(weights)], weights.sum())
