"""Maps of xFormers' memory-efficient attention, for each of its classes of masks.

It runs on no CPU. A module of the same names stands in for it, whose masks say of each query and key whether they allow
it, as the documentation of xFormers defines them, and whose kernel computes in float64 and keeps the weights.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("packaging")

from torch import nn  # noqa: E402  # torch may not be there

from anylocal.errors import ChangedInPlaceWarning, UnsupportedError  # noqa: E402  # as above

from .of_torch import OfTorch  # noqa: E402  # as above

BATCH, LENGTH, HEADS, WIDTH = 2, 7, 4, 8


class Bounds:
    """Where sequences start; the length of each, if there may be gaps after them."""

    def __init__(self, starts: list[int], lengths: list[int] | None = None) -> None:
        self.seqstart_py = starts
        self.seqstart = torch.tensor(starts, dtype=torch.int32)
        if lengths is not None:
            self.seqlen = torch.tensor(lengths, dtype=torch.int32)

    def intervals(self) -> list[tuple[int, int]]:
        pairs = list(zip(self.seqstart_py[:-1], self.seqstart_py[1:], strict=True))
        if not hasattr(self, "seqlen"):
            return pairs
        return [(start, start + int(length)) for (start, _), length in zip(pairs, self.seqlen, strict=True)]


class Mask:
    """A mask of xFormers: `allows` says it for a query and a key of one sequence, of so many of each."""

    def allows(self, i: int, j: int, queries: int, keys: int) -> bool:
        return True

    def bias(self, queries: int, keys: int) -> Any:
        """Return what is added to the scores: (…, query, key)."""
        made = torch.full((queries, keys), -torch.inf, dtype=torch.float64)
        for (a, b), (c, d) in self.blocks(queries, keys):
            for i in range(b - a):
                for j in range(d - c):
                    if self.allows(i, j, b - a, d - c):
                        made[a + i, c + j] = 0
        return made

    def blocks(self, queries: int, keys: int) -> Any:
        return [((0, queries), (0, keys))]


class Blocks(Mask):
    def __init__(self, q_seqinfo: Bounds, k_seqinfo: Bounds, window: int | None = None) -> None:
        self.q_seqinfo, self.k_seqinfo = q_seqinfo, k_seqinfo
        if window is not None:
            self._window_size = window

    def blocks(self, queries: int, keys: int) -> Any:
        return zip(self.q_seqinfo.intervals(), self.k_seqinfo.intervals(), strict=True)


class FromTopLeft(Mask):
    def allows(self, i: int, j: int, queries: int, keys: int) -> bool:
        return j <= i and i - j < getattr(self, "_window_size", 100)


class FromBottomRight(Mask):
    def allows(self, i: int, j: int, queries: int, keys: int) -> bool:
        before_last = (keys - 1 - j) - (queries - 1 - i)
        return 0 <= before_last < getattr(self, "_window_size", 100)


class Local(Mask):
    def __init__(self, window_left: int, window_right: int) -> None:
        self.window_left, self.window_right = window_left, window_right

    def allows(self, i: int, j: int, queries: int, keys: int) -> bool:
        return i - self.window_left <= j + queries - keys <= i + self.window_right


class WithBias(FromTopLeft):
    def __init__(self, bias: Any) -> None:
        self._subtensor = bias

    def bias(self, queries: int, keys: int) -> Any:
        return super().bias(queries, keys) + self._subtensor


class Windowed(FromBottomRight):
    def __init__(self, window: int) -> None:
        self._window_size = window


def of_xformers(name: str, *bases: type, **given: Any) -> Any:
    return type(name, bases, {"__module__": "xformers.ops.fmha.attn_bias"} | given)


def packed(starts: list[int], lengths: list[int] | None = None) -> tuple[Bounds, Bounds]:
    return Bounds([0, 2, 4, LENGTH]), Bounds(starts, lengths)


FULL, PADDED, GAPPY = packed([0, 3, 6, 11]), packed([0, 4, 8, 12], [3, 2, 4]), packed([0, 5, 9, 13], [3, 4, 3])

MASKS: dict[str, Any] = {
    "LowerTriangularMask": (FromTopLeft,),
    "LowerTriangularMaskWithTensorBias": (WithBias, torch.randn(1, HEADS, LENGTH, 11)),
    "LowerTriangularFromBottomRightMask": (FromBottomRight,),
    "LowerTriangularFromBottomRightLocalAttentionMask": (Windowed, 3),
    "LocalAttentionFromBottomRightMask": (Local, 2, 1),
    "BlockDiagonalMask": (Blocks, *FULL),
    "BlockDiagonalCausalMask": ((FromTopLeft, Blocks), *FULL),
    "BlockDiagonalCausalFromBottomRightMask": ((FromBottomRight, Blocks), *FULL),
    "BlockDiagonalCausalLocalAttentionMask": ((FromTopLeft, Blocks), *FULL, 2),
    "BlockDiagonalCausalLocalAttentionFromBottomRightMask": ((FromBottomRight, Blocks), *FULL, 2),
    "BlockDiagonalPaddedKeysMask": (Blocks, *PADDED),
    "BlockDiagonalCausalWithOffsetPaddedKeysMask": ((FromBottomRight, Blocks), *PADDED),
    "BlockDiagonalCausalLocalAttentionPaddedKeysMask": ((FromBottomRight, Blocks), *PADDED, 2),
    "BlockDiagonalGappyKeysMask": (Blocks, *GAPPY),
    "BlockDiagonalCausalWithOffsetGappyKeysMask": ((FromBottomRight, Blocks), *GAPPY),
}


def mask_of(name: str) -> Any:
    bases, *given = MASKS[name]
    return of_xformers(name, *(bases if isinstance(bases, tuple) else (bases,)))(*given)


@pytest.fixture(autouse=True)
def maps_made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Put the stand-in where xFormers would be, and return the weights that it makes."""
    torch.manual_seed(0)
    made: list[Any] = []

    def memory_efficient_attention(  # noqa: PLR0917  # the kernel's own signature
        query: Any,
        key: Any,
        value: Any,
        attn_bias: Any = None,
        p: float = 0.0,
        scale: Any = None,
        *,
        op: Any = None,
        output_dtype: Any = None,
    ) -> Any:
        q, k, v = (each.double().unflatten(1, (-1, *(1,) * (5 - each.ndim))) for each in (query, key, value))
        scores = torch.einsum("bqghd,bkghd->bghqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        bias = attn_bias.bias(q.shape[1], k.shape[1]) if isinstance(attn_bias, Mask) else attn_bias
        if bias is not None:
            scores = scores + (bias[:, None, None] if bias.ndim == 3 else bias[:, None] if bias.ndim == 4 else bias)
        weights = scores.softmax(-1).nan_to_num()
        made.append(weights.flatten(1, 2))
        return torch.einsum("bghqk,bkghd->bqghd", weights, v).to(query.dtype).reshape(query.shape)

    ops = types.ModuleType("xformers.ops")
    for name in ("memory_efficient_attention", "memory_efficient_attention_forward"):
        same = types.FunctionType(
            memory_efficient_attention.__code__,
            memory_efficient_attention.__globals__,
            name,
            memory_efficient_attention.__defaults__,
            memory_efficient_attention.__closure__,
        )
        same.__kwdefaults__ = memory_efficient_attention.__kwdefaults__
        setattr(ops, name, same)
    package = types.ModuleType("xformers")
    package.ops = ops  # type: ignore[attr-defined]  # as a package has it
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    return made


class Layer(nn.Module):
    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__()
        self.given, self.options = given, options

    def forward(self, q: Any, k: Any) -> Any:
        from xformers.ops import memory_efficient_attention  # type: ignore[import-not-found]  # the stand-in

        return memory_efficient_attention(q, k, k, *self.given, **self.options)


def drawn(*shape: int) -> Any:
    return torch.randn(*shape) * 2


def captured(model: nn.Module, q: Any, k: Any) -> Any:
    with torch.no_grad():
        before = model(q, k)
        with OfTorch().capture_attention(model) as maps:
            assert torch.equal(model(q, k), before)
    return maps


def close(found: Any, wanted: Any) -> None:
    assert wanted.std() > 0.07  # far from uniform
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", MASKS)
def test_masks(maps_made: list[Any], name: str) -> None:
    """Each class of masks hides the keys that it hides in the kernel, and blocks see nothing of each other."""
    mask = mask_of(name)
    keys = mask.k_seqinfo.seqstart_py[-1] if isinstance(mask, Blocks) else 11
    (attention,) = captured(Layer(mask), drawn(1, LENGTH, HEADS, WIDTH), drawn(1, keys, HEADS, WIDTH))
    assert attention.fused
    wanted = maps_made[-1]
    close(attention.tensor(), wanted)
    close(attention[0, [3, 1], 2:6], wanted[0, [3, 1], 2:6])


BIASES: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "without heads": ((BATCH, LENGTH, WIDTH), None),
    "a bias without heads": ((BATCH, LENGTH, WIDTH), (BATCH, LENGTH, LENGTH)),
    "heads": ((BATCH, LENGTH, HEADS, WIDTH), None),
    "a bias": ((BATCH, LENGTH, HEADS, WIDTH), (BATCH, HEADS, LENGTH, LENGTH)),
    "groups": ((BATCH, LENGTH, 2, 3, WIDTH), None),
    "a bias of groups": ((BATCH, LENGTH, 2, 3, WIDTH), (BATCH, 2, 3, LENGTH, LENGTH)),
}


@pytest.mark.parametrize("name", BIASES)
def test_layouts(maps_made: list[Any], name: str) -> None:
    """Operands have no head axis, one, or one of groups as well; a tensor is added to the scores."""
    shape, of_bias = BIASES[name]
    model = Layer(attn_bias=None if of_bias is None else drawn(*of_bias), p=0.0, scale=0.3, op=None)
    (attention,) = captured(model, drawn(*shape), drawn(*shape))
    close(attention.tensor(), maps_made[-1])


def test_keys_of_groups(maps_made: list[Any]) -> None:
    """Keys that are expanded over the heads of a group are not copied for each."""
    k = drawn(BATCH, LENGTH, 2, 1, WIDTH)
    (attention,) = captured(Layer(), drawn(BATCH, LENGTH, 2, 3, WIDTH), k.expand(-1, -1, -1, 3, -1))
    close(attention.tensor(), maps_made[-1])
    assert attention.rows.k.shape[1] == 2


def test_another_function(maps_made: list[Any]) -> None:
    """The function without a gradient is the same kernel, under whatever name the model has it."""

    class Forward(nn.Module):
        def forward(self, q: Any, k: Any) -> Any:
            import xformers.ops as xops  # type: ignore[import-not-found]  # the stand-in

            return xops.memory_efficient_attention_forward(q, k, k)

    (attention,) = captured(Forward(), drawn(BATCH, LENGTH, HEADS, WIDTH), drawn(BATCH, LENGTH, HEADS, WIDTH))
    close(attention.tensor(), maps_made[-1])


REFUSED = {
    "a mask of pages": of_xformers("PagedBlockDiagonalPaddedKeysMask", Mask)(),
    "a class of the user's": type("BlockDiagonalMask", (Mask,), {})(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_masks_that_are_refused(name: str) -> None:
    """They are named when the map is read; the model runs."""
    mask, q = REFUSED[name], drawn(1, LENGTH, HEADS, WIDTH)
    maps = captured(Layer(mask), q, q)
    with pytest.raises(UnsupportedError, match=f"not known: an attn_bias of class {type(mask).__name__}"):
        len(maps)


def test_lengths_that_change() -> None:
    """The kernel reads the tensors of a mask; if one was changed in place, that is reported."""
    mask = mask_of("BlockDiagonalPaddedKeysMask")
    maps = captured(Layer(mask), drawn(1, LENGTH, HEADS, WIDTH), drawn(1, 12, HEADS, WIDTH))
    mask.k_seqinfo.seqlen.add_(0)
    with pytest.warns(ChangedInPlaceWarning, match="memory_efficient_attention.lengths_k"):
        len(maps)


class NestedTensorBlock(nn.Module):
    """Attention over images of several sizes in one sequence, as in DINOv2's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH)

    def forward(self, x: Any, attn_bias: Any = None) -> Any:
        from xformers.ops import memory_efficient_attention, unbind

        qkv = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, WIDTH)
        q, k, v = unbind(qkv, 2)
        return memory_efficient_attention(q, k, v, attn_bias=attn_bias).reshape(x.shape)


def test_images_of_several_sizes(maps_made: list[Any]) -> None:
    """Each image has a block of its own."""
    sys.modules["xformers.ops"].unbind = torch.unbind  # type: ignore[attr-defined]  # of the stand-in
    starts = Bounds([0, 5, 10, 12])
    mask = of_xformers("BlockDiagonalMask", Blocks)(starts, starts)
    (attention,) = captured(NestedTensorBlock(), drawn(1, 12, HEADS * WIDTH), mask)
    torch.testing.assert_close(attention.tensor().double(), maps_made[-1], rtol=0, atol=2e-6)
    assert not attention[0, :, 5:, :5].any()
