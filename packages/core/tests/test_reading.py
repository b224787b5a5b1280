"""How the map is read off attention functions of other people, and what is refused or told instead."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402  # torch may not be there
from torch.nn import functional as F  # noqa: E402, N812  # as everybody calls it

from anylocal.errors import (  # noqa: E402  # as above
    ChangedInPlaceWarning,
    OverlookedWarning,
    UnsupportedError,
)

from .of_torch import OfTorch  # noqa: E402  # as above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def scope(model: nn.Module) -> Any:
    return OfTorch().capture_attention(model)


def captured(model: nn.Module, x: Any = None) -> Any:
    x = torch.randn(3, 5, 8) if x is None else x
    with scope(model) as maps, torch.no_grad():
        model(x)
    return maps


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def heads(x: Any) -> Any:
    return x.unflatten(-1, (2, -1)).transpose(1, 2)


class Base(nn.Module):
    """Queries, keys and values of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(8, 8) for _ in range(3))

    def qkv(self, x: Any) -> Any:
        return heads(self.to_q(x)), heads(self.to_k(x)), heads(self.to_v(x))

    def expected(self, x: Any, mask: Any = 0.0, scale: float = 0.5) -> Any:
        with torch.no_grad():
            q, k, _ = self.qkv(x)
            return (q.double() @ k.double().mT * scale + mask).softmax(-1)


class Plain(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        attn = (q @ k.mT * 0.5).softmax(-1)
        return attn @ v


class Biased(Base):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(5, 5))

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, scale=0.5)


class TestAttributes:
    """What the kernel is given of the module's own."""

    def test_another_mask_afterwards(self) -> None:
        """The map has the mask of its call, whatever the module holds when it is read."""
        model, x = Biased(), torch.randn(3, 5, 8)
        before = model.bias.detach().clone()
        maps = captured(model, x)
        model.bias = nn.Parameter(torch.zeros(5, 5))
        torch.testing.assert_close(maps[0].tensor().double(), model.expected(x, before), rtol=0, atol=1e-6)

    def test_a_mask_that_changes_in_place(self) -> None:
        """A bias that is trained meanwhile is reported, as queries would be."""
        model = Biased()
        maps = captured(model)
        with torch.no_grad():
            model.bias.mul_(2)
        with pytest.warns(ChangedInPlaceWarning):
            maps[0].tensor()

    def test_two_calls(self) -> None:
        """Each call has its own."""
        model, x = Biased(), torch.randn(3, 5, 8)
        masks = [torch.randn(5, 5), torch.randn(5, 5)]
        with scope(model) as maps, torch.no_grad():
            for mask in masks:
                model.bias = nn.Parameter(mask)
                model(x)
        for attention, mask in zip(maps, masks, strict=True):
            torch.testing.assert_close(attention.tensor().double(), model.expected(x, mask), rtol=0, atol=1e-6)

    def test_numbers(self) -> None:
        """A scale and a switch are those of the call, too."""
        model, x = Switched(), torch.randn(3, 5, 8)
        maps = captured(model, x)
        model.causal, model.factor = False, 3.0
        mask = torch.full((5, 5), -torch.inf).triu(1)
        torch.testing.assert_close(maps[0].tensor().double(), model.expected(x, mask, 0.7), rtol=0, atol=1e-6)

    def test_an_attribute_that_is_not_there(self) -> None:
        """On a way through the function that does not need it, nothing is raised, and there is a map."""
        model, x = Lazy(), torch.randn(3, 5, 8)
        maps = captured(model, x)
        torch.testing.assert_close(maps[0].tensor().double(), model.expected(x), rtol=0, atol=1e-6)

    @pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
    def test_compiled(self) -> None:
        """In one graph, the mask of the call is recorded as well."""
        model, x = Biased(), torch.randn(3, 5, 8)
        before = model.bias.detach().clone()
        with scope(model) as maps, torch.no_grad():
            torch.compile(model, backend="eager", fullgraph=True)(x)
        model.bias = nn.Parameter(torch.zeros(5, 5))
        torch.testing.assert_close(maps[0].tensor().double(), model.expected(x, before), rtol=0, atol=1e-6)


class Switched(Base):
    def __init__(self) -> None:
        super().__init__()
        self.causal, self.factor = True, 0.7

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.factor)


class Lazy(Base):
    fused = False
    factor: float

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, scale=self.factor)
        attn = (q @ k.mT * 0.5).softmax(-1)
        return attn @ v


class Typed(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        attn: Any = (q @ k.mT * 0.5).softmax(-1)
        return attn @ v


def test_a_variable_with_a_type() -> None:
    """That its type is written beside it makes no difference."""
    model, x = Typed(), torch.randn(3, 5, 8)
    torch.testing.assert_close(captured(model, x)[0].tensor().double(), model.expected(x), rtol=0, atol=1e-6)


class Emptied(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        k = k.clone()
        out = F.scaled_dot_product_attention(q, k, v)
        k[:] = 0
        return out


class Scaled(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        out = F.scaled_dot_product_attention(q, k, v)
        q.mul_(2)
        return out


class Written(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        out = F.scaled_dot_product_attention(q, k, v)
        torch.neg(k, out=k)
        return out


@pytest.mark.parametrize(("kind", "name"), [(Emptied, "key"), (Scaled, "query"), (Written, "key")])
def test_operands_that_change_behind_the_kernel(kind: Any, name: str) -> None:
    """What the function itself changes in place afterwards is not what the kernel was given: reading it says so."""
    maps = captured(kind())
    with pytest.warns(ChangedInPlaceWarning, match=f"scaled_dot_product_attention.{name}' of call 0"):
        len(maps)


@pytest.mark.parametrize("kind", [Emptied, Scaled, Written])
def test_copies_of_operands_that_change(kind: Any) -> None:
    """A copy of what the kernel was given is kept as it was, whatever the function does with it afterwards."""
    model, x = kind(), torch.randn(3, 5, 8)
    with OfTorch().capture_attention(model, keep="clone") as maps, torch.no_grad():
        model(x)
    torch.testing.assert_close(maps[0].tensor().double(), model.expected(x), rtol=0, atol=1e-6)


class OverQueries(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        attn = (q @ k.mT).softmax(dim=2)
        return attn @ v


class Stack(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        attn = torch.softmax(q @ k.mT, dim=2)
        return attn @ v


class QueriesFirst(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        attn = torch.einsum("bhqd,bhkd->bqhk", q, k).softmax(-1)
        return torch.einsum("bqhk,bhkd->bhqd", attn, v)


class InOrder(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        dots = torch.einsum("b h i d, b h j d -> b h i j", q, k)
        attn = dots.mul(0.5).softmax(-1)
        return attn @ v


class TestAxesOfTheSoftmax:
    """The last axis is that of the keys, and the one before that of the queries."""

    def test_over_the_queries(self) -> None:
        """The third axis of four is that of the queries: it is refused, for its rows do not sum to one."""
        maps = captured(OverQueries())
        with pytest.raises(UnsupportedError, match="a softmax along axis 2 of a tensor whose last one is 3"):
            len(maps)

    def test_the_third_of_three(self) -> None:
        """Of a stack of matrices without heads, the third axis is the last."""
        assert captured(Stack())[0].shape == (1, 3, 5, 5)

    def test_another_order(self) -> None:
        """An einsum that puts the queries before the heads is refused."""
        with pytest.raises(UnsupportedError, match="orders the axes of its map in another way"):
            scope(QueriesFirst())

    def test_the_usual_order(self) -> None:
        """An einsum in the order of all others is read, with letters or spaces."""
        model, x = InOrder(), torch.randn(3, 5, 8)
        torch.testing.assert_close(captured(model, x)[0].tensor().double(), model.expected(x), rtol=0, atol=1e-6)


SOURCE = """
from torch import nn
from torch.nn import functional as F

class Edited(nn.Module):
    def __init__(self):
        super().__init__()
        self.__map = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.__map(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        attn = (q * 1.0 @ k.mT).softmax(-1)
        return attn @ v
"""


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Import a file, then write another one in its place."""

    def edited(after: str) -> Any:
        path = tmp_path / "edited_model.py"
        path.write_text(SOURCE)
        spec = importlib.util.spec_from_file_location("edited_model", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["edited_model"] = module
        spec.loader.exec_module(module)
        path.write_text(after)
        return module.Edited()

    yield edited
    sys.modules.pop("edited_model", None)


class TestEditedSource:
    """A file that was changed after its import does not tell what runs."""

    @pytest.mark.parametrize(
        "after",
        [
            SOURCE.replace("q * 1.0", "q * 2.0"),
            SOURCE.replace("(q * 1.0 @ k.mT)", "(k * 1.0 @ q.mT)"),
            SOURCE.replace(".permute(", ".flip(0).permute("),
            "\n# one\n# two\n# three\n" + SOURCE,
        ],
        ids=["a constant", "names", "a method", "lines above"],
    )
    def test_it_is_refused(self, edited: Callable[[str], Any], after: str) -> None:
        """With its name and what to do."""
        with pytest.raises(UnsupportedError, match=r"changed after the import\. Reload it"):
            scope(edited(after))

    def test_as_it_was(self, edited: Callable[[str], Any]) -> None:
        """The same file, names with two underscores in it, is read."""
        assert captured(edited(SOURCE))[0].shape == (3, 2, 5, 5)

    def test_a_kernel(self, edited: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """Operands are recorded as the kernel is called, and no source is needed to find them."""
        kernel = SOURCE.replace("attn = (q * 1.0 @ k.mT).softmax(-1)", "").replace(
            "return attn @ v", "return F.scaled_dot_product_attention(q, k, v)"
        )
        monkeypatch.setitem(globals(), "SOURCE", kernel)
        assert captured(edited("nothing = None"))[0].shape == (3, 2, 5, 5)

    def test_another_function(self, edited: Callable[[str], Any]) -> None:
        """What is changed below is no matter."""
        assert captured(edited(SOURCE + "\n\ndef more():\n    return 3\n"))[0].shape == (3, 2, 5, 5)


class Kept(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        self.attn = (q @ k.mT).softmax(-1)
        return self.attn @ v


class Unnamed(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        return (q @ k.mT).softmax(-1) @ v


class Around(Base):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Plain()

    def forward(self, x: Any) -> Any:
        q, k, _ = self.qkv(x)
        return (q @ k.mT).softmax(-1) @ self.inner(x)


class Inside(Base):
    def forward(self, x: Any) -> Any:
        def attend(q: Any, k: Any, v: Any) -> Any:
            return F.scaled_dot_product_attention(q, k, v)

        return attend(*self.qkv(x))


def attend(q: Any, k: Any, v: Any) -> Any:
    attn = (q @ k.mT).softmax(-1)
    return attn @ v


class ByHelper(Base):
    def forward(self, x: Any) -> Any:
        return attend(*self.qkv(x))


class Joined(nn.Module):
    """What goes from one layer to the next."""

    def forward(self, x: Any) -> Any:
        return x.transpose(1, 2).flatten(2)


class Gate(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        return self.to_q(x).softmax(-1).unflatten(-1, (2, 4)).transpose(1, 2) * v + q + k


class TestLayersWithoutAMap:
    """Beside layers that are read, those that cannot be are told."""

    @pytest.mark.parametrize(
        ("kind", "how"),
        [
            (Kept, "no variable holds"),
            (Unnamed, "no variable holds"),
            (Inside, "in another function"),
        ],
    )
    def test_they_are_told(self, kind: Any, how: str) -> None:
        """With a warning at the end of the scope in which they ran, and among the others of the maps."""
        model = nn.Sequential(Plain(), nn.Flatten(1, 2), kind())
        model[1] = Joined()
        with pytest.warns(OverlookedWarning, match=f"No attention map for '2': .*{how}"):
            maps = captured(model)
        assert [attention.name for attention in maps] == ["0"]
        assert how in maps.unsupported["2"]

    def test_a_helper(self) -> None:
        """A function that does not take the module is told by its own name."""
        with pytest.warns(OverlookedWarning, match="No attention map for 'attend': .*does not take the module"):
            maps = captured(nn.Sequential(Plain(), Joined(), ByHelper()))
        assert list(maps.unsupported) == ["attend"]

    def test_once(self) -> None:
        """A scope that is opened again does not repeat it."""
        model = nn.Sequential(Plain(), Joined(), Unnamed())
        made = scope(model)
        for _ in range(2):
            made.open()
            model(torch.randn(3, 5, 8))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                made.close()
            assert len(caught) == (0 if _ else 1)

    def test_what_is_not_called(self) -> None:
        """A method that makes one, but does not run, is none that is missed."""
        assert not captured(Plain()).unsupported

    def test_around_others(self) -> None:
        """A model that cannot be read itself, around a layer that can, has one forward pass for each run."""
        model = Around()
        made = scope(model).open()
        for _ in range(2):
            model(torch.randn(3, 5, 8))
        with pytest.warns(OverlookedWarning, match="no variable holds"):
            made.close()
        maps = made.maps
        assert [attention.forward for attention in maps] == [0, 1]

    def test_a_gate_is_none(self) -> None:
        """A softmax of no product is not missed."""
        assert not captured(nn.Sequential(Plain(), Joined(), Gate())).unsupported


class TestCopies:
    """Maps that are copied or pickled."""

    @pytest.mark.parametrize("again", [copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])  # noqa: S301  # its own
    def test_a_map(self, again: Callable[[Any], Any]) -> None:
        """A copy has the same weights, and nothing of it was changed."""
        (attention,) = captured(Fused())
        torch.testing.assert_close(again(attention).tensor(), attention.tensor(), rtol=0, atol=0)

    def test_a_map_that_was_changed(self) -> None:
        """A copy of what was changed in place says so as well."""
        model = Biased()
        maps = captured(model)
        attention = maps[0]
        with torch.no_grad():
            model.bias.mul_(2)
        with pytest.warns(ChangedInPlaceWarning):
            copy.deepcopy(attention).tensor()

    @pytest.mark.parametrize("again", [copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])  # noqa: S301  # its own
    def test_all_maps(self, again: Callable[[Any], Any]) -> None:
        """All of them are a list of maps, with what has none."""
        maps = captured(Fused())
        copied = again(maps)
        assert [attention.name for attention in copied] == [attention.name for attention in maps]
        assert copied.unsupported == maps.unsupported


class Fused(Base):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x)
        return F.scaled_dot_product_attention(q, k, v)
