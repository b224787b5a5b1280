"""``reduce=``: each map becomes what a function makes of it, and its operands go."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch.nn import functional

from anylocal.attention import AttentionMap, capture_attention
from anylocal.errors import NothingRecordedWarning, OptionError, PositionError

# No other test has tensors of this width.
HEAD_SIZE = 23


class Attention(nn.Module):
    """One layer of attention under torch's fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(2 * HEAD_SIZE, 3 * 2 * HEAD_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, HEAD_SIZE)).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attentions = [Attention() for _ in range(3)]
        self.layers = nn.ModuleList(self.attentions)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.attentions:
            x = layer(x)
        return x


NAMES = [f"layers.{number}" for number in range(3)]


@pytest.fixture
def model() -> Model:
    return Model().eval()


@pytest.fixture
def batches() -> Tensor:
    return torch.randn(4, 2, 5, 2 * HEAD_SIZE, generator=torch.Generator().manual_seed(0))


def operands() -> int:
    """Return how many tensors are alive that only queries, keys and values look like."""
    return sum(type(item) is Tensor and item.shape[-1:] == (HEAD_SIZE,) for item in gc.get_objects())


def first_row(item: AttentionMap) -> Tensor:
    return item[:, :, 0]


def test_the_results_are_those_of_the_maps(model: Model, batches: Tensor) -> None:
    """For each layer in turn, one for each forward pass."""
    with torch.no_grad():
        with capture_attention(model, reduce=first_row) as maps:
            for batch in batches:
                model(batch)
        with capture_attention(model) as whole:
            for batch in batches:
                model(batch)
    assert [*maps.reduced] == NAMES
    for name in NAMES:
        expected = [item[:, :, 0] for item in whole if item.name == name]
        torch.testing.assert_close(maps.reduced[name], expected, rtol=0, atol=0)


def test_the_operands_go_with_each_forward_pass(model: Model, batches: Tensor) -> None:
    """Memory holds those of one at most."""
    with torch.no_grad(), capture_attention(model, reduce=first_row):
        for batch in batches:
            model(batch)
            assert operands() == 0


def test_the_operands_of_a_map_go_before_the_next_one_is_computed(model: Model, batches: Tensor) -> None:
    """Three layers have queries and keys, and each that was reduced has taken its own away."""
    alive: list[int] = []

    def count(item: AttentionMap) -> None:
        alive.append(operands())

    with torch.no_grad(), capture_attention(model, reduce=count):
        model(batches[0])
    assert [first - alive[-1] for first in alive] == [4, 2, 0]


def test_a_map_is_computed(model: Model, batches: Tensor) -> None:
    """What a function returns unread, such as half of a map, would hold the operands."""
    with torch.no_grad(), capture_attention(model, reduce=lambda item: item / 2) as maps:
        model(batches[0])
    value = maps.reduced["layers.0"][0]
    assert isinstance(value, Tensor)
    torch.testing.assert_close(value.sum(-1), torch.full((2, 2, 5), 0.5))
    assert operands() == 0


def test_the_function_sees_the_labels(model: Model, batches: Tensor) -> None:
    """Names and numbers of forward passes, which go on."""
    with torch.no_grad(), capture_attention(model, reduce=lambda item: (item.name, item.forward)) as maps:
        for batch in batches[:2]:
            model(batch)
    assert maps.reduced == {name: [(name, 0), (name, 1)] for name in NAMES}


def test_training_goes_on(model: Model, batches: Tensor) -> None:
    """The loss has its gradients, and the results have none."""
    with capture_attention(model, reduce=first_row) as maps:
        model(batches[0]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not maps.reduced["layers.0"][0].requires_grad


def test_a_loss_of_the_maps(model: Model, batches: Tensor) -> None:
    """With the graph, what a function makes of the maps has the gradients of the map that torch computes."""
    with capture_attention(model, keep="graph", reduce=lambda item: item.tensor().square().mean()) as maps:
        model(batches[0])
    maps.reduced["layers.0"][0].backward()
    found = model.attentions[0].qkv.weight.grad
    model.zero_grad()
    q, k, _ = model.attentions[0].qkv(batches[0]).unflatten(-1, (3, 2, HEAD_SIZE)).permute(2, 0, 3, 1, 4)
    (q @ k.mT / HEAD_SIZE**0.5).softmax(-1).square().mean().backward()
    torch.testing.assert_close(found, model.attentions[0].qkv.weight.grad)


def test_a_part_of_the_model_that_runs_alone(model: Model, batches: Tensor) -> None:
    """It has no end that is known, so its maps are reduced when they are read."""
    with torch.no_grad(), capture_attention(model, reduce=first_row) as maps:
        model.attentions[1](batches[0])
        assert [*maps.reduced] == ["layers.1"]


def test_the_end_of_the_block_reduces_what_is_left(model: Model, batches: Tensor) -> None:
    """And frees it."""
    scope = capture_attention(model, reduce=first_row)
    with torch.no_grad(), scope:
        model.attentions[1](batches[0])
    assert operands() == 0


def test_threads(model: Model, batches: Tensor) -> None:
    """Forward passes that run at the same time lose nothing."""
    barrier = threading.Barrier(4)

    def run(batch: Tensor) -> None:
        barrier.wait()
        with torch.no_grad():
            for _ in range(10):
                model(batch)

    with capture_attention(model, reduce=first_row) as maps:
        threads = [threading.Thread(target=run, args=(batch,)) for batch in batches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name in NAMES:
        assert len(maps.reduced[name]) == 40


def test_the_limit_is_that_of_what_is_held(model: Model, batches: Tensor) -> None:
    """Many forward passes that would reach it together are all reduced, wherever their operands lay."""
    elsewhere = []
    with torch.no_grad(), capture_attention(model, reduce=first_row, limit="24 kB") as maps:
        for _ in range(20):
            model(batches[0])
            elsewhere.append(torch.empty(2, 5, 3 * 2 * HEAD_SIZE))
    assert len(maps.reduced["layers.0"]) == 20


def test_no_warning_that_nothing_was_recorded(model: Model, batches: Tensor) -> None:
    """Though there is no map at the end; where the model never ran, it warns."""
    with torch.no_grad(), capture_attention(model, reduce=first_row) as maps:
        model(batches[0])
    assert repr(maps) == "AttentionMaps: none; reduce= kept values of 3 modules in .reduced"
    with pytest.warns(NothingRecordedWarning), capture_attention(model, reduce=first_row):
        pass


def test_a_map_is_asked_for(model: Model, batches: Tensor) -> None:
    """The message names where the results are."""
    with torch.no_grad(), capture_attention(model, reduce=first_row) as maps:
        model(batches[0])
    with pytest.raises(PositionError, match=r"what it made of the maps is in \.reduced"):
        maps[0]


def test_clear_forgets_the_results(model: Model, batches: Tensor) -> None:
    """Between batches."""
    scope = capture_attention(model, reduce=first_row)
    with torch.no_grad(), scope as maps:
        model(batches[0])
        scope.clear()
        assert maps.reduced == {}
        model(batches[1])
    assert len(maps.reduced["layers.0"]) == 1


def test_an_exception_is_the_users(model: Model, batches: Tensor) -> None:
    """It reaches whoever called the model, which is as it was afterwards."""

    def fail(_: AttentionMap) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), torch.no_grad(), capture_attention(model, reduce=fail):
        model(batches[0])
    model(batches[0])


def test_what_is_no_function(model: Model) -> None:
    """A name of a reduction is refused."""
    with pytest.raises(OptionError, match=r"reduce='mean' is not a function"):
        capture_attention(model, reduce="mean")


def test_the_scope_is_freed(model: Model, batches: Tensor) -> None:
    """Without waiting for the garbage collector."""
    scope = capture_attention(model, reduce=first_row)
    with torch.no_grad(), scope:
        model(batches[0])
    reference = weakref.ref(scope)
    gc.disable()
    try:
        del scope
        assert reference() is None
    finally:
        gc.enable()
