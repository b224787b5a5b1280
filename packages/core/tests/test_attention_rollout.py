"""Attention rollout, compared with its definition written out in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anylocal.attention import AttentionMap, AttentionMaps, Patches, Tokens, rollout
from anylocal.errors import ChoiceError, OptionError, PositionError, ShapeError, StateError, UnsupportedError

B, H, N, D, L = 2, 3, 6, 8, 4


def layers(**options: Any) -> list[AttentionMap]:
    generator = torch.Generator().manual_seed(0)
    return [
        AttentionMap.from_qk(
            2 * torch.randn(B, H, N, D, generator=generator),
            2 * torch.randn(B, H, N, D, generator=generator),
            name=f"layers.{layer}",
            **options,
        )
        for layer in range(L)
    ]


def definition(maps: list[AttentionMap], residual: float) -> torch.Tensor:
    """Multiply whole matrices, first layer first, as in the paper."""
    joint = torch.eye(N, dtype=torch.float64).expand(B, N, N)
    for item in maps:
        mixed = (1 - residual) * item.tensor().double().mean(1) + residual * torch.eye(N, dtype=torch.float64)
        joint = (mixed / mixed.sum(-1, keepdim=True)) @ joint
    return joint


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("residual", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("block", [None, 1, B * H * N * 4])
def test_rollout_is_its_definition(monkeypatch: pytest.MonkeyPatch, residual: float, block: int | None) -> None:
    """In one block or in many, with any residual, rollout is the product of the layers."""
    if block:
        monkeypatch.setattr("anylocal._maps.rows._BLOCK", block)
    assert_same(rollout(layers(), residual=residual), definition(layers(), residual))


def test_layers_are_far_from_symmetric() -> None:
    """The order of the layers matters for these maps, so that a wrong one would show."""
    maps = layers()
    assert (definition(maps, 0.5) - definition(maps[::-1], 0.5)).abs().max() > 0.05


@pytest.mark.parametrize(
    "queries", [0, -1, [3], [5, 0, 5], slice(1, 4), slice(None, None, -1), torch.tensor([1, 2]), []], ids=str
)
def test_rollout_of_queries_is_its_rows(queries: Any) -> None:
    """Some queries give the same as those rows of the whole."""
    order = list(range(N))[queries] if isinstance(queries, slice) else queries
    assert_same(rollout(layers(), queries=queries), definition(layers(), 0.5)[:, order])


def test_rollout_normalises_rows() -> None:
    """Rows that do not sum to 1 (after a dropout, say) are normalised together with the residual."""
    weights = torch.rand(B, H, N, N, generator=torch.Generator().manual_seed(0))
    maps = [AttentionMap.from_weights(weights), AttentionMap.from_weights(weights / 2)]
    assert_same(rollout(maps), definition(maps, 0.5))


def test_rollout_of_a_row_without_keys() -> None:
    """A row that sees nothing keeps its residual alone, and is 0 without one, never NaN."""
    mask = torch.ones(N, N, dtype=torch.bool)
    mask[2] = False
    one = layers(mask=mask)[:1]
    assert torch.eye(N)[2].tolist() == rollout(one, queries=2)[0].tolist()
    assert [0.0] * N == rollout(one, queries=2, residual=0)[0].tolist()


def test_rollout_is_computed_in_double_if_a_layer_is() -> None:
    """The widest layer decides on the precision."""
    w = torch.eye(N).expand(1, 1, N, N)
    maps = [AttentionMap.from_weights(w), AttentionMap.from_weights(w.double())]
    assert [torch.float64, torch.float32] == [rollout(maps).dtype, rollout(maps[:1]).dtype]


def test_rollout_of_half_weights_is_float32() -> None:
    """bfloat16 weights are multiplied in float32."""
    maps = [AttentionMap.from_weights(item.tensor().bfloat16()) for item in layers()]
    assert_same(rollout(maps), definition(maps, 0.5))


def test_autocast_around_changes_nothing() -> None:
    """Autocast does not reach the products of the layers."""
    expected = rollout(layers())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(expected, rollout(layers()))


def test_gradients_flow_through_rollout() -> None:
    """Rollout is differentiable if the operands require gradients."""
    w = layers()[0].tensor().double().requires_grad_()
    maps = [AttentionMap.from_weights(w)] * 2
    grads = [torch.autograd.grad((result[:, 1] ** 2).sum(), w)[0] for result in (rollout(maps), definition(maps, 0.5))]
    torch.testing.assert_close(*grads)


def test_rollout_of_maps_is_the_function() -> None:
    """The method passes its options on."""
    maps = layers()
    expected = rollout(maps, residual=0.2, queries=[1, 2])
    assert torch.equal(expected, AttentionMaps(maps).rollout(residual=0.2, queries=[1, 2]))


def test_rollout_takes_any_iterable() -> None:
    """A generator of maps is accepted."""
    assert torch.equal(rollout(layers()), rollout(iter(layers())))


def test_rollout_takes_equal_axes() -> None:
    """Self-attention over patches has equal axes for query and key."""
    assert (B, N) == tuple(rollout(layers(queries=Patches((5, 1)), keys=Patches((5, 1))), queries=0).shape)


def test_rollout_refuses_several_forwards() -> None:
    """Maps of two forward passes are refused, and the message says where to choose."""
    with pytest.raises(ChoiceError, match=r"choose one of maps\.forwards"):
        rollout([*layers(), *layers(forward=1)])


def test_rollout_refuses_cross_attention() -> None:
    """A layer whose keys are not its queries is named, even if there are as many."""
    cross = AttentionMap.from_weights(torch.ones(B, H, N, N + 1), name="cross")
    with pytest.raises(ShapeError, match=r"'cross'.*is not self-attention"):
        rollout([*layers(), cross])
    texts = AttentionMap.from_weights(
        torch.ones(B, H, 2, 2), name="cross", queries=Tokens(["a", "b"]), keys=Tokens(["c", "d"])
    )
    with pytest.raises(ShapeError, match=r"'cross'.*is not self-attention"):
        rollout([texts])


@pytest.mark.parametrize("shape", [(B, H, N + 1, N + 1), (1, H, N, N)])
def test_rollout_refuses_other_lengths(shape: tuple[int, ...]) -> None:
    """A layer of another length or batch is named."""
    other = AttentionMap.from_weights(torch.ones(shape), name="stage2")
    with pytest.raises(ShapeError, match=r"'stage2'.*differ in batch or length"):
        rollout([other, *layers()])


def test_rollout_takes_other_numbers_of_heads() -> None:
    """Layers may differ in heads."""
    other = AttentionMap.from_weights(layers()[0].tensor()[:, :1])
    maps = [other, *layers()]
    assert_same(rollout(maps), definition(maps, 0.5))


def test_rollout_refuses_windows() -> None:
    """Windowed layers are refused: their positions differ from layer to layer."""
    with pytest.raises(UnsupportedError, match="attends within windows"):
        rollout(layers(windows=2))


def test_rollout_refuses_nothing() -> None:
    """Without maps, the message says what to do."""
    with pytest.raises(StateError, match="run the model"):
        rollout([])


@pytest.mark.parametrize("residual", [-0.1, 1.5, float("nan")])
def test_rollout_refuses_no_share(residual: float) -> None:
    """The residual is between 0 and 1."""
    with pytest.raises(OptionError, match="between 0 and 1"):
        rollout(layers(), residual=residual)


@pytest.mark.parametrize("queries", [N, [0, -N - 1], [[0, 1]], 1.5])
def test_rollout_refuses_other_queries(queries: Any) -> None:
    """Queries out of range, or not a list of positions, raise an IndexError."""
    with pytest.raises(PositionError):
        rollout(layers(), queries=queries)


def test_rollout_of_what_is_no_map_is_refused() -> None:
    """A tensor is refused, with its type."""
    with pytest.raises(OptionError, match="rollout takes maps and got Tensor"):
        rollout(torch.eye(2))
