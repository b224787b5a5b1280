"""Maps of fused kernels: the operands are those that each call received, whatever the source looks like."""

from __future__ import annotations

import gc
import types
import weakref
from typing import Any, cast

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("packaging")

from torch import fx, nn  # noqa: E402  # torch may not be there
from torch.nn import functional as F  # noqa: E402, N812  # as everybody calls it

from anylocal import get_local  # noqa: E402  # as above
from anylocal._readout import kernels  # noqa: E402  # as above
from anylocal._readout.kernels import called_kernels  # noqa: E402  # as above
from anylocal.errors import OverlookedWarning, UnsupportedError  # noqa: E402  # as above

from .of_torch import OfTorch  # noqa: E402  # as above

pytestmark = pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")


def captured(model: nn.Module, *inputs: Any, **options: Any) -> Any:
    with OfTorch().capture_attention(model, **options) as maps, torch.no_grad():
        model(*inputs)
    return maps


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def drawn(*shape: int) -> Any:
    return torch.randn(*shape) * 2


def expected(q: Any, k: Any, mask: Any = 0.0, scale: float | None = None) -> Any:
    q, k = q.double(), k.double()
    return (q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale) + mask).softmax(-1)


def close(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found.tensor().double(), wanted, rtol=0, atol=2e-6)


BIAS = torch.tensor([[0.0, 1.0, -2.0, 3.0, 0.5]], dtype=torch.float64)


class Expression(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        return F.scaled_dot_product_attention(q * 2, k + 1, k, attn_mask=BIAS.to(q.dtype), scale=1 / 3)


class Rebound(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        q = F.scaled_dot_product_attention(q, k, k)
        k = q + 1
        return q + k


class Unpacked(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        given: Any = {"is_causal": True}
        return F.scaled_dot_product_attention(*(q, k, k), **given)


CAUSAL = torch.full((5, 5), -torch.inf, dtype=torch.float64).triu(1)

kernel = F.scaled_dot_product_attention


class ByAnotherName(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        return kernel(q, k, k)


class ByALocal(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        attend = F.scaled_dot_product_attention if len(q) else max
        return attend(q, k, k)


class OfTorchItself(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        return torch._C._nn.scaled_dot_product_attention(q, k, k)


SINGLE = [
    (Expression, lambda q, k: expected(q * 2, k + 1, BIAS, 1 / 3)),
    (Rebound, expected),
    (Unpacked, lambda q, k: expected(q, k, CAUSAL)),
    (ByAnotherName, expected),
    (ByALocal, expected),
    (OfTorchItself, expected),
]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("kind", "wanted"), SINGLE, ids=lambda value: getattr(value, "__name__", ""))
def test_operands_are_those_of_the_call(kind: Any, wanted: Any, compiled: bool) -> None:
    """Expressions, keywords, and names that are bound again make no difference, compiled in one graph or not."""
    model, q, k = kind(), drawn(2, 3, 5, 4), drawn(2, 3, 5, 4)
    before = model(q, k)
    run: Any = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    with OfTorch().capture_attention(model) as maps:
        after = run(q, k)
    assert torch.equal(before, after)
    (attention,) = maps
    assert attention.fused
    close(attention, wanted(q, k))


class Twice(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, k) + F.scaled_dot_product_attention(k, q, q)


class Branches(nn.Module):
    def forward(self, q: Any, k: Any, causal: bool = False) -> Any:
        if causal:
            return F.scaled_dot_product_attention(q, k, k, is_causal=True)
        return F.scaled_dot_product_attention(k, q, q)


class InALoop(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        for _ in range(3):
            q = F.scaled_dot_product_attention(q, k, k)
        return q


@pytest.mark.parametrize("compiled", [False, True])
class TestSeveralCalls:
    """Each call in a function has a map of its own, in their order."""

    def run(self, model: nn.Module, compiled: bool, *inputs: Any) -> Any:
        run: Any = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
        with OfTorch().capture_attention(model) as maps, torch.no_grad():
            run(*inputs)
        return maps

    def test_one_after_the_other(self, compiled: bool) -> None:
        """Two calls make two maps of one forward pass."""
        q, k = drawn(2, 3, 5, 4), drawn(2, 3, 5, 4)
        maps = self.run(Twice(), compiled, q, k)
        assert [attention.forward for attention in maps] == [0, 0]
        close(maps[0], expected(q, k))
        close(maps[1], expected(k, q))

    @pytest.mark.parametrize("causal", [False, True])
    def test_branches(self, compiled: bool, causal: bool) -> None:
        """Of branches with different arguments, the one that ran has the map."""
        q, k = drawn(2, 3, 5, 4), drawn(2, 3, 5, 4)
        (attention,) = self.run(Branches(), compiled, q, k, causal)
        close(attention, expected(q, k, CAUSAL) if causal else expected(k, q))

    def test_a_loop(self, compiled: bool) -> None:
        """Each round has its own."""
        q, k = drawn(2, 3, 5, 4), drawn(2, 3, 5, 4)
        for attention in self.run(InALoop(), compiled, q, k):
            close(attention, expected(q, k))
            q = F.scaled_dot_product_attention(q, k, k)


def test_a_part_that_runs_alone() -> None:
    """Several maps of one call are of one forward pass also where the model's own forward does not run."""
    model, q = nn.Sequential(Twice()), drawn(2, 3, 5, 4)
    with OfTorch().capture_attention(model) as maps:
        for _ in range(2):
            model[0](q, q)
    assert [attention.forward for attention in maps] == [0, 0, 1, 1]


class Both(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        attn = (q @ k.mT).softmax(-1)
        return F.scaled_dot_product_attention(k, q, attn @ k)


def test_a_softmax_beside_a_kernel() -> None:
    """A function that makes a map itself, and another one in a kernel, has both."""
    q, k = drawn(2, 3, 5, 4), drawn(2, 3, 5, 4)
    maps = captured(Both(), q, k)
    assert [attention.fused for attention in maps] == [False, True]
    close(maps[0], expected(q, k, scale=1.0))
    close(maps[1], expected(k, q))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        q, k = self.to_q(x)[:, None], self.to_k(x)[:, None]
        return F.scaled_dot_product_attention(q, k, q)[:, 0]


def test_a_graph_of_fx() -> None:
    """In a traced model one generated function runs all layers, and each has its map."""
    model, x = nn.Sequential(Attention(), Attention()), drawn(2, 5, 4)
    traced = fx.symbolic_trace(model)
    maps, wanted = captured(traced, x), captured(model, x)
    assert len(maps) == len(wanted) == 2
    for attention, other in zip(maps, wanted, strict=True):
        torch.testing.assert_close(attention.tensor(), other.tensor(), rtol=0, atol=0)


def scaled_dot_product_attention(q: Any, k: Any, v: Any) -> Any:
    return v


class OfTheSameName(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        return self.scaled_dot_product_attention(q, k) + F.scaled_dot_product_attention(q, k, k)

    def scaled_dot_product_attention(self, q: Any, k: Any) -> Any:
        return q + k


def test_a_function_of_the_same_name() -> None:
    """Only the kernel itself has a map: a function is known by what it is."""
    q, k = drawn(2, 3, 5, 4), drawn(2, 3, 5, 4)
    (attention,) = captured(OfTheSameName(), q, k)
    close(attention, expected(q, k))


def names_of_kernels(cls: Any) -> frozenset[str]:
    return called_kernels(cls.forward)


class Impostor(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        return scaled_dot_product_attention(q, k, k)


def test_a_global_of_the_same_name() -> None:
    """A function whose name is that of a kernel, and that is none, is not taken for one."""
    assert names_of_kernels(Impostor) == frozenset()
    assert names_of_kernels(ByAnotherName) == {"kernel"}


class Wrong(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        try:
            return F.scaled_dot_product_attention(q, k[..., :3], k)
        except RuntimeError as error:
            return str(error)


def test_a_call_that_raises() -> None:
    """What the kernel raises is raised as before, there is no map, and the layer that went on without one is named."""
    q = drawn(2, 3, 5, 4)
    model = Wrong()
    before = model(q, q)
    with pytest.warns(OverlookedWarning, match="No attention map for ''"), OfTorch().capture_attention(model) as maps:
        assert model(q, q) == before
    assert len(maps) == 0


def test_nested_captures() -> None:
    """Two scopes of one model record the same calls, and each has its own maps."""
    model, q = Twice(), drawn(2, 3, 5, 4)
    with OfTorch().capture_attention(model) as outer:
        model(q, q)
        with OfTorch().capture_attention(model) as inner:
            model(q, q)
    assert (len(outer), len(inner)) == (4, 2)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the kernel an argument that it has not yet."""

    def kernel(*args: Any, window: int = 0, **kwargs: Any) -> Any:
        return real(*args, **kwargs)

    real = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)


class Windowed(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, k, window=3)  # type: ignore[call-arg]  # that it has not yet


@pytest.mark.usefixtures("later")
def test_an_argument_that_is_not_known() -> None:
    """It is refused by name when the map is read; the model runs."""
    maps = captured(Windowed(), drawn(2, 3, 5, 4), drawn(2, 3, 5, 4))
    with pytest.raises(UnsupportedError, match="an argument that is not known: window"):
        len(maps)


def test_in_the_cache() -> None:
    """A marked function has a map in the cache for each of its calls of a kernel."""

    class Marked(OfTorch):
        def functions(self) -> Any:
            return (Twice.forward,)

    adapter, q, k = Marked(), drawn(2, 3, 5, 4), drawn(2, 3, 5, 4)
    adapter.install()
    with get_local.active():
        Twice()(q, k)
    first, second = get_local.cache["Twice.forward"]
    adapter.uninstall()
    get_local.clear()
    for found, wanted in ((first, expected(q, k)), (second, expected(k, q))):
        torch.testing.assert_close(torch.from_numpy(found).double(), wanted, rtol=0, atol=2e-6)


def test_other_functions_are_untouched() -> None:
    """A function that calls no kernel gets no further instruction for them."""
    assert names_of_kernels(nn.Linear) == frozenset()


def test_a_function_that_was_looked_into_is_not_kept() -> None:
    """Its cells may hold a whole model."""

    def attend(q: Any) -> Any:
        return F.scaled_dot_product_attention(q, q, q)

    assert isinstance(attend, types.FunctionType)
    assert called_kernels(attend)
    there = weakref.ref(attend)
    del attend
    gc.collect()
    assert there() is None


def test_code_that_names_no_kernel_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """That would take seconds for a zoo's thousands of functions."""
    monkeypatch.setattr(kernels, "callee_names", lambda code: pytest.fail(f"{code} was taken apart"))

    def project(x: Any) -> Any:
        return F.linear(x, x).relu()

    assert not called_kernels(cast("types.FunctionType", project))


def test_a_kernel_by_another_name_in_a_module() -> None:
    """A module of the user's may hold it under any name, at any depth."""
    inner, outer = types.ModuleType("inner"), types.ModuleType("outer")
    vars(inner)["fast"] = F.scaled_dot_product_attention
    vars(outer)["ops"] = inner
    namespace: dict[str, Any] = {"outer": outer}
    exec("def attend(q):\n    return outer.ops.fast(q, q, q)", namespace)
    assert called_kernels(namespace["attend"]) == {"outer.ops.fast"}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_nested_tensors() -> None:
    """Each sample has the map of its own length, and zeros beyond it."""
    lengths = ((3, 5), (4, 2))
    pairs = [[torch.randn(length, 2, 8) for length in each] for each in lengths]
    sides = zip(*pairs, strict=True)
    q, k = (torch.nested.nested_tensor(list(side), layout=torch.jagged).transpose(1, 2) for side in sides)
    model = ByAnotherName()
    with OfTorch().capture_attention(model) as maps:
        model(q, k)
    assert maps[0].shape == (2, 2, 4, 5)
    for sample, (queries, keys) in enumerate(lengths):
        scores = torch.einsum("qhd,khd->hqk", *(each.double() for each in pairs[sample])) / 8**0.5
        torch.testing.assert_close(maps[0][sample, :, :queries, :keys].double(), scores.softmax(-1), atol=2e-6, rtol=0)
        assert not maps[0][sample, :, :, keys:].any()
        assert not maps[0][sample, :, queries:].any()


# Operands in memory that is written again


class Cached(nn.Module):
    """Keeps its keys in a buffer, and each call writes the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.mask, self.length = torch.zeros(1, 1, 4, 8), torch.zeros(1, 4, dtype=torch.bool), 0

    def forward(self, q: Any) -> Any:
        self.keys[:, :, self.length : self.length + 1] = q
        self.mask[:, self.length] = True
        self.length += 1
        made: Any = 0
        for _ in range(2):
            made = made + F.scaled_dot_product_attention(q, self.keys, self.keys, attn_mask=self.mask)
        return made


def test_keys_and_masks_in_a_buffer() -> None:
    """Each map is that of its own call, and nothing warns."""
    model, queries = Cached(), [drawn(1, 1, 1, 8) for _ in range(4)]
    with OfTorch().capture_attention(model) as maps, torch.no_grad():
        for q in queries:
            model(q)
    for call, q in enumerate(queries):
        for found in maps[2 * call : 2 * call + 2]:
            wanted = expected(q, torch.cat(queries[: call + 1], 2))
            close(found, F.pad(wanted, (0, 3 - call)))


def test_a_mask_that_several_kernels_are_given() -> None:
    """It is copied once for all of them."""
    model = Cached()
    first, second = (found.rows.mask.data_ptr() for found in captured(model, drawn(1, 1, 1, 8)))
    assert first == second != model.mask.data_ptr()


def test_operands_that_nothing_writes() -> None:
    """They are not copied."""
    q, k = drawn(1, 2, 3, 4), drawn(1, 2, 5, 4)
    (found,) = captured(ByAnotherName(), q, k)
    assert (found.rows.q.data_ptr(), found.rows.k.data_ptr()) == (q.data_ptr(), k.data_ptr())


class Overwritten(Cached):
    """Starts a new text over the old one."""

    def forward(self, q: Any) -> Any:
        self.length %= 3
        return super().forward(q)


def test_keys_that_are_written_over() -> None:
    """Calls that saw them do not share the new ones."""
    model, queries = Overwritten(), [drawn(1, 1, 1, 8) for _ in range(5)]
    with OfTorch().capture_attention(model) as maps, torch.no_grad():
        for q in queries:
            model(q)
    texts = [queries[:1], queries[:2], queries[:3], [queries[3], *queries[1:3]], [*queries[3:], queries[2]]]
    for call, (q, text) in enumerate(zip(queries, texts, strict=True)):
        for found in maps[2 * call : 2 * call + 2]:
            close(found, F.pad(expected(q, torch.cat(text, 2)), (0, 4 - len(text))))
