"""What is kept of tensors and arrays, alone and in containers, and what is told of their changes."""

from __future__ import annotations

import collections
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from anylocal import capture, get_local
from anylocal._engine.budget import Budget
from anylocal.errors import ChangedInPlaceWarning

if TYPE_CHECKING:
    from collections.abc import Callable


class Pair(NamedTuple):
    left: Any
    right: Any


class Point(collections.namedtuple("Point", "x y")):  # noqa: PYI024, SLOT002  # as much code has it
    pass


@dataclass
class Output(collections.OrderedDict[str, Any]):
    """As those of transformers: an ordered dict whose items are attributes as well, and which may not be updated."""

    loss: Any = None
    hidden: Any = None

    def __post_init__(self) -> None:
        for name in ("loss", "hidden"):
            super().__setitem__(name, getattr(self, name))

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError(key)

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError


class Own(dict[str, Any]):
    """A dict of which nobody knows how it is made."""


def hold(_: object, value: Any) -> None:
    pass


def kept(value: Any, keep: str = "detach") -> Any:
    """Return what a capture has of a value."""
    with capture(hold, "value", keep=keep) as cap:
        hold(None, value)
    return cap["value"][0]


def with_graph() -> Tensor:
    return torch.ones(2, requires_grad=True) * 2


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in items for tensor in tensors_in(item)]


# Values that torch does not let one look at


@pytest.mark.parametrize("keep", ["detach", "graph", "clone", "cpu"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.eye(3).to_sparse_csc(),
        lambda: torch.empty(3, device="meta"),
        nn.UninitializedParameter,
        nn.UninitializedBuffer,
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    ],
    ids=["coo", "csr", "csc", "meta", "parameter", "buffer", "nested", "jagged"],
)
@pytest.mark.filterwarnings("ignore:.*(prototype|beta state):UserWarning")
def test_tensors_of_every_layout_are_recorded(make: Callable[[], Tensor], keep: str) -> None:
    """The captured function goes on, and the capture can be read and shown."""

    def run(_: object, value: Tensor, more: list[Tensor]) -> int:
        return 1

    value = make()
    with capture(run, "value", "more", keep=keep) as cap:
        assert run(None, value, [value]) == 1
    assert (type(cap["value"][0]), len(cap["more"])) == (type(value), 1)
    assert "value" in cap._repr_html_()


class Odd(Tensor):
    """A tensor of somebody's own kind, which raises where others answer."""

    @property
    def layout(self) -> Any:  # type: ignore[override]  # it only has to raise
        raise ValueError

    def is_inference(self) -> bool:
        raise ValueError


@pytest.mark.parametrize("limit", [1000, None])
def test_a_tensor_that_raises_when_asked_is_recorded(limit: int | None) -> None:
    """By its size or its version, of which neither is known then."""
    with capture(hold, "value", limit=limit) as cap:
        hold(None, torch.ones(2).as_subclass(Odd))
    assert [type(value) for value in cap["value"]] == [Odd]


def test_a_tensor_that_cannot_be_copied_loses_its_graph() -> None:
    """There is nothing on the meta device to copy."""
    assert not kept(torch.ones(2, device="meta", requires_grad=True) * 2, "cpu").requires_grad


def test_a_sparse_tensor_counts_by_what_it_stores() -> None:
    """Its indices and its values."""
    budget = Budget("1GiB")
    budget.take((torch.eye(1000).to_sparse(),))
    assert budget.held == 1000 * (2 * 8 + 4)


@pytest.mark.filterwarnings("ignore:.*beta state:UserWarning")
def test_a_compressed_sparse_tensor_counts_by_what_it_stores() -> None:
    """Its two kinds of indices, and its values."""
    budget = Budget("1GiB")
    rows, columns, values = torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.ones(2)
    budget.take((torch.sparse_csr_tensor(rows, columns, values, size=(2, 2), check_invariants=True),))
    assert budget.held == 3 * 8 + 2 * 8 + 2 * 4


# detach


@pytest.mark.parametrize(
    "make",
    [
        lambda: [[with_graph()], {"a": (with_graph(),)}],
        lambda: {"a": {"b": [with_graph(), 1, "text"]}},
        lambda: Pair(with_graph(), [with_graph()]),
        lambda: Point(1, with_graph()),
        lambda: collections.OrderedDict(a=with_graph()),
        lambda: collections.defaultdict(list, a=[with_graph()]),
        lambda: Output(with_graph(), (with_graph(), None)),
        lambda: with_graph().reshape(1, 2).max(dim=1),
        lambda: [0] * 5 + [with_graph()],
        lambda: [with_graph() for _ in range(1500)],
    ],
    ids=["list", "dict", "NamedTuple", "namedtuple", "OrderedDict", "defaultdict", "output", "result", "mixed", "long"],
)
def test_tensors_in_containers_lose_their_graph(make: Callable[[], Any]) -> None:
    """At any depth, in a container of the same class; what the function has keeps it."""
    value = make()
    result = kept(value)
    expected, tensors = tensors_in(value), tensors_in(result)
    assert type(result) is type(value)
    assert len(tensors) == len(expected) > 0
    assert all(torch.equal(tensor, other) for tensor, other in zip(tensors, expected, strict=True))
    assert not any(tensor.requires_grad for tensor in tensors)
    assert any(tensor.requires_grad for tensor in expected)


def test_the_attributes_of_an_output_are_its_items() -> None:
    """In the copy too, where one does not keep the graph alive for the other."""
    output = kept(Output(with_graph(), 3))
    assert output.loss is output["loss"]
    assert (output.loss.requires_grad, output.hidden) == (False, 3)


def test_a_default_dict_has_its_default() -> None:
    """As before."""
    assert kept(collections.defaultdict(list, a=with_graph()))["new"] == []


def test_a_container_of_an_unknown_class_is_kept_as_it_is() -> None:
    """Its own code would have to make it."""
    own = Own(a=with_graph())
    value = [own, with_graph()]
    result = kept(value)
    assert (result[0] is own, result[1].requires_grad) == (True, False)


def test_a_container_in_itself_loses_its_graph() -> None:
    """The copy is in itself as well, through tuples too."""
    items: list[Any] = [with_graph()]
    value = ((items,),)
    items.append(value)
    items.append(value[0])
    result = kept(value)
    assert not result[0][0][0].requires_grad
    assert result[0][0][1] is result
    assert result[0][0][2] is result[0]


def test_a_tensor_far_down_loses_its_graph() -> None:
    """Further down than functions can call each other."""
    value: Any = with_graph()
    for depth in range(5000):
        value = (value,) if depth % 2 else [value]
    result = kept(value)
    while not isinstance(result, Tensor):
        (result,) = result
    assert not result.requires_grad


# clone and cpu


def step(buffer: Any) -> Any:
    buffer += 1
    out = buffer
    return out


@pytest.mark.parametrize("keep", ["clone", "cpu"])
@pytest.mark.parametrize("make", [np.zeros, torch.zeros], ids=["array", "tensor"])
def test_copies_do_not_change_with_the_original(make: Callable[[int], Any], keep: str) -> None:
    """An array's as little as a tensor's."""
    value = make(1)
    with capture(step, "out", keep=keep) as cap:
        for _ in range(3):
            step(value)
    assert [out.tolist() for out in cap["out"]] == [[1], [2], [3]]


@pytest.mark.parametrize("keep", ["clone", "cpu"])
def test_arrays_in_containers_are_copied(keep: str) -> None:
    """At any depth."""
    array = np.zeros(1)
    result = kept({"a": [(array,)]}, keep)
    array += 1
    assert result["a"][0][0].tolist() == [0]


def test_arrays_are_kept_as_they_are_unless_copies_are_asked_for() -> None:
    """They have no graph to lose."""
    array = np.zeros(1)
    assert kept(array) is array


def test_the_cache_of_get_local_has_copies_of_arrays() -> None:
    """As of tensors."""
    value = np.zeros(1)

    @get_local("out")
    def grow(buffer: Any) -> None:
        buffer += 1
        out = buffer

    with get_local.active() as cache:
        for _ in range(3):
            grow(value)
    assert [out.tolist() for out in cache[grow.__qualname__]] == [[1], [2], [3]]


# Changes in place


@pytest.mark.parametrize("keep", ["detach", "graph"])
@pytest.mark.parametrize(
    "nest",
    [
        lambda tensor: [tensor],
        lambda tensor: {"a": (1, [tensor])},
        lambda tensor: Pair(None, tensor),
        lambda tensor: Own(a=tensor),
        lambda tensor: [torch.ones(1), tensor],
        lambda tensor: [tensor, torch.ones(1)],
    ],
    ids=["list", "nested", "NamedTuple", "unknown", "second", "first"],
)
def test_a_change_of_a_tensor_in_a_container_is_told(nest: Callable[[Tensor], Any], keep: str) -> None:
    """As that of a tensor alone."""
    tensor = torch.ones(2)
    with capture(hold, "value", keep=keep) as cap:
        hold(None, nest(tensor))
    tensor.add_(100)
    with pytest.warns(ChangedInPlaceWarning, match="'value' of call 0 of hold was changed in place"):
        _ = cap["value"]


@pytest.mark.parametrize("keep", ["detach", "graph", "clone", "cpu"])
def test_containers_that_do_not_change_are_read_without_a_warning(keep: str) -> None:
    """Changes before they were recorded do not count, nor those of copies' originals."""
    tensor = torch.ones(2).add_(1)
    with capture(hold, "value", keep=keep) as cap:
        hold(None, [tensor, (tensor, torch.ones(1))])
    if keep in ("clone", "cpu"):
        tensor.add_(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cap["value"][0][0].tolist() == [2, 2]


def test_inference_tensors_in_containers_have_no_version() -> None:
    """And raise nothing."""
    with torch.inference_mode():
        tensor = torch.ones(1)
        with capture(hold, "value") as cap:
            hold(None, [tensor])
        tensor.add_(1)
    assert cap["value"][0][0].tolist() == [2]


def test_the_first_argument_is_not_asked_for_its_class() -> None:
    """Beside tensors neither, whose records are put together elsewhere."""

    class Unbound:
        @property  # type: ignore[misc]  # what a proxy has
        def __class__(self) -> type:
            raise RuntimeError("there is nothing behind it")

        def method(self, x: torch.Tensor) -> torch.Tensor:
            y = x + 1
            return y

    with capture(Unbound.method, "x", "y") as cap:
        Unbound().method(torch.zeros(1))
    assert [value.item() for value in (*cap["x"], *cap["y"])] == [0, 1]


@pytest.mark.parametrize("keep", ["clone", "cpu"])
@pytest.mark.parametrize(
    "wrap", [lambda items: items, lambda items: {"a": items, "b": items[-1]}], ids=["list", "dict"]
)
def test_a_copy_is_of_the_whole_container(keep: str, wrap: Callable[[list[Any]], Any]) -> None:
    """Also of what stands behind thousands of numbers."""
    tensor = torch.arange(3.0)

    def function(x: Any) -> None:
        pass

    with capture(function, "x", keep=keep) as cap:
        function(wrap([0] * 5000 + [tensor]))
    tensor.add_(1)
    found = cap["x"][0]
    assert (found if isinstance(found, list) else found["a"])[-1].tolist() == [0, 1, 2]
