"""What capturing an `nn.Module` selects, and how its calls are told apart."""

from __future__ import annotations

import functools
import types
import weakref
from typing import TYPE_CHECKING, Any, cast

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from anylocal import capture, find
from anylocal.errors import ChangedInPlaceWarning, NameNotFoundError, NothingRecordedWarning, OptionError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable


def sharpen(rows: Tensor) -> Tensor:
    sharper = rows**2
    return _normalised(sharper)


def _normalised(rows: Tensor) -> Tensor:
    normal = rows / rows.sum(-1, keepdim=True)
    return normal


def rescale(module: Any, x: Tensor) -> Tensor:
    rescaled: Tensor = x * module.scale
    return rescaled


def residual(self: Any, x: Tensor) -> Tensor:
    added: Tensor = x + self.scale
    return added


class Attention(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.qk = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).chunk(2, -1)
        attn = (q @ k.transpose(-2, -1)).softmax(-1)
        return residual(self, rescale(self, sharpen(attn) @ x))


class Block(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.attn = Attention(scale)

    @property
    def doubled(self) -> float:
        double = 2 * self.attn.scale
        return double

    @staticmethod
    def clip(x: Tensor) -> Tensor:
        clipped = x.clamp(-5, 5)
        return clipped

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.clip(x) * self.doubled + self.attn(x)
        return y


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        built = 12
        self.blocks = nn.Sequential(*(Block(i + 1.0) for i in range(built)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out


X = torch.arange(24.0).reshape(2, 3, 4) / 24


def layer_of(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name)


@pytest.fixture
def model() -> nn.Module:
    """Give a model of twelve attention layers with the same weights each time."""
    torch.manual_seed(0)
    return Model().eval()


# What is found


def test_every_layer_gives_its_values_in_order(model: nn.Module) -> None:
    """One call for each module, named as in `named_modules`."""
    with capture(model, "attn") as cap:
        model(X)
    assert [call.name for call in cap.calls] == [f"blocks.{i}.attn" for i in range(12)]
    assert all(call.module is model.get_submodule(call.name) for call in cap.calls)


def test_values_are_bit_equal_to_what_the_layer_computes(model: nn.Module) -> None:
    """Computed again by hand from the layer's own weights."""
    with capture(model, "attn") as cap:
        model(X)
    q, k = layer_of(model, "blocks.0.attn").qk(X).chunk(2, -1)
    assert torch.equal(cap["attn"][0], (q @ k.transpose(-2, -1)).softmax(-1))


def test_the_output_of_a_captured_model_is_bit_equal(model: nn.Module) -> None:
    """Capturing every name there is changes nothing."""
    expected = model(X)
    names = {name for site in find(model) if site.function.__module__ == __name__ for name in site.names}
    with capture(model, *names, every=True) as cap:
        assert torch.equal(model(X), expected)
    assert len(cap) > 100


def test_functions_of_a_forward_pass_are_found_first() -> None:
    """Those that no `forward` calls, such as the ones that initialize weights, come last."""

    class Layer(nn.Module):
        def extra_repr(self) -> str:
            text = "layer"
            return text

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scaled(x)

        def reset(self) -> None:
            bound = 1
            self.bound = bound

        def scaled(self, x: torch.Tensor) -> torch.Tensor:
            y = 2 * x
            return y

    names = [site.function.__name__ for site in find(Layer())]
    assert names == ["forward", "scaled", "extra_repr", "reset"]


def test_functions_that_the_methods_name_are_found(model: nn.Module) -> None:
    """Functions of the Python module, and what these name in turn."""
    with capture(model, "sharper", "normal") as cap:
        model(X)
    assert [(call.function.__name__, call.name) for call in cap.calls[:2]] == [("_normalised", ""), ("sharpen", "")]
    assert len(cap["sharper"]) == len(cap["normal"]) == 12


@pytest.mark.parametrize(("name", "function"), [("rescaled", rescale), ("added", residual)])
def test_a_function_that_takes_the_module_runs_on_its_behalf(model: nn.Module, name: str, function: object) -> None:
    """By an argument called `module`, or a first one called `self`."""
    with capture(model, name) as cap:
        model(X)
    assert {call.function for call in cap.calls} == {function}
    assert [call.name for call in cap.calls] == [f"blocks.{i}.attn" for i in range(12)]


def test_properties_and_static_methods_are_found(model: nn.Module) -> None:
    """They are methods of the submodules' classes too."""
    with capture(model, "double", "clipped") as cap:
        model(X)
    assert (cap["double"][:2], len(cap["clipped"])) == ([2.0, 4.0], 12)


def test_what_torch_defines_is_left_alone(model: nn.Module) -> None:
    """The insides of `nn.Module` and of torch's functions are not the model's."""
    assert not [site for site in find(model) if site.function.__module__.startswith("torch.nn.modules.module")]


def test_the_constructor_is_left_alone(model: nn.Module) -> None:
    """The model is built: what only `__init__` binds cannot be captured."""
    with pytest.raises(NameNotFoundError, match="'built'"):
        capture(model, "built")


def test_find_tells_the_modules_of_each_site(model: nn.Module) -> None:
    """The submodules on whose behalf a method runs."""
    modules = {site.function.__qualname__: site.modules for site in find(model)}
    assert modules["Attention.forward"] == tuple(f"blocks.{i}.attn" for i in range(12))
    assert modules["Model.forward"] == ("",)


def test_a_forward_put_onto_one_object_as_a_method_is_found(model: nn.Module) -> None:
    """It runs on behalf of the module that it is bound to."""

    def forward(this: Attention, x: Tensor) -> Tensor:
        replaced = x
        return replaced

    layer = layer_of(model, "blocks.3.attn")
    layer.forward = types.MethodType(forward, layer)
    with capture(model, "replaced") as cap:
        model(X)
    assert [call.name for call in cap.calls] == ["blocks.3.attn"]


def test_a_forward_put_onto_one_object_as_a_closure_is_found(model: nn.Module) -> None:
    """It takes no module; every call of it is the layer's."""
    layer = layer_of(model, "blocks.3.attn")

    def forward(x: Tensor) -> Tensor:
        replaced: Tensor = x * layer.scale
        return replaced

    layer.forward = forward
    with capture(model, "replaced") as cap:
        model(X)
    assert len(cap["replaced"]) == 1


def test_a_forward_put_onto_one_object_as_a_partial_is_found(model: nn.Module) -> None:
    """As libraries do that hook into models."""

    def forward(module: Attention, x: Tensor) -> Tensor:
        replaced = x * module.scale
        return replaced

    layer = layer_of(model, "blocks.3.attn")
    layer.forward = functools.partial(forward, layer)
    with capture(model, "replaced") as cap:
        model(X)
    assert [call.name for call in cap.calls] == ["blocks.3.attn"]


class TestFunctionsThatABaseClassNames:
    """A zoo's base class for loading and saving names most of the zoo, which no model of it need run."""

    class Base(nn.Module):
        def save(self, rows: Tensor) -> Tensor:
            saved = sharpen(rows)
            return saved

        def normalise(self, rows: Tensor) -> Tensor:
            return _normalised(rows)

    class Saved(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.normalise(x)

    def test_they_are_not_found(self) -> None:
        """The base class's own methods are."""
        found: dict[object, tuple[str, ...]] = {site.function: site.names for site in find(self.Saved())}
        assert sharpen not in found
        assert found[self.Base.save] == ("self", "rows", "saved")

    def test_they_are_found_where_a_forward_names_their_method(self) -> None:
        """The model may run these."""
        with capture(self.Saved(), "normal") as cap:
            self.Saved()(X)
        assert [call.function for call in cap.calls] == [_normalised]

    def test_they_are_found_in_a_module_of_that_very_class(self) -> None:
        """It has no forward, so its methods are called otherwise."""
        assert sharpen in {site.function for site in find(self.Base())}


# Whose calls count


def test_another_model_of_the_class_is_not_recorded(model: nn.Module) -> None:
    """Both run the same code; only the captured one is recorded."""
    other = Model().eval()
    with capture(model, "attn", "rescaled", "added", "y") as cap:
        other(X)
        model(X)
        other(X)
    ours = {id(module) for module in model.modules()}
    assert len(cap["attn"]) == 12
    assert all(id(call.module) in ours for call in cap.calls)


def test_a_submodule_captured_by_itself_is_one_layer(model: nn.Module) -> None:
    """Names are then counted from that submodule."""
    with capture(model.get_submodule("blocks.1"), "attn") as cap:
        model(X)
    assert [call.name for call in cap.calls] == ["attn"]


def test_a_pattern_selects_submodules(model: nn.Module) -> None:
    """As in `fnmatch`."""
    with capture(model, "attn", modules="blocks.1?.attn") as cap:
        model(X)
    assert [call.name for call in cap.calls] == ["blocks.10.attn", "blocks.11.attn"]


def test_a_function_selects_submodules(model: nn.Module) -> None:
    """It is asked with name and module."""

    def steep(name: str, module: nn.Module) -> bool:
        return name.endswith("attn") and getattr(module, "scale", 0) > 10

    with capture(model, "attn", "rescaled", modules=steep) as cap:
        model(X)
    assert [call.name for call in cap.calls if "attn" in call.values] == ["blocks.10.attn", "blocks.11.attn"]
    assert len(cap["rescaled"]) == 2


def test_a_name_that_the_selected_submodules_lack_raises_at_once(model: nn.Module) -> None:
    """That another submodule binds it does not help."""
    with pytest.raises(NameNotFoundError, match=r"Model \(modules='blocks'\) has no local variable 'attn'"):
        capture(model, "attn", modules="blocks")


def test_a_pattern_that_selects_nothing_raises(model: nn.Module) -> None:
    """With examples of how they are named."""
    with pytest.raises(OptionError, match=r"named as in: blocks, blocks\.0, blocks\.0\.attn"):
        capture(model, "attn", modules="layers.*")


def test_modules_of_something_without_any_raises() -> None:
    """The option means nothing for a function."""
    with pytest.raises(OptionError, match="modules= selects submodules"):
        capture(sharpen, "sharper", modules="blocks.*")


def test_a_model_inside_of_another_ones_wrapper_has_its_own_names(model: nn.Module) -> None:
    """Compilation, data parallelism and checkpointing put it into a module of theirs, whose attribute is in no name."""
    wrapped = nn.DataParallel(cast("nn.Module", torch.compile(model, backend="eager")))
    layer = layer_of(model, "blocks.0")
    layer.attn = checkpoint_wrapper(layer.attn)
    with capture(wrapped, "attn") as cap:
        model(X)
    assert [call.name for call in cap.calls] == [f"blocks.{i}.attn" for i in range(12)]


def test_an_own_attribute_called_module_stays_in_the_name() -> None:
    """Only torch's wrappers are looked through."""

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Block()

        def forward(self, x: Tensor) -> Tensor:
            held: Tensor = self.module(x)
            return held

    holder = Holder()
    with capture(holder, "attn") as cap:
        holder(X)
    assert [call.name for call in cap.calls] == ["module.attn"]


# Reading


def test_at_gives_the_calls_of_one_module(model: nn.Module) -> None:
    """Numbered for each function and module."""
    with capture(model, "attn", "rescaled") as cap:
        model(X)
        model(X)
    calls = cap.at("blocks.3.attn")
    assert [(call.function.__name__, call.index) for call in calls] == [
        ("rescale", 0), ("forward", 0), ("rescale", 1), ("forward", 1),
    ]  # fmt: skip


def test_at_the_root_gives_no_call_of_a_plain_function(model: nn.Module) -> None:
    """Calls on behalf of no module are not the root's, though both have an empty name."""
    with capture(model, "out", "sharper") as cap:
        model(X)
    assert [call.function.__qualname__ for call in cap.at("")] == ["Model.forward"]


def test_at_a_module_that_is_not_there_raises(model: nn.Module) -> None:
    """With the nearest name that is."""
    cap = capture(model, "attn")
    with pytest.raises(NameNotFoundError, match=r"no submodule 'blocks\.12\.attn'\. Did you mean 'blocks\.\d+\.attn'"):
        cap.at("blocks.12.attn")


def test_stack_makes_one_tensor(model: nn.Module) -> None:
    """With a first axis for the calls."""
    with capture(model, "attn") as cap:
        model(X)
    assert cap.stack("attn").shape == (12, 2, 3, 3)
    assert torch.equal(cap.stack("attn")[5], cap["attn"][5])


def test_stack_refuses_shapes_that_differ(model: nn.Module) -> None:
    """The message has the shapes."""
    with capture(model, "attn") as cap:
        model(X)
        model(X[:, :2])
    with pytest.raises(ShapeError, match=r"\(2, 2, 2\), \(2, 3, 3\)"):
        cap.stack("attn")


def test_stack_refuses_what_is_no_tensor(model: nn.Module) -> None:
    """The message has the type."""
    with capture(model, "double") as cap:
        model(X)
    with pytest.raises(ShapeError, match="float"):
        cap.stack("double")


def test_a_call_shows_its_module(model: nn.Module) -> None:
    """The repr names it as the model does."""
    with capture(model, "attn") as cap:
        model(X)
    assert repr(cap.calls[3]) == "Call(Attention.forward of 'blocks.3.attn', index=0, attn)"


# What is kept


def test_values_are_detached_by_default(model: nn.Module) -> None:
    """They hold no graph, and share the model's memory."""
    with capture(model, "attn") as cap:
        model(X)
    assert not any(value.requires_grad for value in cap["attn"])


def test_keep_graph_keeps_the_graph(model: nn.Module) -> None:
    """The model can be differentiated by what was captured."""
    with capture(model, "attn", keep="graph") as cap:
        out = model(X)
    (grad,) = torch.autograd.grad(out.sum(), cap["attn"][:1])
    assert grad.shape == (2, 3, 3)


@pytest.mark.parametrize("keep", ["clone", "cpu"])
def test_a_copy_shares_no_memory(keep: str) -> None:
    """What happens to the tensor afterwards does not matter to it."""

    def fill(x: Tensor) -> Tensor:
        y = x + 1
        return y

    with capture(fill, "y", keep=keep) as cap:
        result = fill(torch.zeros(3))
        result.fill_(7)
    assert torch.equal(cap["y"][0], torch.ones(3))


def test_keep_takes_any_function(model: nn.Module) -> None:
    """What it returns is what is recorded."""
    with capture(model, "attn", keep=lambda attn: attn.amax().item()) as cap:
        model(X)
    assert all(isinstance(value, float) and 1 / 3 <= value <= 1 for value in cap["attn"])


def test_tensors_in_containers_are_kept_alike() -> None:
    """In tuples, lists and dicts; other objects stay what they are."""

    def several(x: Tensor) -> None:
        pair, table, text = (x, [x]), {"x": x}, "text"

    with capture(several, "pair", "table", "text") as cap:
        several(torch.ones(2, requires_grad=True))
    (first, (second,)), table = cap["pair"][0], cap["table"][0]
    assert not any(tensor.requires_grad for tensor in (first, second, table["x"]))
    assert cap["text"] == ["text"]


def test_autocast_and_bfloat16_are_kept_as_they_are(model: nn.Module) -> None:
    """The dtype is the one that the model computed in."""
    with capture(model, "q") as cap, torch.autocast("cpu", dtype=torch.bfloat16):
        model(X)
    assert {value.dtype for value in cap["q"]} == {torch.bfloat16}


# Changed in place


def half(x: Tensor) -> Tensor:
    y = x / 2
    return y


def _add_into_a_view(y: Tensor) -> None:
    y[0].add_(1)


def _softmax_into(y: Tensor) -> None:
    torch.softmax(torch.zeros(3), -1, out=y)


CHANGES = [
    pytest.param(lambda y: y.mul_(2), id="mul_"),
    pytest.param(_add_into_a_view, id="add into a view"),
    pytest.param(_softmax_into, id="softmax(out=)"),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("keep", ["detach", "graph"])
def test_a_value_that_was_changed_in_place_warns_when_it_is_read(change: Callable[[Tensor], Any], keep: str) -> None:
    """It is not the value that the name had."""
    with capture(half, "y", keep=keep) as cap:
        change(half(torch.ones(3)))
    with pytest.warns(ChangedInPlaceWarning, match="'y' of call 0 of half"):
        _ = cap["y"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("keep", ["clone", "cpu"])
def test_a_copy_does_not_warn(change: Callable[[Tensor], Any], keep: str) -> None:
    """It still is the value that the name had."""
    with capture(half, "y", keep=keep) as cap:
        change(half(torch.ones(3)))
    assert torch.equal(cap["y"][0], torch.full((3,), 0.5))


def test_a_value_that_was_changed_before_it_was_recorded_does_not_warn() -> None:
    """What counts is the time at which the call returned."""

    def doubled(x: Tensor) -> Tensor:
        y = x.clone()
        y.mul_(2)
        return y

    with capture(doubled, "y") as cap:
        doubled(torch.ones(2))
    assert cap["y"][0].tolist() == [2, 2]


def test_each_value_warns_for_itself() -> None:
    """Only the call whose tensor was changed."""
    with capture(half, "y") as cap:
        half(torch.ones(1))
        half(torch.ones(1)).zero_()
    assert cap.calls[0].values["y"].item() == 0.5
    with pytest.warns(ChangedInPlaceWarning, match="call 1"):
        _ = cap.calls[1].values["y"]


def test_an_object_that_is_no_module_is_not_kept() -> None:
    """Though the tensors that its method computed are."""

    class Layer:
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            return y

    layer = Layer()
    watched = weakref.ref(layer)
    with capture(Layer, "y") as cap:
        layer.forward(torch.ones(1))
        del layer
        assert watched() is None
    assert len(cap["y"]) == 1


@pytest.mark.parametrize("keep", ["detach", "clone"])
def test_inference_tensors_have_no_version_and_do_no_harm(keep: str) -> None:
    """They cannot be watched, nor do they raise."""
    with capture(half, "y", keep=keep) as cap, torch.inference_mode():
        expected = half(torch.ones(2)) if keep == "clone" else torch.zeros(2)
        cap.clear()
        half(torch.ones(2)).zero_()
    assert cap["y"][0].tolist() == expected.tolist()


# TorchScript


def test_a_warning_tells_that_the_fused_kernel_ran() -> None:
    """The map is never made there; the message says who computes it."""

    class Fused(nn.Module):
        def forward(self, q: Tensor, fused: bool) -> Tensor:
            if fused:
                x = nn.functional.scaled_dot_product_attention(q, q, q)
            else:
                attn = (q @ q.transpose(-2, -1)).softmax(-1)
                x = attn @ q
            return x

    layer = Fused()
    with (
        pytest.warns(NothingRecordedWarning, match="it ran the fused kernel scaled_dot_product_attention"),
        capture(layer, "attn"),
    ):
        layer(X, fused=True)
