"""The text of the exceptions and warnings of the engine that need torch."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from anylocal import capture
from anylocal.attention import AttentionMap, AttentionMaps
from anylocal.errors import (
    ChangedInPlaceWarning,
    EditNotAppliedWarning,
    NameNotFoundError,
    NothingRecordedWarning,
    OptionError,
    PositionError,
    ShapeError,
    StateError,
    TargetError,
)


class Layer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return y


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Layer()
        self.second = Layer()

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.second(self.first(x))
        return z


class Fused(nn.Module):
    def forward(self, q: Tensor, fused: bool = True) -> Tensor:
        if fused:
            return nn.functional.scaled_dot_product_attention(q, q, q)
        attn = (q @ q.transpose(-2, -1)).softmax(-1)
        return attn @ q


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_model_has_no_python_code() -> None:
    """It is told before anything is looked for."""
    scripted = torch.jit.script(Layer())
    with pytest.raises(TargetError) as caught:
        capture(scripted, "y")
    assert str(caught.value) == (
        "RecursiveScriptModule was compiled by TorchScript: it runs without Python and has no locals to capture."
        " Capture the module that it was scripted from. [target]"
    )


def test_torch_functions_are_implemented_in_c() -> None:
    """As most of them are."""
    with pytest.raises(TargetError, match=r"softmax is implemented in C: it has no Python code and no locals\."):
        capture(torch.softmax, "x")


def test_a_name_that_no_module_binds() -> None:
    """The names are those of the whole model."""
    with pytest.raises(NameNotFoundError) as caught:
        capture(Pair(), "yy")
    assert str(caught.value) == (
        "Pair has no local variable 'yy'. Did you mean 'y'? It has: self, x, y, z. [name-not-found]"
    )


def test_a_name_that_the_selected_modules_lack() -> None:
    """The names are those of the selection."""
    with pytest.raises(NameNotFoundError) as caught:
        capture(Pair(), "z", modules="first")
    assert str(caught.value) == (
        "Pair (modules='first') has no local variable 'z'. It has: self, x, y. [name-not-found]"
    )


def test_a_selection_of_nothing() -> None:
    """With some of the names that there are."""
    with pytest.raises(OptionError) as caught:
        capture(Pair(), "y", modules="third")
    assert str(caught.value) == (
        "modules='third' selects none of the submodules of Pair. They are named as in: first, second, … [option]"
    )


def test_a_list_of_modules() -> None:
    """With what is taken instead."""
    with pytest.raises(OptionError) as caught:
        capture(Pair(), "y", modules=["first"])  # type: ignore[arg-type]  # what is refused
    assert str(caught.value) == (
        "modules=['first'] is neither a pattern nor a function; give one pattern, or choose by a function, as in"
        " modules=lambda name, module: name in names. [option]"
    )


MAPS = AttentionMaps([AttentionMap.from_weights(torch.eye(2), name="first")])


@pytest.mark.parametrize(
    ("maps", "index", "error", "text"),
    [
        pytest.param(
            AttentionMaps([]),
            0,
            PositionError,
            "No attention map 0: nothing was captured; run the model inside the capture first. [position]",
            id="none, by position",
        ),
        pytest.param(
            AttentionMaps([]),
            "first",
            StateError,
            "No attention map 'first': nothing was captured; run the model inside the capture first. [state]",
            id="none, by name",
        ),
        pytest.param(
            MAPS,
            1,
            PositionError,
            "Map index 1 is out of range: there are 1. [position]",
            id="beyond",
        ),
        pytest.param(
            MAPS,
            1.5,
            PositionError,
            "Map index 1.5 is not an integer; give one below 1. [position]",
            id="no position",
        ),
    ],
)
def test_a_map_that_is_not_there(maps: AttentionMaps, index: Any, error: type[Exception], text: str) -> None:
    """By name and by position, the same advice."""
    with pytest.raises(error) as caught:
        maps[index]
    assert str(caught.value) == text


def test_a_stack_of_several_shapes() -> None:
    """With the shapes, and what to do."""
    layer = Layer()
    with capture(layer, "y") as cap:
        layer(torch.ones(1))
        layer(torch.ones(2))
    with pytest.raises(ShapeError) as caught:
        cap.stack("y")
    assert str(caught.value) == (
        "The values of 'y' do not stack: (1,), (2,). Read them one by one from capture['y']. [shape]"
    )


def test_a_stack_of_nothing() -> None:
    """It is told too."""
    with pytest.raises(ShapeError) as caught:
        capture(Layer(), "y").stack("y")
    assert str(caught.value) == (
        "The values of 'y' do not stack: nothing. Read them one by one from capture['y']. [shape]"
    )


def test_a_value_changed_in_place() -> None:
    """With the call, and what to do, at the reader's line."""
    pair = Pair()
    with capture(pair, "y") as cap:
        pair(torch.ones(1))
    cap.calls[0].values["y"].zero_()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _ = cap["y"]
    (warning,) = caught
    assert (warning.category, warning.filename) == (ChangedInPlaceWarning, __file__)
    assert str(warning.message) == (
        "'y' of call 0 of Layer.forward in 'first' was changed in place after it was recorded, so this is not the value"
        ' that it had. Capture it with keep="clone" to keep a copy. [changed-in-place]'
    )


def test_a_fused_layer() -> None:
    """With who computes the map."""
    layer = Fused()
    with pytest.warns(NothingRecordedWarning) as caught, capture(layer, "attn"):
        layer(torch.ones(1, 2, 3))
    line = Fused.forward.__code__.co_firstlineno + 2
    assert str(caught[0].message) == (
        f"The capture of Fused recorded no value of 'attn': Fused.forward returned at line {line} on a path that never"
        " binds it: it ran the fused kernel scaled_dot_product_attention, which never makes the map. capture_attention"
        ' of anylocal_vit or anylocal_bert computes it from what the kernel was given; capture(…, "q", "k") takes that.'
        " [nothing-recorded]"
    )


# Names that a fused kernel leaves at None


class LeavesNone(nn.Module):
    def forward(self, q: Tensor, eager: bool = False) -> Tensor:
        attn = None
        if eager:
            attn = q.softmax(-1)
        return q if attn is None else attn


NEVER_MADE = "; where a fused kernel runs, a model never makes the value. "


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
@pytest.mark.parametrize("compiled", [False, True])
def test_an_edit_that_is_given_nothing_but_none_says_so(*, compiled: bool) -> None:
    """It has no effect, and nothing shows in the output."""
    model = LeavesNone()
    run = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    cap = capture(model, edit={"attn": lambda attn: None if attn is None else attn * 0})
    with pytest.warns(EditNotAppliedWarning) as told, cap:
        run(torch.ones(2))
    assert [str(each.message) for each in told if each.category is EditNotAppliedWarning] == [
        f"The edit of 'attn' had no effect: it was given None and returned None each time{NEVER_MADE}[edit-not-applied]"
    ]


def test_an_edit_that_is_given_a_value_once_is_applied() -> None:
    """None is what the other assignments give."""
    with capture(model := LeavesNone(), edit={"attn": lambda attn: attn}):
        model(torch.ones(2), eager=True)


def test_an_edit_that_puts_a_value_in_place_of_none_is_applied() -> None:
    """That is an effect."""
    with capture(model := LeavesNone(), edit={"attn": lambda attn: torch.zeros(2)}):
        assert torch.equal(model(torch.ones(2)), torch.zeros(2))


def test_a_name_that_was_none_in_every_call_of_a_model_is_told() -> None:
    """A list of None is no attention."""
    cap = capture(model := LeavesNone(), "attn")
    with pytest.warns(NothingRecordedWarning) as told, cap:
        model(torch.ones(2))
    assert cap["attn"] == [None]
    assert str(told[0].message) == (
        f"'attn' was None in every call that the capture of LeavesNone recorded{NEVER_MADE}[nothing-recorded]"
    )


def test_a_name_that_was_none_in_some_calls_is_a_value() -> None:
    """Also one that was cleared; and of a plain function None may be what was asked for."""
    with capture(model := LeavesNone(), "attn") as cap:
        model(torch.ones(2), eager=True)
        cap.clear()
        model(torch.ones(2))

    def look_up(key: str) -> None:
        found = None

    with capture(look_up, "found") as plain:
        look_up("x")
    assert (cap["attn"], plain["found"]) == ([None], [None])
