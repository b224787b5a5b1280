"""Captures of compiled models: from inside the graph, without a break, and gone without a trace."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch")

import torch
import torch._dynamo as dynamo
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anylocal import Assignment, Capture, capture
from anylocal._engine import dynamo as anylocal_dynamo
from anylocal._engine.dynamo import LinkedRecord, collect, top
from anylocal.errors import LimitWarning, UnsupportedError

from . import subprocesses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# torch says so of the very first 3.13.
pytestmark = pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")

LAYERS = 12  # more than the number of times for which dynamo compiles one function anew


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        attn: Tensor = (self.project(x) @ x.mT).softmax(-1)
        return attn @ x


class Model(nn.Module):
    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention() for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def compiled_whole(model: nn.Module, backend: str) -> Callable[[Tensor], Tensor]:
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True, backend=backend)
    return compiled


def compiled_in_place(model: nn.Module, backend: str) -> Callable[[Tensor], Tensor]:
    model.compile(fullgraph=True, backend=backend)
    return model


def compiled_by_block(model: nn.Module, backend: str) -> Callable[[Tensor], Tensor]:
    for layer in model.layers:  # type: ignore[union-attr]  # a list of modules
        layer.compile(fullgraph=True, backend=backend)
    return model


ways = pytest.mark.parametrize("compiled", [compiled_whole, compiled_in_place, compiled_by_block])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Start with nothing compiled."""
    dynamo.reset()
    dynamo.utils.counters.clear()
    torch.manual_seed(0)
    yield
    dynamo.reset()
    dynamo.utils.counters.clear()


@pytest.fixture
def model() -> Model:
    return Model().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 4)


def graphs() -> int:
    return int(dynamo.utils.counters["stats"]["unique_graphs"])


def breaks() -> int:
    return sum(dynamo.utils.counters["graph_break"].values())


def eager_maps(model: nn.Module, x: Tensor, **options: Any) -> list[Tensor]:
    with capture(model, "attn", keep="clone", **options) as cap:
        model(x)
    values: list[Tensor] = cap["attn"]
    return values


def assert_close(cap: Capture, expected: list[Tensor]) -> None:
    values = cap["attn"]
    assert len(values) % len(expected) == 0
    for i, value in enumerate(values):
        torch.testing.assert_close(value, expected[i % len(expected)], rtol=0, atol=1e-6)


@ways
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_model_gives_its_values(
    compiled: Callable[[nn.Module, str], Callable[[Tensor], Tensor]], backend: str, model: Model, x: Tensor
) -> None:
    """Every call's, as the eager model's, without a graph break, compiled once."""
    expected = eager_maps(model, x)
    run = compiled(model, backend)
    with torch.no_grad(), capture(model, "attn") as cap:
        run(x)
        before = graphs()
        for _ in range(10):
            run(x)
    assert_close(cap, expected)
    assert len(cap) == 11 * LAYERS
    assert [call.name for call in cap.calls[:LAYERS]] == [f"layers.{i}" for i in range(LAYERS)]
    assert (graphs(), breaks()) == (before, 0)


@ways
def test_a_model_that_was_compiled_before_notices(
    compiled: Callable[[nn.Module, str], Callable[[Tensor], Tensor]], model: Model, x: Tensor
) -> None:
    """Entering drops what dynamo had compiled, which would record nothing."""
    run = compiled(model, "aot_eager")
    with torch.no_grad():
        run(x)
        with capture(model, "attn") as cap:
            run(x)
    assert len(cap) == LAYERS


@ways
def test_after_the_scope_nothing_is_recorded_or_held(
    compiled: Callable[[nn.Module, str], Callable[[Tensor], Tensor]], model: Model, x: Tensor
) -> None:
    """Neither by the compiled model nor by what it left behind."""
    run = compiled(model, "aot_eager")
    with torch.no_grad():
        with capture(model, "attn") as cap:
            run(x)
        run(x)
        assert len(cap) == LAYERS
        watched = [weakref.ref(value) for value in cap["attn"]]
        del cap
        gc.collect()
        run(x)
    assert [ref() for ref in watched] == [None] * LAYERS


def test_ten_captures_in_a_row_each_have_their_own(model: Model, x: Tensor) -> None:
    """Each compiles anew, and dynamo's limit for that is not reached."""
    run = compiled_whole(model, "eager")
    caps = []
    for _ in range(10):
        with capture(model, "attn") as cap:
            run(x)
        caps.append(cap)
    assert [len(cap) for cap in caps] == [LAYERS] * 10
    assert breaks() == 0


def test_one_capture_that_is_cleared_compiles_once(model: Model, x: Tensor) -> None:
    """The way to go through many batches."""
    run = compiled_whole(model, "eager")
    with capture(model, "attn") as cap:
        run(x)
        before = graphs()
        for _ in range(10):
            cap.clear()
            run(x)
            assert len(cap) == LAYERS
    assert graphs() == before


def test_dynamic_shapes(model: Model) -> None:
    """One graph serves all lengths, and each value has its own shape."""
    run = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad(), capture(model, "attn") as cap:
        for n in (3, 5, 8, 13):
            run(torch.randn(2, n, 4))
    assert [value.shape[-1] for value in cap["attn"][::LAYERS]] == [3, 5, 8, 13]
    assert graphs() == 1


def test_keep_runs_inside_the_graph(model: Model, x: Tensor) -> None:
    """What it makes of a value is all that leaves it."""
    expected = [value.mean(-1) for value in eager_maps(model, x)]
    run = compiled_whole(model, "inductor")
    with torch.no_grad(), capture(model, "attn", keep=lambda attn: attn.mean(-1)) as cap:
        run(x)
    assert_close(cap, expected)
    assert breaks() == 0


def test_every_assignment_of_a_compiled_function() -> None:
    """In order."""

    def steps(x: Tensor) -> Tensor:
        y = x + 1
        y = y * 2
        return y

    run = torch.compile(steps, fullgraph=True, backend="aot_eager")
    with capture(steps, "y", every=True) as cap:
        run(torch.ones(1))
    assert [float(value) for value in cap["y"]] == [2, 4]


def test_an_edit_is_compiled_in(model: Model, x: Tensor) -> None:
    """The compiled model goes on with the new value."""
    edit = {"attn": lambda attn: attn * 0}
    run = compiled_whole(model, "aot_eager")
    with capture(model, edit=edit):
        assert run(x).abs().max() == 0
    assert run(x).abs().max() > 0


def test_an_edit_of_one_assignment_is_compiled_in() -> None:
    """And leaves the others of the name as they are."""

    def steps(x: Tensor) -> Tensor:
        y = x + 1
        y = y * 2
        return y

    run = torch.compile(steps, fullgraph=True, backend="aot_eager")
    with capture(steps, edit={Assignment("y", number=0): lambda y: y + 10}):
        assert run(torch.ones(1)) == 24
    assert run(torch.ones(1)) == 4


def test_an_edit_of_the_blocks_of_a_model_is_compiled_in(model: Model, x: Tensor) -> None:
    """Of more blocks than dynamo compiles one function for."""
    run = compiled_by_block(model, "eager")
    with torch.no_grad(), capture(model, edit={"attn": lambda attn: attn * 0}):
        assert run(x).abs().max() == 0
    assert breaks() == 0


def test_an_edit_leaves_another_model_of_the_class_alone(model: Model, x: Tensor) -> None:
    """Though both run the same code, compiled."""
    other = Model().eval()
    run, run_other = compiled_whole(model, "eager"), compiled_whole(other, "eager")
    expected = run_other(x)
    with capture(model, edit={"attn": lambda attn: attn * 0}):
        run(x)
        torch.testing.assert_close(run_other(x), expected)


def test_another_model_of_the_class_is_not_recorded(model: Model, x: Tensor) -> None:
    """Though both run the same code, compiled."""
    other = Model().eval()
    run, run_other = compiled_whole(model, "eager"), compiled_whole(other, "eager")
    with capture(model, "attn") as cap:
        run_other(x)
        run(x)
        run_other(x)
    assert {call.name for call in cap.calls} == {f"layers.{i}" for i in range(LAYERS)}
    assert len(cap) == LAYERS


def test_a_name_that_is_not_bound_is_left_out() -> None:
    """On the path that was compiled."""

    def choose(x: Tensor, *, short: bool) -> Tensor:
        if short:
            return x
        y = x * 2
        return y

    run = torch.compile(choose, fullgraph=True, backend="eager")
    with capture(choose, "y") as cap:
        run(torch.ones(1), short=True)
        run(torch.ones(1), short=False)
    assert [dict(call.values) for call in cap.calls] == [{}, {"y": torch.tensor([2.0])}]


def test_a_compiled_call_tells_no_thread(model: Model, x: Tensor) -> None:
    """It cannot be known."""
    run = compiled_whole(model, "eager")
    with capture(model, "attn") as cap:
        run(x)
    assert {call.thread for call in cap.calls} == {None}


def test_threads_that_run_compiled_code_lose_no_call(x: Tensor) -> None:
    """What one leaves behind is not swept away by another."""
    model = Model(2).eval()
    run = compiled_whole(model, "eager")
    with torch.no_grad(), capture(model, "attn") as cap:
        run(x)
        threads = [threading.Thread(target=lambda: [run(x) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(cap) == 2 * (4 * 50 + 1)


def test_the_limit_stops_a_compiled_model_from_recording(model: Model, x: Tensor) -> None:
    """And the model goes on."""
    run = compiled_whole(model, "aot_eager")
    cap = capture(model, "attn", limit=2000).open()
    with pytest.warns(LimitWarning), torch.no_grad():
        _often(run, x)
    cap.close()
    assert 0 < len(cap) < 2000 / 72


def _often(run: Callable[[Tensor], Tensor], x: Tensor) -> None:
    for _ in range(20):
        run(x)


@pytest.mark.parametrize("keep", ["detach", "clone"])
def test_eager_and_compiled_calls_come_in_order(keep: str, model: Model, x: Tensor) -> None:
    """A model some of whose blocks are compiled."""
    for layer in model.layers[::2]:
        layer.compile(backend="eager")
    with torch.no_grad(), capture(model, "attn", keep=keep) as cap:
        model(x)
        model(x)
    assert [call.name for call in cap.calls] == 2 * [f"layers.{i}" for i in range(LAYERS)]


def test_a_capture_that_opens_before_dynamo_is_there_serves_it_too() -> None:
    """The compiler is recognised when it comes."""
    subprocesses.run(
        """
        from anylocal import Assignment, capture

        def double(x):
            y = x * 2
            return y

        with capture(double, "y"):
            double(1)
            import torch
            with capture(double, "y") as cap:
                run = torch.compile(double, fullgraph=True, backend="eager")
                for _ in range(12):
                    run(torch.ones(1))
        assert len(cap) == 12
        assert sum(torch._dynamo.utils.counters["graph_break"].values()) == 0
        """
    )


def test_a_chain_that_another_replaces_brings_itself_in() -> None:
    """Two threads put theirs on what both found, and the second takes the place of the first."""
    received: list[str] = []

    class Listener:
        def receive(self, record: str) -> None:
            received.append(record)

    found = top[0]
    first = LinkedRecord(LinkedRecord(found, Listener(), ("one",)), Listener(), ("two",))
    second = LinkedRecord(found, Listener(), ("three",))
    top[0] = first
    top[0] = second
    del first, second
    assert received == ["one", "two"]
    collect()
    assert received == ["one", "two", "three"]


def around_a_condition(x: Any) -> Any:
    before = x + 1
    after = torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (before,))
    last = after + 1
    return last


def test_records_around_an_operator_of_functions() -> None:
    """What is recorded before such an operator and after it comes out, in one graph."""
    with capture(around_a_condition, "before", "after", "last", every=True) as cap:
        torch.compile(around_a_condition, backend="eager", fullgraph=True)(torch.ones(2))
    assert [list(call.values) for call in cap.calls] == [["before"], ["after"], ["last"]]
    assert cap["last"][0].tolist() == [5.0, 5.0]


# Gradients


class Checkpointed(Model):
    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("way", ["eager", "blocks", "whole"])
def test_a_forward_that_is_recomputed_is_recorded_once(way: str, x: Tensor, *, reentrant: bool) -> None:
    """Checkpointing runs it again in the backward pass."""
    if way == "whole" and not hasattr(dynamo.config, "skip_fwd_side_effects_in_bwd_under_checkpoint"):
        pytest.skip("this torch compiles no checkpoint that has a side effect")
    model = Checkpointed(3)
    model.reentrant = reentrant
    run = {"eager": lambda m, _: m, "blocks": compiled_by_block, "whole": compiled_whole}[way](model, "aot_eager")
    x.requires_grad_()
    with capture(model, "attn") as cap:
        run(x).sum().backward()
        run(x).sum().backward()
    assert len(cap) == 6
    assert cap.counts == {"started": 6, "finished": 6, "unfinished": 0}


def test_a_recomputation_that_stops_early_is_no_call_that_raised(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpointing leaves it by an exception, as soon as it has what it needs."""
    monkeypatch.setattr(anylocal_dynamo, "is_used", lambda: False)
    model = Checkpointed(3)
    with capture(model, "attn") as cap:
        model(x.requires_grad_()).sum().backward()
    assert cap.counts == {"started": 3, "finished": 3, "unfinished": 0}


def test_a_graph_goes_on_after_a_break_in_a_captured_function() -> None:
    """A compiler does not continue inside of an exception region, so that there is none."""
    graphs = []

    def note(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    def broken(x: Tensor) -> Tensor:
        y = x + 1
        torch._dynamo.graph_break()
        z = y * 2
        return z

    run = torch.compile(broken, backend=note)
    with capture(broken, "y", "z") as cap:
        run(torch.ones(2))
    assert len(graphs) == 2
    assert (cap["y"][0].tolist(), cap["z"][0].tolist()) == ([2, 2], [4, 4])


def test_values_are_right_where_a_graph_ends_at_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the compiler came after the capture, whose handler it cannot continue in."""
    monkeypatch.setattr(anylocal_dynamo, "is_used", lambda: False)

    def broken(x: Tensor) -> Tensor:
        y = x + 1
        torch._dynamo.graph_break()
        z = y * 2
        return z

    with capture(broken, "y", "z") as cap:
        torch.compile(broken, backend="eager")(torch.ones(2))
    assert (cap["y"][0].tolist(), cap["z"][0].tolist()) == ([2, 2], [4, 4])


def test_what_a_backward_pass_runs_for_the_first_time_is_recorded() -> None:
    """A custom function's own backward."""

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            grad = grads[0] * 2
            return grad

    with capture(Double.backward, "grad") as cap:
        Double.apply(torch.ones(3, requires_grad=True)).sum().backward()
    assert cap["grad"][0].tolist() == [2, 2, 2]


def test_dynamos_settings_are_put_back(model: Model) -> None:
    """After the scope they are what they were."""
    before = dynamo.config.save_config()
    with capture(model, "attn"):
        model(torch.randn(1, 2, 4))
    assert dynamo.config.save_config() == before


@pytest.mark.parametrize("backend", [None, "eager"])
def test_gradients_with_respect_to_a_value(backend: str | None, model: Model, x: Tensor) -> None:
    """Where the graph is kept, by `retain_grad` and by `autograd.grad` alike."""
    run = model if backend is None else torch.compile(model, fullgraph=True, backend=backend)
    with capture(model, "attn", keep="graph") as cap:
        output = run(x).sum()
    values = cap["attn"]
    expected = torch.autograd.grad(output, values, retain_graph=True)
    for value in values:
        value.retain_grad()
    output.backward()
    torch.testing.assert_close([value.grad for value in values], list(expected))
    assert expected[0].abs().max() > 0


def test_a_gradient_that_a_compiled_graph_cannot_give_is_refused(model: Model, x: Tensor) -> None:
    """Instead of being None."""
    run = compiled_whole(model, "aot_eager")
    with capture(model, "attn", keep="graph") as cap:
        run(x)
    with pytest.raises(UnsupportedError, match="compiled by AOTAutograd"):
        cap["attn"][0].retain_grad()


def test_a_loss_on_a_value_of_a_compiled_model_trains_it(model: Model, x: Tensor) -> None:
    """What is computed from it has the eager model's gradients."""
    gradients = []
    for run in (model, compiled_whole(model, "aot_eager")):
        with capture(model, "attn", keep="graph") as cap:
            run(x)
        (gradient,) = torch.autograd.grad(cap["attn"][-1].square().sum(), model.layers[0].project.weight)  # type: ignore[arg-type, union-attr]  # a parameter
        gradients.append(gradient)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("strict", [False, True])
def test_export_is_refused(model: Model, x: Tensor, *, strict: bool) -> None:
    """With what to do instead, however the model is traced."""
    with pytest.raises((UnsupportedError, dynamo.exc.Unsupported), match="Export the model outside the with block"):
        _export(model, x, strict=strict)
    torch.export.export(model, (x,), strict=strict)


def _export(model: Model, x: Tensor, *, strict: bool) -> None:
    with capture(model, "attn"):
        torch.export.export(model, (x,), strict=strict)


class Fused(nn.Module):
    """As a layer that can run a fused kernel: on one way the name is bound, on the other not."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            x = nn.functional.scaled_dot_product_attention(x, x, x)
        else:
            attn = (x @ x.mT).softmax(-1)
            x = attn @ x
        return x


@pytest.mark.parametrize("fused", [False, True])
def test_a_name_that_may_be_unbound_does_not_break_the_graph(*, fused: bool) -> None:
    """Dynamo knows no unbound names: the name holds something that is none of its values from the start."""
    model = nn.Sequential(Fused(fused=False), Fused(fused=fused))
    x = torch.randn(1, 1, 3, 4)
    expected = model(x)
    whole = torch.compile(model, fullgraph=True, backend="aot_eager")
    with capture(whole, "attn") as cap:
        torch.testing.assert_close(whole(x), expected)
    assert [call.name for call in cap.calls if "attn" in call.values] == ["0"] if fused else ["0", "1"]
    assert len(cap["attn"]) == (1 if fused else 2)
