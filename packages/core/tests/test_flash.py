"""Maps of flash-attn's functions, each argument of which is exact or refused by name.

No build of it runs on a CPU. A module of the same signatures stands in for it, which computes each score alone, in
float64, and keeps the weights that it made.
"""

from __future__ import annotations

import copy
import pickle
import sys
import types
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("packaging")

from torch import nn  # noqa: E402  # torch may not be there
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402  # as above

from anylocal._maps.banded import BandedRows, Scoring  # noqa: E402  # as above
from anylocal._maps.map import AttentionMap  # noqa: E402  # as above
from anylocal._maps.packed import Span, packed_rows  # noqa: E402  # as above
from anylocal._readout.kernels import called_kernels  # noqa: E402  # as above
from anylocal.errors import ChangedInPlaceWarning, UnsupportedError  # noqa: E402  # as above
from anylocal.testing import flash_attn_stand_in  # noqa: E402  # as above

from .of_torch import OfTorch  # noqa: E402  # as above

pytestmark = pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")

BATCH, HEADS, LENGTH, WIDTH = 2, 4, 7, 8
CU_SEQLENS = torch.tensor([0, 3, 4, 7], dtype=torch.int32)
POSITIONS = torch.arange(LENGTH)
SLOPES = torch.tensor([0.5, 0.25, 0.125, 1.0])


@pytest.fixture(autouse=True)
def flash(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Put the stand-in where flash-attn would be."""
    torch.manual_seed(0)
    module = flash_attn_stand_in()
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    return module


class Layer(nn.Module):
    """Calls one of the functions, imported as it runs."""

    def __init__(self, name: str = "flash_attn_func", **options: Any) -> None:
        super().__init__()
        self.name, self.options = name, options

    def forward(self, *inputs: Any) -> Any:
        import flash_attn  # type: ignore[import-not-found]  # the stand-in

        chosen = {
            "flash_attn_func": flash_attn.flash_attn_func,
            "flash_attn_kvpacked_func": flash_attn.flash_attn_kvpacked_func,
            "flash_attn_qkvpacked_func": flash_attn.flash_attn_qkvpacked_func,
            "flash_attn_varlen_func": flash_attn.flash_attn_varlen_func,
            "flash_attn_varlen_kvpacked_func": flash_attn.flash_attn_varlen_kvpacked_func,
            "flash_attn_varlen_qkvpacked_func": flash_attn.flash_attn_varlen_qkvpacked_func,
            "flash_attn_with_kvcache": flash_attn.flash_attn_with_kvcache,
        }
        function = chosen[self.name]
        return function(*inputs, **self.options)


def drawn(*shape: int) -> Any:
    return torch.randn(*shape) * 2


def captured(model: nn.Module, *inputs: Any, **options: Any) -> Any:
    with torch.no_grad():
        before = model(*inputs)
        with OfTorch().capture_attention(model, **options) as maps:
            assert torch.equal(model(*inputs), before)
    return maps


def close(found: Any, wanted: Any) -> None:
    assert wanted.std() > 0.07  # far from uniform
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-6)


def in_blocks(parts: list[Any]) -> Any:
    """Return the maps of sequences as one: (1, head, query, key)."""
    return torch.stack([torch.block_diag(*heads) for heads in zip(*parts, strict=True)])[None]


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "softmax_scale": {"softmax_scale": 0.2},
    "causal": {"causal": True},
    "window": {"window_size": (2, 1)},
    "window before": {"window_size": (2, -1)},
    "window after": {"window_size": (-1, 0)},
    "causal window": {"window_size": (2, 3), "causal": True},
    "softcap": {"softcap": 1.5},
    "alibi_slopes": {"alibi_slopes": SLOPES},
    "slopes of each sample": {"alibi_slopes": torch.stack([SLOPES, SLOPES * 2, SLOPES * 3]), "causal": True},
    "sinks": {"s_aux": torch.tensor([0.0, 1.0, -1.0, 3.0]), "window_size": (2, 0)},
    "all": {"softmax_scale": 0.5, "causal": True, "window_size": (3, 0), "softcap": 3.0, "alibi_slopes": SLOPES},
    "neutral": {"dropout_p": 0.0, "deterministic": True, "return_attn_probs": False},
}


@pytest.mark.parametrize("keys", [2, LENGTH, LENGTH + 4])
@pytest.mark.parametrize("name", OPTIONS)
def test_arguments(flash: Any, name: str, keys: int) -> None:
    """Each argument counts, with fewer keys than queries and with more; heads share keys."""
    if keys < LENGTH and name in {"window", "window after"}:
        keys = LENGTH - 1
    q, k = drawn(3, LENGTH, HEADS, WIDTH), drawn(3, keys, HEADS // 2, WIDTH)
    (attention,) = captured(Layer(**OPTIONS[name]), q, k, k)
    assert attention.fused
    wanted = torch.stack(flash.maps[-1])
    close(attention.tensor(), wanted)
    close(attention[1:, 3, [5, 0]], wanted[1:, 3, [5, 0]])


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in {"neutral", "nothing"}])
def test_arguments_of_packed_sequences(flash: Any, name: str) -> None:
    """Of packed sequences there is one map, in which nothing crosses from one to another."""
    starts = torch.tensor([0, 3, 5, 11], dtype=torch.int32)
    q, k = drawn(LENGTH, HEADS, WIDTH), drawn(11, HEADS // 2, WIDTH)
    model = Layer("flash_attn_varlen_func", cu_seqlens_q=CU_SEQLENS, cu_seqlens_k=starts, **SIZES, **OPTIONS[name])
    (attention,) = captured(model, q, k, k)
    wanted = in_blocks(flash.maps[-1])
    close(attention.tensor(), wanted)
    close(attention[0, [3, 1], 2:6], wanted[0, [3, 1], 2:6])
    close(attention[..., 4], wanted[..., 4])


SIZES = {"max_seqlen_q": 3, "max_seqlen_k": 6}
SAME = {"cu_seqlens_q": CU_SEQLENS, "cu_seqlens_k": CU_SEQLENS, "max_seqlen_q": 3, "max_seqlen_k": 3}
LAYOUTS: dict[str, tuple[list[tuple[int, ...]], dict[str, Any]]] = {
    "flash_attn_kvpacked_func": ([(BATCH, LENGTH, HEADS, WIDTH), (BATCH, LENGTH, 2, 1, WIDTH)], {}),
    "flash_attn_qkvpacked_func": ([(BATCH, LENGTH, 3, HEADS, WIDTH)], {}),
    "flash_attn_varlen_kvpacked_func": ([(LENGTH, HEADS, WIDTH), (LENGTH, 2, HEADS, WIDTH)], SAME),
    "flash_attn_varlen_qkvpacked_func": ([(LENGTH, 3, HEADS, WIDTH)], {"cu_seqlens": CU_SEQLENS, "max_seqlen": 3}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_packed_arguments(flash: Any, name: str) -> None:
    """Query, key and value may be in one tensor, or key and value."""
    shapes, options = LAYOUTS[name]
    (attention,) = captured(Layer(name, causal=True, **options), *(drawn(*shape) for shape in shapes))
    made = flash.maps[-1]
    close(attention.tensor(), in_blocks(made) if options else torch.stack(made))


@pytest.mark.parametrize("filled", [None, 5, torch.tensor([3, 6], dtype=torch.int32)])
def test_a_cache(flash: Any, filled: Any) -> None:
    """Keys beyond those that a cache holds have no weight."""
    q, cache = drawn(BATCH, 2, HEADS, WIDTH), drawn(BATCH, LENGTH, HEADS, WIDTH)
    (attention,) = captured(Layer("flash_attn_with_kvcache", cache_seqlens=filled, causal=True), q, cache, cache)
    wanted = [nn.functional.pad(each, (0, LENGTH - each.shape[-1])) for each in flash.maps[-1]]
    close(attention.tensor(), torch.stack(wanted))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "new keys": ("flash_attn_with_kvcache", {"k": torch.ones(BATCH, 1, HEADS, WIDTH), "cache_seqlens": 3}, "k, new"),
    "pages": ("flash_attn_with_kvcache", {"block_table": torch.zeros(BATCH, 1)}, "block_table"),
    "rotation": ("flash_attn_with_kvcache", {"rotary_cos": torch.ones(LENGTH, 1)}, "rotary_cos"),
    "the left padding of a cache": ("flash_attn_with_kvcache", {"cache_leftpad": torch.zeros(2)}, "cache_leftpad"),
}


def test_bounds_of_one_side(flash: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only queries are packed, which version 4 allows, the map is refused."""
    later(flash, monkeypatch)
    q = drawn(BATCH, LENGTH, HEADS, WIDTH)
    maps = captured(Layer(cu_seqlens_q=CU_SEQLENS), q, q, q)
    with pytest.raises(UnsupportedError, match="only one of cu_seqlens_q and cu_seqlens_k"):
        len(maps)


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_are_refused(name: str) -> None:
    """They are named when the map is read; the model runs."""
    function, options, message = REFUSED[name]
    cache = drawn(BATCH, LENGTH, HEADS, WIDTH)
    maps = captured(Layer(function, **options), cache, cache, cache)
    with pytest.raises(UnsupportedError, match=f"an argument that is not known: {message}"):
        len(maps)


def later(flash: Any, monkeypatch: pytest.MonkeyPatch, **defaults: Any) -> None:
    """Give the function arguments of a later version."""

    def flash_attn_func(q: Any, k: Any, v: Any, window_size: Any = (None, None), **more: Any) -> Any:
        window_size = tuple(-1 if side is None else side for side in window_size)
        return real(q, k, v, window_size=window_size)

    def with_sinks(q: Any, k: Any, v: Any, window_size: Any = (None, None), learnable_sink: Any = None) -> Any:
        return real(
            q, k, v, window_size=tuple(-1 if side is None else side for side in window_size), s_aux=learnable_sink
        )

    real, function = flash.flash_attn_func, with_sinks if defaults else flash_attn_func
    function.__name__ = "flash_attn_func"
    monkeypatch.setattr(flash, "flash_attn_func", function)


@pytest.mark.parametrize(
    "given", [{"attention_chunk": 4}, {"qv": torch.ones(1)}, {"new": 0}, {"q_descale": 2.0}], ids=str
)
def test_arguments_of_later_versions(flash: Any, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> None:
    """An argument that is not known is refused by name, even if it is 0."""
    later(flash, monkeypatch)
    q = drawn(BATCH, LENGTH, HEADS, WIDTH)
    maps = captured(Layer(**given), q, q, q)
    with pytest.raises(UnsupportedError, match=f"an argument that is not known: {next(iter(given))}"):
        len(maps)


def test_arguments_of_later_versions_that_are_off(flash: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is no argument, and chunks of 0 positions are none."""
    later(flash, monkeypatch)
    q = drawn(BATCH, LENGTH, HEADS, WIDTH)
    (attention,) = captured(Layer(attention_chunk=0, qv=None, num_splits=3, window_size=(None, 1)), q, q, q)
    close(attention.tensor(), torch.stack(flash.maps[-1]))


def test_sinks_of_version_4(flash: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have another name there, and a window whose end is negative is refused: it is not without end."""
    later(flash, monkeypatch, sinks=True)
    q = drawn(BATCH, LENGTH, HEADS, WIDTH)
    (attention,) = captured(Layer(learnable_sink=SLOPES, window_size=(2, None)), q, q, q)
    close(attention.tensor(), torch.stack(flash.maps[-1]))
    maps = captured(Layer(learnable_sink=SLOPES, window_size=(-1, 0)), q, q, q)
    with pytest.raises(UnsupportedError, match="a negative window_size"):
        len(maps)


@pytest.mark.usefixtures("flash")
def test_an_end_of_the_window_that_versions_ignore() -> None:
    """Where there are fewer keys than queries, and the window ends beyond all keys, the map is refused."""
    q, k = drawn(BATCH, LENGTH, HEADS, WIDTH), drawn(BATCH, 2, HEADS, WIDTH)
    maps = captured(Layer(window_size=(-1, 3)), q, k, k)
    with pytest.raises(UnsupportedError, match="a window_size that ends 3 keys after"):
        len(maps)


@pytest.mark.parametrize("name", ["flash_attn.flash_attn_interface", "flash_attn_interface", "flash_attn.cute"])
def test_other_modules(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The functions are known in whatever module of flash-attn they are."""
    other = flash_attn_stand_in(name)
    monkeypatch.setitem(sys.modules, name, other)
    monkeypatch.setitem(globals(), "flash_attn_func", other.flash_attn_func)

    class Imported(nn.Module):
        def forward(self, q: Any) -> Any:
            return flash_attn_func(q, q, q)  # type: ignore[name-defined]  # noqa: F821  # set above

    q = drawn(BATCH, LENGTH, HEADS, WIDTH)
    (attention,) = captured(Imported(), q)
    close(attention.tensor(), torch.stack(other.maps[-1]))


def test_functions_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a module that is not flash-attn's are not taken for them."""
    monkeypatch.setitem(globals(), "flash_attn_func", flash_attn_stand_in("mine").flash_attn_func)

    def attend(q: Any) -> Any:
        return flash_attn_func(q, q, q)  # type: ignore[name-defined]  # noqa: F821  # set above

    assert isinstance(attend, types.FunctionType)
    assert called_kernels(attend) == frozenset()


def test_a_function_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that stands for no function where flash-attn is missing makes no attention function of its user."""
    monkeypatch.setitem(globals(), "flash_attn_func", None)

    def attend(q: Any) -> Any:
        return flash_attn_func(q, q, q)  # type: ignore[name-defined]  # noqa: F821  # set above

    assert isinstance(attend, types.FunctionType)
    assert called_kernels(attend) == frozenset()


class Traced:
    """Has a stand-in for the kernel under its name, which compilers ask of the code."""

    @staticmethod
    def flash_attn_func(  # noqa: PLR0917  # the kernel's own signature
        q: Any,
        k: Any,
        v: Any,
        dropout_p: float = 0.0,
        softmax_scale: Any = None,
        causal: bool = False,
        window_size: Any = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Any = None,
    ) -> Any:
        return q + v


class Positional(nn.Module):
    def forward(self, q: Any) -> Any:
        import flash_attn

        return flash_attn.flash_attn_func(q, q, q, 0.0, 0.3, True, (3, 3), 2.0, SLOPES)


@pytest.mark.parametrize("compiled", [False, True])
def test_compiled(flash: Any, monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """In one graph, a call is bound as in Python, in the function's own order of arguments."""
    model, q = Positional(), drawn(BATCH, LENGTH, HEADS, WIDTH)
    model(q)
    wanted = torch.stack(flash.maps[-1])
    # What computes in float64 cannot be traced.
    monkeypatch.setattr(flash, "flash_attn_func", Traced.flash_attn_func)
    run: Any = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    with OfTorch().capture_attention(model) as maps, torch.no_grad():
        run(q)
    close(maps[0].tensor(), wanted)


@pytest.mark.usefixtures("flash")
def test_bounds_that_change() -> None:
    """Where sequences begin is read with the map: if it was changed in place, that is reported."""
    bounds = CU_SEQLENS.clone()
    model = Layer("flash_attn_varlen_func", **(SAME | {"cu_seqlens_q": bounds}))
    q = drawn(LENGTH, HEADS, WIDTH)
    maps = captured(model, q, q, q)
    bounds.add_(0)
    with pytest.warns(ChangedInPlaceWarning, match="flash_attn.cu_seqlens_q"):
        len(maps)


@pytest.mark.usefixtures("flash")
def test_slopes_that_change() -> None:
    """Tensors that change scores are operands like query and key."""
    slopes, q = SLOPES.clone(), drawn(BATCH, LENGTH, HEADS, WIDTH)
    attention = captured(Layer(alibi_slopes=slopes), q, q, q)[0]
    slopes.mul_(2)
    with pytest.warns(ChangedInPlaceWarning, match="was changed in place after the map was made"):
        attention[0, 0, 0]


def unpickled(kept: Any) -> Any:
    return pickle.loads(pickle.dumps(kept))  # noqa: S301  # its own


@pytest.mark.parametrize("again", [lambda kept: kept.cpu(), copy.deepcopy, unpickled])
@pytest.mark.parametrize("packed", [False, True])
def test_copies(flash: Any, packed: bool, again: Any) -> None:
    """A copy has the same weights, whatever becomes of the operands."""
    tensors = {"s_aux": SLOPES.clone(), "alibi_slopes": SLOPES.clone()}
    options = OPTIONS["all"] | tensors
    q = drawn(LENGTH, HEADS, WIDTH) if packed else drawn(BATCH, LENGTH, HEADS, WIDTH)
    model = Layer("flash_attn_varlen_func", **SAME, **options) if packed else Layer(**options)
    attention = again(captured(model, q, q, q)[0])
    for operand in (q, *tensors.values()):
        operand.zero_()
    close(attention.tensor(), in_blocks(flash.maps[-1]) if packed else torch.stack(flash.maps[-1]))


def test_how_it_is_kept(flash: Any) -> None:
    """Copies of the operands outlive changes of them."""
    q = drawn(LENGTH, HEADS, WIDTH)
    maps = captured(Layer("flash_attn_varlen_func", **SAME), q, q, q, keep="clone")
    q.zero_()
    close(maps[0].tensor(), in_blocks(flash.maps[-1]))


def test_gradients() -> None:
    """The gradient of a weight leads back to the query, through caps, slopes, sinks and blocks."""
    q, k = drawn(1, HEADS, LENGTH, WIDTH).double().requires_grad_(), drawn(1, HEADS, LENGTH, WIDTH).double()
    scoring = Scoring(right=0, softcap=2.0, slopes=SLOPES[None], sinks=SLOPES)
    spans = [Span(0, POSITIONS[:3], POSITIONS[:3]), Span(0, POSITIONS[3:], POSITIONS[3:])]
    every = slice(None)

    def weights(q: Any) -> Any:
        return packed_rows(q, k, scoring, spans).take(every, every, every)

    assert torch.autograd.gradcheck(weights, (q,))


class NoMap(TorchDispatchMode):
    """Refuses tensors of the size of a map."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            assert not isinstance(tensor, torch.Tensor) or tensor.numel() < 400 * 400, function
        return made


@pytest.mark.parametrize("packed", [False, True])
def test_only_what_is_asked_for(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    """Rows and columns of a long map take no memory of the size of a map."""
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", 2 * 30 * 400)
    q = drawn(1, 2, 400, WIDTH)
    scoring, places = Scoring(left=90, right=0, softcap=2.0), torch.arange(400)
    spans = [Span(0, places[:150], places[:150]), Span(0, places[150:], places[150:])]
    attention = AttentionMap(packed_rows(q, q, scoring, spans) if packed else BandedRows(q, q, scoring))
    whole = attention.tensor()
    with NoMap():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        rows, column = attention[0, :, [7, 399]], attention[..., 149]
    torch.testing.assert_close(rows, whole[0][:, [7, 399]])
    torch.testing.assert_close(column, whole[..., 149])
    assert whole[0, 0, 150:, :150].any() != packed


def test_samples_in_any_order(flash: Any) -> None:
    """Samples and heads of a map with blocks are picked as those of any map."""
    q, cache = drawn(3, 2, HEADS, WIDTH), drawn(3, LENGTH, HEADS, WIDTH)
    model = Layer("flash_attn_with_kvcache", cache_seqlens=torch.tensor([3, 6, 0], dtype=torch.int32))
    attention = captured(model, q, cache, cache)[0]
    wanted = torch.stack([nn.functional.pad(each, (0, LENGTH - each.shape[-1])) for each in flash.maps[-1]])
    torch.testing.assert_close(attention[[1, 0, 1], 2].double(), wanted[[1, 0, 1], 2], rtol=0, atol=2e-6)
    assert not attention[2].any()
