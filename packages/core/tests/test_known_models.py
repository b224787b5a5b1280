"""What is known of a model is used for the next capture, and thrown away as soon as the model has changed."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch")

from torch import Tensor, nn, zeros

from anylocal import capture, find
from anylocal._engine import model as engine_model
from anylocal._engine import resolve
from anylocal.adapter import Adapter, MapAxes

if TYPE_CHECKING:
    from collections.abc import Callable


def scale(x: Tensor) -> Tensor:
    scaled = 2 * x
    return scaled


def shift(x: Tensor) -> Tensor:
    shifted = x + 1
    return shifted


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] | None = None
        self.sizes: object = [2, 2]
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = scale(x)
        return out


class OtherLayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        of_other_layer = shift(x)
        return of_other_layer


class Base(nn.Module):
    pass


class OtherBase(nn.Module):
    def more(self) -> None:
        of_other_base = 1


class Model(Base):
    def __init__(self) -> None:
        super().__init__()
        self.first = Layer()
        self.second = nn.Sequential(Layer(), Layer())
        self.register_module("free", None)

    def forward(self, x: Tensor) -> Tensor:
        both: Tensor = self.second(self.first(x))
        return both


def further(x: Tensor) -> Tensor:
    of_helper = x
    return of_helper


def changed_forward(self: Layer, x: Tensor) -> Tensor:
    of_changed_forward = further(x)
    return of_changed_forward


def names(model: nn.Module) -> set[str]:
    """Return all names that can be captured."""
    return {name for site in find(model) for name in site.names}


@pytest.fixture
def model() -> Model:
    """Give a model that was captured before."""
    made = Model().eval()
    with capture(made, "out"):
        made(zeros(2, 2))
    return made


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Give the list to which each search for functions is added."""
    found: list[object] = []

    def in_model(*args: Any) -> Any:
        found.append(args)
        return original(*args)

    original = engine_model.in_model
    monkeypatch.setattr(resolve, "in_model", in_model)
    return found


# What stays


def test_a_model_is_searched_once(model: Model, searched: list[object]) -> None:
    """Not by the second capture, which is like the first."""
    with capture(model, "out") as cap:
        model(zeros(2, 2))
    assert not searched
    assert [call.name for call in cap.calls] == ["first", "second.0", "second.1"]


def test_also_between_training_and_evaluation(model: Model, searched: list[object]) -> None:
    """A loop may go from one to the other at each step, and add hooks."""
    model.train()
    model.first.register_forward_hook(lambda *_: None)
    find(model)
    assert not searched


def test_also_while_it_is_captured(model: Model, searched: list[object]) -> None:
    """The rewritten code stands for the function's own."""
    with capture(model, "out"):
        find(model)
        model(zeros(2, 2))
    assert not searched


def test_also_where_only_some_modules_are_chosen(model: Model) -> None:
    """The second capture has the same functions, and a filter of the same modules."""
    for _ in range(2):
        with capture(model, "out", modules="second.*") as cap:
            model(zeros(2, 2))
        assert [call.name for call in cap.calls] == ["second.0", "second.1"]


def test_a_model_that_was_captured_is_freed() -> None:
    """Nothing that is known of it holds it, nor any of its modules."""
    model = Model()
    with capture(model, "out", "scaled"):
        model(zeros(2, 2))
    gone = weakref.ref(model), weakref.ref(model.first)
    del model
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.torchs = nn.MultiheadAttention(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = attend(x, x, self.torchs(x, x, x)[0])
        return out


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    attn = (q @ k.mT).softmax(-1)
    return attn @ v


class OfTorch(Adapter):
    distribution, zoo = "anylocal", "torch"
    condition = "first"

    def functions(self) -> tuple[()]:
        return ()

    def axes(self, *_: object) -> MapAxes:
        return MapAxes(None, None)

    def unsupported(self, _: nn.Module) -> dict[str, str]:
        return {"": self.condition}

    def conditions(self, *_: object) -> str:
        return self.condition


X = zeros(3, 1, 4)


def test_a_model_whose_attention_was_captured_is_freed() -> None:
    """Torch's layers, and functions that work for the module around them."""
    model, adapter = Attention(), OfTorch()
    with adapter.capture_attention(model) as maps:
        model(X)
    assert len(maps) == 2
    gone = weakref.ref(model), weakref.ref(model.torchs)
    del model, maps
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_attention_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second capture has the maps of the first."""
    model, adapter = Attention(), OfTorch()
    captured = []
    for _ in range(2):
        with adapter.capture_attention(model) as maps:
            model(X)
        captured.append([(attention.name, attention.shape) for attention in maps])
        monkeypatch.setattr(adapter, "unsupported", None)
    assert captured[0] == captured[1] == [("torchs", (1, 2, 3, 3)), ("", (1, 3, 1, 1))]


def test_what_an_adapter_says_holds_under_its_conditions() -> None:
    """Another condition, and it is asked again."""
    model, adapter = Attention(), OfTorch()
    assert adapter.capture_attention(model).unsupported == {"": "first"}
    adapter.condition = "second"
    assert adapter.capture_attention(model).unsupported == {"": "second"}


def test_another_adapter_is_asked_itself() -> None:
    """Also where its conditions are equal."""
    model = Attention()
    assert OfTorch().capture_attention(model).unsupported == {"": "first"}

    class Other(OfTorch):
        def unsupported(self, _: nn.Module) -> dict[str, str]:
            return {}

    assert Other().capture_attention(model).unsupported == {}


def test_a_model_of_one_module_is_searched_once(searched: list[object]) -> None:
    """It has nothing to compare but itself."""
    model = OtherLayer()
    for _ in range(3):
        find(model)
    assert len(searched) == 1


def test_a_model_that_hides_a_part_is_searched_each_time(searched: list[object]) -> None:
    """A change in it would not be seen."""

    class Hiding(Model):
        def named_modules(self, *args: Any, **kwargs: Any) -> Any:
            return (item for item in super().named_modules(*args, **kwargs) if item[0] != "first.linear")

    model = Hiding()
    for _ in range(2):
        find(model)
    assert len(searched) == 2


# What changes


def put(owner: Any, name: str, value: object) -> Callable[[pytest.MonkeyPatch, Model], None]:
    return lambda patch, _: patch.setattr(owner, name, value, raising=False)


def set_code(_: pytest.MonkeyPatch, __: Model) -> None:
    Layer.forward.__code__ = changed_forward.__code__


def replace_submodule(_: pytest.MonkeyPatch, model: Model) -> None:
    model.second[1] = OtherLayer()


def put_forward_onto(_: pytest.MonkeyPatch, model: Model) -> None:
    model.first.forward = changed_forward.__get__(model.first)  # type: ignore[method-assign]  # on purpose


def put_function_in_place(_: pytest.MonkeyPatch, model: Model) -> None:
    model.first.activation = shift


def change_class(_: pytest.MonkeyPatch, model: Model) -> None:
    model.first.__class__ = OtherLayer  # type: ignore[assignment]  # on purpose


def change_bases(_: pytest.MonkeyPatch, __: Model) -> None:
    Model.__bases__ = (OtherBase,)


def add_to_layer_of_torch(_: pytest.MonkeyPatch, model: Model) -> None:
    model.first.linear.add_module("more", OtherLayer())


def put_forward_onto_layer_of_torch(_: pytest.MonkeyPatch, model: Model) -> None:
    model.first.linear.forward = changed_forward.__get__(model.first.linear)  # type: ignore[method-assign]  # on purpose


def put_function_instead(_: pytest.MonkeyPatch, model: Model) -> None:
    del model.first.activation
    model.first.other = shift  # type: ignore[assignment]  # a function, not a tensor


def fill_free_place(_: pytest.MonkeyPatch, model: Model) -> None:
    model.free = OtherLayer()


def put_function_in_place_of_list(_: pytest.MonkeyPatch, model: Model) -> None:
    model.first.sizes = shift


CHANGES: dict[str, tuple[Callable[[pytest.MonkeyPatch, Model], None], str]] = {
    "a forward of the class": (put(Layer, "forward", changed_forward), "of_changed_forward"),
    "another method of the class": (put(Layer, "more", changed_forward), "of_changed_forward"),
    "the code of a function": (set_code, "of_helper"),
    "a submodule": (replace_submodule, "of_other_layer"),
    "a forward of the module": (put_forward_onto, "of_changed_forward"),
    "an attribute that is a function": (put_function_in_place, "shifted"),
    "the class of a module": (change_class, "of_other_layer"),
    "the bases of a class": (change_bases, "of_other_base"),
    "a part of a layer of torch's": (add_to_layer_of_torch, "of_other_layer"),
    "a forward of a layer of torch's": (put_forward_onto_layer_of_torch, "of_changed_forward"),
    "another attribute, of as many": (put_function_instead, "shifted"),
    "an attribute that was a list": (put_function_in_place_of_list, "shifted"),
    "a place that was free": (fill_free_place, "of_other_layer"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen(what: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next search, which finds a name that was not there."""
    change, name = CHANGES[what]
    before = names(model)
    code, bases = Layer.forward.__code__, Model.__bases__
    try:
        change(monkeypatch, model)
        assert name in names(model) - before
    finally:
        monkeypatch.undo()
        Layer.forward.__code__, Model.__bases__ = code, bases


def test_a_module_that_moved_has_its_new_name(model: Model) -> None:
    """Its functions are the same."""
    third, model.third = model.second, model.second
    del model.second
    with capture(model, "out", modules="third.*") as cap:
        third(zeros(2, 2))
    assert [call.name for call in cap.calls] == ["third.0", "third.1"]


def test_a_module_that_moved_into_the_one_before_has_its_new_name(model: Model) -> None:
    """All modules are the same, in the same order."""
    layer, moved = model.second
    del model.second[1]
    linear = layer.linear
    del layer.linear
    layer.add_module("1", moved)
    layer.linear = linear
    with capture(model, "out", modules="second.0.*") as cap:
        moved(zeros(2, 2))
    assert [call.name for call in cap.calls] == ["second.0.1"]


def test_a_helper_that_is_replaced_is_seen(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, for the code that names it is the same."""

    def scale(x: Tensor) -> Tensor:
        tripled = 3 * x
        return tripled

    assert "tripled" not in names(model)
    monkeypatch.setitem(globals(), "scale", scale)
    assert "tripled" in names(model)


def test_a_helper_that_is_defined_later_is_seen(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook."""
    helper = globals()["scale"]
    monkeypatch.delitem(globals(), "scale")
    assert "scaled" not in names(model)
    monkeypatch.setitem(globals(), "scale", helper)
    assert "scaled" in names(model)


def test_a_function_that_holds_the_model_does_not_keep_it() -> None:
    """As a patched forward may."""
    model = Model()

    def patched_forward(model: Model) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            patched: Tensor = x + model.first.linear(x)
            return patched

        return forward

    model.first.forward = patched_forward(model)  # type: ignore[assignment, method-assign]  # on purpose
    with capture(model, "patched"):
        model(zeros(2, 2))
    gone = weakref.ref(model), weakref.ref(model.first)
    del model
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
