"""Maps as operands: their differences are computed when they are read, and torch and NumPy take whole maps."""

from __future__ import annotations

import operator
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.dlpack import from_dlpack

from anylocal.attention import AttentionMap, AttentionMaps, MapArray, Patches, Tokens, rollout
from anylocal.errors import NameNotFoundError, OptionError, PositionError, ShapeError

from .sizes import largest

if TYPE_CHECKING:
    from collections.abc import Callable

B, H, N = 2, 3, 5
TOKENS = Tokens(["[CLS]", "a", "b", "c", "[SEP]"])


def made(seed: int, **labels: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    q, k = (2 * torch.randn(B, H, N, 4, generator=generator) for _ in "qk")
    return AttentionMap.from_qk(q, k, **labels)


def double(attention: MapArray) -> torch.Tensor:
    return attention.tensor().double()


ONE, OTHER = made(0, name="one"), made(1, name="other")
BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
]


@pytest.mark.parametrize("function", BINARY)
def test_two_maps(function: Callable[[Any, Any], Any]) -> None:
    """An operator of two maps has the values that it has of their tensors."""
    combined = function(ONE, OTHER)
    expected = function(ONE.tensor(), OTHER.tensor())
    assert isinstance(combined, MapArray)
    assert (expected.dtype, expected.shape) == (combined.dtype, combined.shape)
    torch.testing.assert_close(combined.tensor(), expected)


@pytest.mark.parametrize("number", [2, 0.25, True, np.float32(0.25), np.int64(2)], ids=repr)
@pytest.mark.parametrize("function", BINARY)
def test_a_map_and_a_number(function: Callable[[Any, Any], Any], number: Any) -> None:
    """A number on the right of an operator counts for each value."""
    combined = function(ONE, number)
    assert isinstance(combined, MapArray)
    torch.testing.assert_close(combined.tensor(), function(ONE.tensor(), float(number)))


@pytest.mark.parametrize("function", BINARY)
def test_a_number_and_a_map(function: Callable[[Any, Any], Any]) -> None:
    """A number on the left of an operator counts for each value."""
    combined = function(0.25, ONE)
    assert isinstance(combined, MapArray)
    torch.testing.assert_close(combined.tensor(), function(0.25, ONE.tensor()))


def test_signs() -> None:
    """Negatives and absolute values are those of the tensor."""
    change = ONE - OTHER
    torch.testing.assert_close((-change).tensor(), OTHER.tensor() - ONE.tensor())
    torch.testing.assert_close(change.abs().tensor(), change.tensor().abs())
    torch.testing.assert_close(abs(change).tensor(), change.tensor().abs())


def test_a_difference_costs_the_rows_that_are_read() -> None:
    """Making a difference computes nothing, and reading a row of it a row of each."""
    q = torch.ones(1, 1, 600, 4)
    one, other = AttentionMap.from_qk(q, q), AttentionMap.from_qk(2 * q, q)
    assert largest(lambda: one - other) == 0
    change = one - other
    assert largest(lambda: change[0, 0, 5]) <= 600 * 4


def test_reading_parts_of_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns, sums and maxima of a difference are those of the tensor, read a row at a time."""
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", 1)
    change, expected = ONE - OTHER, ONE.tensor() - OTHER.tensor()
    torch.testing.assert_close(change[..., 2], expected[..., 2])
    torch.testing.assert_close(change.sum(-2), expected.sum(-2))
    torch.testing.assert_close(change.max(), expected.max())


def test_counting_what_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of a comparison is the number of values that hold, its mean their share."""
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", 1)
    strong, expected = ONE > 0.3, ONE.tensor() > 0.3
    assert 0 < expected.sum() < expected.numel()
    assert torch.equal(strong.sum(-2), expected.sum(-2))
    assert torch.equal(strong.mean(), expected.float().mean())
    assert torch.equal(strong.max(-1), expected.any(-1))
    assert torch.equal(strong.min(-1), expected.all(-1))


def test_a_comparison_is_neither_true_nor_false() -> None:
    """A comparison in a condition is refused, and the message names what decides."""
    with pytest.raises(ShapeError, match=r"has 150 values; .max\(\) is whether any holds, .min\(\) all"):
        bool(ONE > OTHER)


def test_equality_is_identity() -> None:
    """A map is found in a list by what it is, and can be a key."""
    assert made(0) != made(0)
    assert [OTHER, ONE].index(ONE) == 1
    assert {ONE: "one"}[ONE] == "one"


def test_shapes_that_differ_are_refused() -> None:
    """Maps of other shapes raise at once, and the message names both."""
    other = AttentionMap.from_weights(torch.eye(3), name="small")
    with pytest.raises(ShapeError, match=r"'one', batch=2, .* and AttentionMap\('small', batch=1, .* differ in shape"):
        ONE - other


def test_labels_in_common_stay() -> None:
    """A difference has the name and the axes that both maps have, and counts positions otherwise."""
    one, two = made(0, name="layer", queries=TOKENS, keys=TOKENS), made(1, name="layer", queries=TOKENS)
    change = one - two
    assert (change.name, change.queries) == ("layer", TOKENS)
    assert type(change.keys) is not Tokens
    assert (ONE - OTHER).name == ""
    assert (2 * one).keys == TOKENS


def test_windows_in_common_stay() -> None:
    """Maps of windows stay maps of windows only together."""
    one, two = made(0, windows=2), made(1)
    assert ((one - one).windows, (one - two).windows) == (2, 1)
    assert (one - one).images == 1


def test_a_difference_can_be_kept() -> None:
    """A pickled difference, and its copy in CPU memory, have the same values."""
    change = ONE - 2 * OTHER
    again = pickle.loads(pickle.dumps(change))  # noqa: S301  # our own pickle
    torch.testing.assert_close(again.tensor(), change.tensor())
    torch.testing.assert_close(change.cpu().tensor(), change.tensor())


@pytest.mark.parametrize("other", [torch.arange(5.0), np.arange(5.0, dtype=np.float32)], ids=["tensor", "array"])
def test_tensors_and_arrays_make_tensors_and_arrays(other: Any) -> None:
    """With a tensor or an array, on either side, the result is one, and shapes broadcast."""
    result, reflected = ONE - other, other - ONE
    assert type(other) is type(result) is type(reflected)
    np.testing.assert_allclose(np.asarray(result), ONE.numpy() - np.asarray(other), atol=1e-6)
    np.testing.assert_allclose(np.asarray(reflected), np.asarray(other) - ONE.numpy(), atol=1e-6)


@pytest.mark.parametrize("other", ["a", None, [1]], ids=repr)
def test_other_operands_are_refused(other: Any) -> None:
    """An operand that is neither map nor number is a TypeError, as everywhere in Python."""
    with pytest.raises(TypeError, match="unsupported operand"):
        ONE - other


CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "as_tensor": torch.as_tensor,
    "tensor": torch.tensor,
    "from_dlpack": from_dlpack,
    "from_dlpack of NumPy": np.from_dlpack,
    "asarray": np.asarray,
    "stack": lambda attention: torch.stack([attention, attention])[1],
    "cat": lambda attention: torch.cat((attention, attention))[B:],
    "function": lambda attention: torch.add(attention, 0),
    "keyword": lambda attention: torch.add(input=attention, other=0),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_the_whole_map_is_taken(name: str) -> None:
    """Functions of torch and NumPy that take a tensor or an array take a map."""
    np.testing.assert_array_equal(np.asarray(CONVERSIONS[name](ONE)), ONE.numpy())


@pytest.mark.parametrize("function", [torch.stack, torch.cat, torch.vstack], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", [list, tuple])
def test_sequences_of_maps_are_taken(function: Any, kind: Any) -> None:
    """Each map of a list or a tuple is taken once, beside tensors too."""
    maps = [ONE, OTHER.tensor(), OTHER]
    torch.testing.assert_close(function(kind(maps)), function([ONE.tensor(), OTHER.tensor(), OTHER.tensor()]))


def test_a_map_with_a_graph_is_taken() -> None:
    """A map that has a gradient can be converted, without it; in torch's functions it keeps it."""
    q = torch.eye(3, requires_grad=True)
    attention: Any = AttentionMap.from_qk(q, q)
    assert not torch.as_tensor(attention).requires_grad
    assert torch.stack([attention]).requires_grad


LAYERS = AttentionMaps([ONE, OTHER])


@pytest.mark.parametrize(
    "index",
    [
        (slice(None), 0, 1, 2),
        (slice(None), slice(None), slice(None), -1),
        (..., 2),
        (slice(1, None), 0),
        (slice(None), ..., [0, 2]),
    ],
    ids=repr,
)
def test_an_index_of_layers(index: Any) -> None:
    """An index that goes on after the layers selects the same of each, in one tensor."""
    torch.testing.assert_close(LAYERS[index], torch.stack([ONE.tensor(), OTHER.tensor()])[index])


@pytest.mark.parametrize("layer", [1, "other"])
def test_an_index_of_one_layer(layer: Any) -> None:
    """A layer, by position or by name, is indexed by what follows."""
    torch.testing.assert_close(LAYERS[layer, 0, 2], OTHER[0, 2])


def test_rows_of_layers_cost_rows() -> None:
    """For a row of each layer, no matrix is made."""
    q = torch.ones(1, 1, 600, 4)
    layers = AttentionMaps([AttentionMap.from_qk(q, q) for _ in range(3)])
    assert largest(lambda: layers[:, 0, 0, -1]) <= 600 * 4


@pytest.mark.parametrize(
    ("index", "error", "match"),
    [
        ((slice(None), 0, 0), ShapeError, r"selects \[\(3, 3\), \(5, 5\)\] of the layers"),
        ((slice(5, None), 0), ShapeError, "selects nothing of the layers"),
        ((3, 0), PositionError, "Map index 3 is out of range"),
        (("oter", 0), NameNotFoundError, "Did you mean 'other'"),
    ],
)
def test_an_index_of_layers_that_does_not_fit(index: Any, error: type[Exception], match: str) -> None:
    """Layers whose parts make no one tensor, and layers that are not there, are refused."""
    layers = AttentionMaps([ONE, OTHER, AttentionMap.from_weights(torch.eye(3).expand(1, 1, 3, 3))])
    with pytest.raises(error, match=match):
        layers[index]


@pytest.mark.parametrize(("owner", "word"), [(LAYERS, "maps"), (ONE, "map")])
def test_saving_is_named(owner: Any, word: str) -> None:
    """Who looks for a method that saves is told the function."""
    assert not hasattr(owner, "save")
    with pytest.raises(AttributeError, match=rf"'save'; anylocal.store.save\({word}, path\) does it"):
        owner.save("maps.safetensors")


def test_statistics_refuse_a_difference() -> None:
    """Who follows attention through layers takes maps only."""
    change: Any = ONE - OTHER
    with pytest.raises(OptionError, match="takes maps and got MapArray"):
        rollout([change])


def test_a_difference_is_drawn() -> None:
    """The picture of a difference is that of its tensor, with the tokens of both maps."""
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt

    from anylocal import plot

    one, two = (made(seed, name="layer", queries=TOKENS, keys=TOKENS) for seed in (0, 1))
    ax = plot.heatmap(one - two, sample=1, head=2)
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), (one[1, 2] - two[1, 2]).numpy(), atol=1e-6)
    assert "[CLS]" in [label.get_text() for label in ax.get_xticklabels()]
    plt.close("all")


def test_patches_stay_patches() -> None:
    """The difference of two maps of one image has its patches."""
    patches = Patches(grid=(2, 2), prefix=("cls",))
    one, two = (made(seed, queries=patches, keys=patches) for seed in (0, 1))
    assert (one - two).keys == patches
