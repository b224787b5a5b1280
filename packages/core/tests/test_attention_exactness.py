"""A map is what the kernel computes before it multiplies with the values, to the last bit that float32 holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from anylocal.attention import AttentionMap, Axis, Patches, Tokens
from anylocal.errors import ChangedInPlaceWarning, OptionError, ShapeError

B, H, Q, K, D = 2, 4, 7, 9, 8


def operands(
    *, heads: int = H, dtype: torch.dtype = torch.float32, batch: int = B
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return q and k that make maps far from uniform."""
    generator = torch.Generator().manual_seed(0)
    q = 2 * torch.randn(B, H, Q, D, generator=generator)
    k = 2 * torch.randn(batch, heads, K, D, generator=generator)
    return q.to(dtype), k.to(dtype)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def kernel(q: torch.Tensor, k: torch.Tensor, **options: Any) -> torch.Tensor:
    """Compute the map by torch's own function, with the identity as values."""
    k = k.expand(q.shape[0], -1, -1, -1).repeat_interleave(q.shape[1] // k.shape[1], 1)
    return scaled_dot_product_attention(
        q, k, torch.eye(k.shape[2], dtype=q.dtype).expand(*q.shape[:2], -1, -1), **options
    )


def eager(q: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | float = 0.0, scale: float = D**-0.5) -> torch.Tensor:
    return (torch.einsum("bhqd,bhkd->bhqk", q.double(), k.double()) * scale + bias).softmax(-1)


def assert_same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-6) -> None:
    """Compare, and make sure that a constant map would not have passed."""
    assert expected.double().std(-1).mean() > 0.05
    torch.testing.assert_close(actual.double(), expected.double(), atol=tolerance, rtol=0)


BOOL = random(B, H, Q, K) > -0.5
BOOL[..., 0] = True
MASKS = {
    "bool": BOOL,
    "bool per key": BOOL[:, :1, :1],
    "bool of one sample": BOOL[:1],
    "bool matrix": BOOL[0, 0],
    "bool vector": BOOL[0, 0, 0],
    "bias": 3 * random(B, H, Q, K),
    "bias per head": 3 * random(1, H, Q, K),
    "bias per query": 3 * random(Q, 1) + random(1, K),
    "infinite": torch.zeros(B, 1, Q, K).masked_fill(~BOOL[:, :1], -math.inf),
    "lowest": torch.zeros(B, 1, Q, K).masked_fill(~BOOL[:, :1], torch.finfo(torch.float32).min),
}


def test_plain_map_is_the_kernels() -> None:
    """Without mask, the map is the kernel's."""
    q, k = operands()
    assert_same(AttentionMap.from_qk(q, k).tensor(), kernel(q, k))


@pytest.mark.parametrize("name", MASKS)
def test_masked_map_is_the_kernels(name: str) -> None:
    """Every kind of broadcastable mask acts as in the kernel."""
    q, k = operands()
    assert_same(
        AttentionMap.from_qk(q, k, mask=MASKS[name]).tensor(), kernel(q, k, attn_mask=MASKS[name].expand(B, H, Q, K))
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("shared", [False, True], ids=["own keys", "keys of one sample"])
def test_map_of_views_of_a_buffer_is_that_of_copies(dtype: torch.dtype, groups: int, *, shared: bool) -> None:
    """Operands that lie sample by sample in one buffer give the map of each sample and head, groups included."""
    buffer = random(3, 50, 12, 64).to(dtype).transpose(1, 2)
    q, k = buffer[:, :6], buffer[:1, 6 : 6 + groups] if shared else buffer[:, 6 : 6 + groups]
    expected = eager(q, k.expand(3, -1, -1, -1).repeat_interleave(6 // groups, 1), scale=0.5)
    assert_same(AttentionMap.from_qk(q, k, scale=0.5).tensor(), expected, 2e-5)


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_scale_is_the_kernels(scale: float) -> None:
    """A scale replaces 1 / sqrt(features)."""
    q, k = operands()
    assert_same(AttentionMap.from_qk(q, k, scale=scale).tensor(), kernel(q, k, scale=scale))


@pytest.mark.parametrize("queries", [3, Q, 2 * K], ids="queries={}".format)
def test_causal_map_is_the_kernels(queries: int) -> None:
    """Causal masks are aligned top left, with fewer queries than keys as with more."""
    q, k = random(B, H, queries, D), operands()[1]
    assert_same(AttentionMap.from_qk(q, k, causal=True).tensor(), kernel(q, k, is_causal=True))


def test_causal_and_mask_hold_together() -> None:
    """A key takes part if both the causal and the given mask allow it."""
    q, k = operands()
    both = BOOL & torch.ones(Q, K, dtype=torch.bool).tril()
    assert_same(AttentionMap.from_qk(q, k, mask=BOOL, causal=True).tensor(), kernel(q, k, attn_mask=both))


@pytest.mark.parametrize("heads", [1, 2])
def test_grouped_heads_are_the_kernels(heads: int) -> None:
    """Fewer key heads serve neighbouring query heads, not alternating ones."""
    q, k = operands(heads=heads)
    assert_same(AttentionMap.from_qk(q, k).tensor(), kernel(q, k))


def test_keys_of_one_sample_serve_the_batch() -> None:
    """A key batch of 1 is broadcast."""
    q, k = operands(batch=1)
    assert_same(AttentionMap.from_qk(q, k).tensor(), kernel(q, k))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_operands_are_computed_in_float32(dtype: torch.dtype) -> None:
    """Half-precision operands are used as they are, and nothing else is rounded."""
    q, k = operands(dtype=dtype)
    bias = (3 * random(1, H, Q, K)).to(dtype)
    attention = AttentionMap.from_qk(q, k, mask=bias)
    assert torch.float32 == attention.dtype == attention.tensor().dtype
    assert_same(attention.tensor(), eager(q, k, bias.double()))


def test_float64_operands_are_computed_in_float64() -> None:
    """Double precision is kept."""
    q, k = operands(dtype=torch.float64)
    attention = AttentionMap.from_qk(q, k)
    assert torch.float64 == attention.dtype
    assert_same(attention.tensor(), eager(q, k), tolerance=1e-14)


def test_autocast_around_changes_nothing() -> None:
    """Autocast lowers the precision of the model, not of its maps."""
    q, k = operands()
    attention = AttentionMap.from_qk(q, k, mask=MASKS["bias"])
    whole, row = attention.tensor(), attention[:, :, 2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(whole, attention.tensor())
        assert torch.equal(row, attention[:, :, 2])


@pytest.mark.parametrize("kind", ["bool", "infinite"])
def test_row_without_keys_is_zero(kind: str) -> None:
    """A fully masked row is 0 and does not affect the others."""
    q, k = operands()
    mask = BOOL.clone()
    mask[1, 2, 3] = False
    given = mask if kind == "bool" else torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    result = AttentionMap.from_qk(q, k, mask=given).tensor()
    assert [0.0] * K == result[1, 2, 3].tolist()
    mask[1, 2, 3, 0] = True
    expected = kernel(q, k, attn_mask=mask)
    expected[1, 2, 3] = 0
    assert_same(result, expected)


def test_lower_dimensions_are_promoted() -> None:
    """Operands without batch, or without batch and head, make a map with axes of length 1."""
    q, k = operands()
    expected = kernel(q, k, attn_mask=BOOL)
    assert_same(AttentionMap.from_qk(q[1], k[1], mask=BOOL[1]).tensor(), expected[1:])
    assert_same(AttentionMap.from_qk(q[1, 2], k[1, 2], mask=BOOL[1, 2]).tensor(), expected[1:, 2:3])


def test_gradients_are_those_of_eager_attention() -> None:
    """Operands that require gradients get them, through the mask as well."""
    inputs = [x.requires_grad_() for x in (*operands(), MASKS["bias per head"].clone())]
    q, k, bias = inputs
    maps = [AttentionMap.from_qk(q, k, mask=bias).tensor(), eager(q, k, bias.double())]
    grads = [torch.autograd.grad((x.double() ** 2).sum(), inputs) for x in maps]
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bool", "infinite"])
def test_gradients_survive_a_row_without_keys(kind: str) -> None:
    """The gradient of a row that is 0 is 0, not NaN."""
    q, k = (x.requires_grad_() for x in operands())
    mask = BOOL.clone()
    mask[0, 0, 0] = False
    mask = mask if kind == "bool" else torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    grads = torch.autograd.grad(AttentionMap.from_qk(q, k, mask=mask).tensor().square().sum(), [q, k])
    assert all(grad.isfinite().all() for grad in grads)
    assert [0.0] * D == grads[0][0, 0, 0].tolist()


def test_no_graph_is_made_unless_asked_for() -> None:
    """Without operands that require gradients, or with gradients off, the map has no graph."""
    q, k = operands()
    assert not AttentionMap.from_qk(q, k).tensor().requires_grad
    with torch.no_grad():
        assert not AttentionMap.from_qk(q.requires_grad_(), k).tensor().requires_grad


def test_inference_tensors_are_taken() -> None:
    """Inference tensors, which have no version counter, make a map."""
    with torch.inference_mode():
        q, k = operands()
        attention = AttentionMap.from_qk(q, k, mask=BOOL)
    assert_same(attention.tensor(), kernel(q, k, attn_mask=BOOL))


def test_device_without_autocast_is_taken() -> None:
    """Operands on a device without autocast make a map."""
    q, k = (x.to("meta") for x in operands())
    assert (H, Q, K) == tuple(AttentionMap.from_qk(q, k)[0].shape)


def test_operands_are_not_changed() -> None:
    """Reading a map leaves its operands unchanged."""
    q, k = operands()
    before = [q.clone(), k.clone(), MASKS["bias"].clone()]
    AttentionMap.from_qk(q, k, mask=MASKS["bias"], causal=True).tensor()
    assert all(map(torch.equal, before, [q, k, MASKS["bias"]]))


@pytest.mark.parametrize("which", [0, 1, 2], ids=["q", "k", "mask"])
def test_operand_changed_in_place_is_reported(which: int) -> None:
    """A map that is read after an operand was changed warns, at the line that reads."""
    given = [*operands(), MASKS["bias"].clone()]
    attention = AttentionMap.from_qk(given[0], given[1], mask=given[2])
    given[which].mul_(2)
    with pytest.warns(ChangedInPlaceWarning, match="changed in place") as caught:
        attention[0, 0]
    assert __file__ == caught[0].filename


def test_weights_are_kept_as_they_are() -> None:
    """Given weights are not copied, and keep their precision."""
    w = kernel(*operands()).bfloat16()
    attention = AttentionMap.from_weights(w)
    assert (torch.bfloat16, w.data_ptr()) == (attention.dtype, attention.tensor().data_ptr())
    assert torch.equal(w, attention.tensor())


def test_weights_are_promoted() -> None:
    """Weights without batch, or without batch and head, get axes of length 1."""
    w = torch.eye(3)
    assert [(1, 1, 3, 3), (1, 2, 3, 3)] == [AttentionMap.from_weights(x).shape for x in (w, torch.stack([w, w]))]


@pytest.mark.parametrize("change", ["plain", "read-only", "backwards"])
def test_weights_may_be_an_array(change: str) -> None:
    """NumPy arrays are accepted, including read-only and reversed ones."""
    w = kernel(*operands()).numpy().copy()
    w = w[..., ::-1] if change == "backwards" else w
    w.flags.writeable = change != "read-only"
    np.testing.assert_array_equal(w, AttentionMap.from_weights(w).tensor().numpy())


def test_asarray_computes_the_map() -> None:
    """NumPy functions take a map as an array of the requested type."""
    attention = AttentionMap.from_qk(*operands())
    np.testing.assert_array_equal(attention.tensor().numpy(), np.asarray(attention))
    assert ["float64", "float32"] == [x.dtype.name for x in (np.asarray(attention, dtype=float), attention.numpy())]


def test_array_of_half_weights_is_float32() -> None:
    """NumPy has no bfloat16: it becomes float32 without loss."""
    w = kernel(*operands()).bfloat16()
    array = np.asarray(AttentionMap.from_weights(w))
    assert np.float32 == array.dtype
    np.testing.assert_array_equal(w.float().numpy(), array)


def test_array_of_a_graph_is_detached() -> None:
    """Weights that require gradients can be converted to an array."""
    assert (1, 1, 2, 2) == np.asarray(AttentionMap.from_weights(torch.eye(2).requires_grad_())).shape


def test_array_copies_when_asked() -> None:
    """`copy=True` gives an array of its own."""
    w = torch.eye(2)
    AttentionMap.from_weights(w).__array__(copy=True)[:] = 5
    assert torch.equal(torch.eye(2), w)


def test_array_is_not_copied_when_forbidden() -> None:
    """`copy=False` gives the weights themselves, and raises if their type must change."""
    w = torch.eye(2)
    attention = AttentionMap.from_weights(w)
    assert attention.__array__(copy=False).ctypes.data == w.data_ptr()
    with pytest.raises(ValueError, match="Converting a map of float32 to float64 needs a copy"):
        attention.__array__(np.float64, copy=False)


@pytest.mark.parametrize(
    "queries", [None, 2, -1, slice(1, 5, 2), [4, 0, 4], [], slice(5, 2), torch.tensor([1])], ids=str
)
@pytest.mark.parametrize("block", [None, 1, H * K * B * 3])
def test_head_mean(monkeypatch: pytest.MonkeyPatch, queries: Any, block: int | None) -> None:
    """The mean over heads is the same in one block and in many, for all queries and for some."""
    if block:
        monkeypatch.setattr("anylocal._maps.rows._BLOCK", block)
    attention = AttentionMap.from_qk(*operands(heads=2), mask=BOOL, causal=True)
    expected = attention.tensor().mean(1)
    torch.testing.assert_close(attention.head_mean(queries), expected if queries is None else expected[:, queries])


def test_head_mean_of_half_weights_is_float32() -> None:
    """Averages are not rounded to the precision of the weights."""
    w = kernel(*operands()).bfloat16()
    assert_same(AttentionMap.from_weights(w).head_mean(), w.double().mean(1))
    assert torch.float32 == AttentionMap.from_weights(w).head_mean().dtype


def test_map_describes_itself() -> None:
    """Shape, device, axes and the batch of images × windows are there without computing."""
    q, k = operands()
    attention = AttentionMap.from_qk(q, k, name="blocks.3.attn", windows=2, forward=1, mixed=q, fused=True)
    assert ((B, H, Q, K), 4, torch.device("cpu"), B) == (
        attention.shape,
        attention.ndim,
        attention.device,
        len(attention),
    )
    assert (1, 2, 1, True) == (attention.images, attention.windows, attention.forward, attention.fused)
    assert (Axis(Q), Axis(K)) == (attention.queries, attention.keys)
    assert attention.mixed is q
    assert "AttentionMap('blocks.3.attn', images=1, windows=2, heads=4, queries=7, keys=9, fused)" == repr(attention)


def test_axes_are_kept() -> None:
    """Axes that fit are kept."""
    queries, keys = Patches(grid=(2, 3)), Tokens([["x"] * K] * B)
    attention = AttentionMap.from_qk(*operands(), queries=queries, keys=keys)
    assert attention.queries is queries
    assert attention.keys is keys


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"queries": Axis(8)}, r"'m' has 7 query positions, and Axis\(8\) has 8"),
        ({"keys": Patches(grid=(3, 3))}, "'m' has 9 key positions, and Patches.* has 10"),
        ({"keys": Tokens([["x"] * K] * 3)}, "'m' has a batch of 2, and its key tokens are 3 texts"),
        ({"windows": 3}, "batch of 2, which is not images × 3 windows"),
        ({"windows": 0}, "not images × 0 windows"),
    ],
)
def test_axes_that_do_not_fit_are_refused(options: Any, match: str) -> None:
    """An axis, a batch of texts or windows of another size raise, naming the layer."""
    with pytest.raises(ShapeError, match=match):
        AttentionMap.from_qk(*operands(), name="m", **options)


@pytest.mark.parametrize(
    ("q", "k"),
    [
        ((2, 4, 7, 8), (2, 4, 9, 6)),
        ((2, 4, 7, 8), (2, 3, 9, 8)),
        ((2, 4, 7, 8), (2, 8, 9, 8)),
        ((2, 4, 7, 8), (3, 4, 9, 8)),
        ((1, 4, 7, 8), (2, 4, 9, 8)),
        ((2, 4, 7, 8), (2, 0, 9, 8)),
        ((2, 4, 7, 0), (2, 4, 9, 0)),
        ((8,), (9, 8)),
        ((1, 2, 4, 7, 8), (2, 4, 9, 8)),
    ],
)
def test_operands_that_do_not_fit_are_refused(q: tuple[int, ...], k: tuple[int, ...]) -> None:
    """Features, heads, batches or dimensions that do not fit raise when the map is made."""
    with pytest.raises(ShapeError, match=r"has shape|make no attention map"):
        AttentionMap.from_qk(torch.ones(q), torch.ones(k))


@pytest.mark.parametrize("shape", [(3, K), (B, 2, Q, K), (B, H, Q, K + 1), (1, B, H, Q, K), (1,) * 5, (4, 1, 1, 1)])
def test_masks_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    """A mask that does not broadcast raises when the map is made, not when it is read."""
    with pytest.raises(ShapeError, match=r"does not broadcast to the map's shape \(2, 4, 7, 9\)"):
        AttentionMap.from_qk(*operands(), mask=torch.zeros(shape))


def test_masks_of_integers_are_refused() -> None:
    """An integer mask is ambiguous, so it is refused."""
    with pytest.raises(OptionError, match=r"mask is torch\.int64; expected bool"):
        AttentionMap.from_qk(*operands(), mask=torch.ones(Q, K, dtype=torch.long))


def test_integer_weights_are_refused() -> None:
    """Weights are floating point; the message says how to convert them."""
    with pytest.raises(OptionError, match=r"weights is torch\.int64.*\.float\(\)"):
        AttentionMap.from_weights(np.eye(2, dtype=np.int64))
