"""Statistics of a map, compared with their definitions written out as loops in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anylocal.attention import AttentionMap, Axis, Patches, PlacedPatches, Tokens, distance, entropy, prefix_mass
from anylocal.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

PATCHES = Patches(grid=(3, 4), prefix=("cls", "reg"), image_size=(48, 80))
# Keys pooled to another grid of the same image, with one prefix token less.
POOLED = Patches(grid=(2, 3), prefix=("cls",), image_size=(48, 80))
BARE = Patches(grid=(3, 4), prefix=(), image_size=(48, 80))
UNSIZED = Patches(grid=(3, 4), prefix=("cls",))
UNSIZED_POOLED = Patches(grid=(2, 3), prefix=())
# Windows of 2 x 2 in a grid of 3 x 4, shifted by one: they go round the image, and what hangs over is padding.
WINDOWS = PlacedPatches(
    grid=(3, 4), places=[[5, 6, 9, 10], [7, 4, 11, 8], [1, 2, -1, -1], [3, 0, -1, -1]], image_size=(48, 80)
)
# The same windows with prefix tokens of their own, whose keys are 2 x 1 pooled patches.
POOLED_WINDOWS = PlacedPatches(
    grid=(3, 2), places=[[2, 4], [3, 5], [0, -1], [1, -1]], prefix=("cls", "reg"), image_size=(48, 80)
)
# Two images whose patches were put in another order each.
SHUFFLED = PlacedPatches(grid=(2, 2), places=[[3, 0, 1, 2], [1, 2, 3, -1]], prefix=("cls",), image_size=(32, 48))
TEXTS = Tokens([["a", "b", "c"], ["d", "[PAD]", "[PAD]"]], padding=[[0, 0, 0], [0, 1, 1]])

CASES: dict[str, tuple[Axis, Axis, int]] = {
    "prefix": (PATCHES, PATCHES, 1),
    "rectangle": (PATCHES, BARE, 1),
    "pooled keys": (PATCHES, POOLED, 1),
    "no image size": (UNSIZED, UNSIZED, 1),
    "pooled keys, no image size": (UNSIZED, UNSIZED_POOLED, 1),
    "one image size": (UNSIZED, POOLED, 1),
    "windows": (WINDOWS, WINDOWS, 4),
    "windows of pooled keys": (WINDOWS, POOLED_WINDOWS, 4),
    "windows of the whole image": (WINDOWS, Patches(grid=(3, 4), prefix=()), 1),
    "other places in each image": (SHUFFLED, SHUFFLED, 1),
}
STATISTICS = [entropy, distance, prefix_mass]


def make(queries: Axis, keys: Axis, windows: int = 1, *, seed: int = 0, heads: int = 3) -> AttentionMap:
    """Return a map far from uniform, of two images."""
    generator = torch.Generator().manual_seed(seed)
    batch = max(2 * windows, *(getattr(axis, "windows", 1) for axis in (queries, keys)))
    q, k = (torch.randn(batch, heads, len(axis), 4, generator=generator) for axis in (queries, keys))
    return AttentionMap.from_qk(3 * q, k, queries=queries, keys=keys, windows=windows, name="blocks.3.attn")


def place(axis: Patches | PlacedPatches, position: int, sample: int) -> tuple[int, int] | None:
    return axis.cell(position, sample) if isinstance(axis, PlacedPatches) else axis.cell(position)


def centre(axis: Any, cell: tuple[int, int], extent: tuple[int, int]) -> tuple[float, float]:
    return (cell[0] + 0.5) * extent[0] / axis.grid[0], (cell[1] + 0.5) * extent[1] / axis.grid[1]


def by_image(attention: AttentionMap, value: Callable[[int, np.ndarray[Any, Any], int], Any]) -> np.ndarray[Any, Any]:
    """Average the values of the queries, one by one, without None: (image, head, ...)."""
    weights = attention.numpy().astype(np.float64)
    result = []
    for image in range(attention.images):
        samples = range(image * attention.windows, (image + 1) * attention.windows)
        for head in range(weights.shape[1]):
            values = [value(s, weights[s, head, q], q) for s in samples for q in range(weights.shape[2])]
            result.append(np.mean([item for item in values if item is not None], axis=0))
    return np.reshape(result, (attention.images, weights.shape[1], *np.shape(result)[1:]))


def dense_entropy(attention: AttentionMap) -> np.ndarray[Any, Any]:
    def value(sample: int, row: np.ndarray[Any, Any], query: int) -> float | None:
        axis: Any = attention.queries
        if isinstance(axis, PlacedPatches) and axis.label(query, sample) == "padding":
            return None
        return -sum(float(p) * math.log(p) for p in row if p > 0)

    return by_image(attention, value)


def dense_distance(attention: AttentionMap) -> np.ndarray[Any, Any]:
    queries: Any = attention.queries
    keys: Any = attention.keys
    extent = queries.image_size or keys.image_size or queries.grid

    def value(sample: int, row: np.ndarray[Any, Any], query: int) -> float | None:
        here = place(queries, query, sample)
        if here is None:
            return None
        total = mass = 0.0
        for key, weight in enumerate(row):
            there = place(keys, key, sample)
            if there is not None:
                total += weight * math.dist(centre(queries, here, extent), centre(keys, there, extent))
                mass += weight
        return total / mass

    return by_image(attention, value)


def dense_prefix_mass(attention: AttentionMap) -> np.ndarray[Any, Any]:
    queries: Any = attention.queries
    keys: Any = attention.keys

    def value(sample: int, row: np.ndarray[Any, Any], query: int) -> Any:
        patches = hasattr(queries, "grid")
        return None if patches and place(queries, query, sample) is None else row[: len(keys.prefix)]

    return by_image(attention, value)


def assert_same(actual: torch.Tensor, expected: np.ndarray[Any, Any]) -> None:
    """Compare, and make sure that one number for all heads would not have passed."""
    assert tuple(actual.shape) == expected.shape
    assert expected.size == 0 or expected.std() > 1e-3 * expected.mean()
    np.testing.assert_allclose(actual.double(), expected, rtol=2e-5)


@pytest.mark.parametrize("block", [None, 1, 150])
@pytest.mark.parametrize(
    ("statistic", "definition"),
    [(entropy, dense_entropy), (distance, dense_distance), (prefix_mass, dense_prefix_mass)],
    ids=["entropy", "distance", "prefix mass"],
)
@pytest.mark.parametrize("case", CASES)
def test_statistics_are_their_definitions(
    monkeypatch: pytest.MonkeyPatch, case: str, statistic: Any, definition: Any, block: int | None
) -> None:
    """In one block of rows or in many, over all kinds of patches, a statistic equals its loop."""
    if block:
        monkeypatch.setattr("anylocal._maps.rows._BLOCK", block)
    attention = make(*CASES[case])
    assert_same(statistic(attention), definition(attention))


class TestEntropy:
    """How evenly a head spreads its attention."""

    @pytest.mark.parametrize("keys", [1, 2, 7])
    def test_of_keys_attended_alike(self, keys: int) -> None:
        """Equal attention to n keys has an entropy of ln n, with no NaN from the other keys' zeros."""
        weights = torch.zeros(5, 8)
        weights[:, :keys] = 1 / keys
        assert entropy(AttentionMap.from_weights(weights)).item() == pytest.approx(math.log(keys))

    def test_of_any_axis(self) -> None:
        """Entropy needs no known positions."""
        attention = make(Axis(5), Axis(7))
        assert_same(entropy(attention), dense_entropy(attention))

    def test_padding_does_not_count(self) -> None:
        """Rows of padding are left out of the mean of their text."""
        weights = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
        attention = AttentionMap.from_weights(weights, queries=TEXTS, keys=TEXTS)
        expected = torch.stack(
            [torch.special.entr(weights[0]).sum(-1).mean(-1), torch.special.entr(weights[1, :, 0]).sum(-1)]
        )
        torch.testing.assert_close(entropy(attention), expected)

    def test_one_text_for_the_batch(self) -> None:
        """The padding of a shared text is left out for every sample."""
        weights = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
        text = Tokens(["a", "b", "[PAD]"], padding=[0, 0, 1])
        attention = AttentionMap.from_weights(weights, queries=text, keys=text)
        torch.testing.assert_close(entropy(attention), torch.special.entr(weights[:, :, :2]).sum(-1).mean(-1))

    def test_padding_of_texts_in_windows(self) -> None:
        """Windows of a text have the padding of the text."""
        weights = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
        attention = AttentionMap.from_weights(weights, queries=TEXTS, keys=TEXTS, windows=2)
        rows = torch.special.entr(weights).sum(-1)[:, 0]
        torch.testing.assert_close(entropy(attention)[:, 0], torch.stack([rows[:2].mean(), rows[2:, 0].mean()]))


class TestDistance:
    """How far a head looks."""

    def test_by_hand(self) -> None:
        """The distance to the neighbour on the right, or below, is the patch's width, or height."""
        weights = torch.zeros(2, 4, 4)
        weights[0, [0, 1, 2, 3], [1, 0, 3, 2]] = 1
        weights[1, [0, 1, 2, 3], [2, 3, 0, 1]] = 1
        axis = Patches(grid=(2, 2), prefix=(), image_size=(32, 40))
        assert distance(AttentionMap.from_weights(weights, queries=axis, keys=axis)).tolist() == [[20, 16]]

    def test_prefix_is_left_out(self) -> None:
        """Attention to and from prefix tokens makes no difference."""
        attention = make(PATCHES, PATCHES)
        weights = attention.tensor().clone()
        weights[..., 1] += 5
        weights[..., :2, :] = weights[..., :2, :].flip(-1)
        changed = AttentionMap.from_weights(weights, queries=PATCHES, keys=PATCHES)
        torch.testing.assert_close(distance(changed), distance(attention))

    def test_query_without_patches(self) -> None:
        """A patch without attention to patches does not count; if there are only such, the result is NaN."""
        axis = Patches(grid=(1, 2), image_size=(16, 32))
        weights = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0.5, 0.5]]).repeat(2, 1, 1)
        weights[1, 2] = torch.tensor([1.0, 0, 0])
        found = distance(AttentionMap.from_weights(weights, queries=axis, keys=axis))
        assert found[0].tolist() == [8, pytest.approx(math.nan, nan_ok=True)]

    def test_gradients_flow(self) -> None:
        """Distance is differentiable, and a patch that does not count makes no gradient NaN."""
        axis = Patches(grid=(1, 2), image_size=(16, 32))
        weights = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0.5, 0.5]], requires_grad=True)
        (gradient,) = torch.autograd.grad(
            distance(AttentionMap.from_weights(weights, queries=axis, keys=axis)).sum(), weights
        )
        assert gradient.tolist() == [[0, 0, 0], [0, 0, 0], [0, 8, -8]]

    def test_nan_is_not_hidden(self) -> None:
        """NaN in a map is not skipped: the mean distance is NaN."""
        weights = torch.full((4, 4), 0.25)
        weights[2] = math.nan
        axis = Patches(grid=(2, 2), prefix=())
        assert distance(AttentionMap.from_weights(weights, queries=axis, keys=axis)).isnan().all()

    def test_windows_count_by_their_patches(self) -> None:
        """A window that is half padding counts half as much as a full one."""
        axis = PlacedPatches(grid=(1, 3), places=[[0, 1], [2, -1]], image_size=(10, 30))
        weights = torch.eye(2).flip(-1).repeat(2, 1, 1, 1)
        weights[1] = torch.eye(2)
        # Two patches look 10 pixels far, and the one beside the padding stays where it is.
        assert distance(AttentionMap.from_weights(weights, queries=axis, keys=axis, windows=2)).item() == pytest.approx(
            20 / 3
        )

    def test_class_attention_is_refused(self) -> None:
        """Queries that are not patches are refused, and the message names the layer and a remedy."""
        with pytest.raises(
            ShapeError, match=r"queries of .*'blocks\.3\.attn'.* are Axis\(1\), not patches .* leave this layer out, or"
        ):
            distance(make(Axis(1), PATCHES))

    def test_keys_that_are_no_patches_are_refused(self) -> None:
        """Keys that are tokens are refused."""
        with pytest.raises(ShapeError, match=r"keys of .* not patches of an image; .* with keys=Patches\(grid"):
            distance(make(PATCHES, TEXTS))

    def test_windows_without_places_are_refused(self) -> None:
        """Windows without a known place are refused."""
        with pytest.raises(ShapeError, match=r"the place of its queries is not known; .* queries=PlacedPatches\(grid"):
            distance(make(BARE, BARE, 4))

    def test_two_images_are_refused(self) -> None:
        """Queries and keys of different images are refused."""
        with pytest.raises(ShapeError, match=r"are patches of an image of \(48, 80\) and its keys of one of \(6, 8\)"):
            distance(make(PATCHES, Patches(grid=(3, 4), image_size=(6, 8))))


class TestPrefixMass:
    """How much attention prefix tokens get."""

    def test_prefix_queries_do_not_count(self) -> None:
        """Rows of prefix tokens make no difference."""
        attention = make(PATCHES, PATCHES)
        weights = attention.tensor().clone()
        weights[..., :2, :] = 7
        changed = AttentionMap.from_weights(weights, queries=PATCHES, keys=PATCHES)
        assert torch.equal(prefix_mass(changed), prefix_mass(attention))

    def test_queries_that_are_no_patches(self) -> None:
        """In class attention, or from words, all queries count."""
        attention = make(Axis(2), PATCHES)
        assert_same(prefix_mass(attention), dense_prefix_mass(attention))

    def test_without_prefix(self) -> None:
        """Without prefix tokens, the result is empty."""
        assert prefix_mass(make(PATCHES, BARE)).shape == (2, 3, 0)

    def test_keys_that_are_no_patches_are_refused(self) -> None:
        """Keys that are tokens are refused."""
        with pytest.raises(ShapeError, match=r"keys of .* not patches of an image"):
            prefix_mass(make(TEXTS, TEXTS))


class _NoMapSized(TorchDispatchMode):
    """Fails on any tensor with as many elements as a head's map."""

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.most = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            assert result.numel() < self.most, f"{func} made a tensor of shape {tuple(result.shape)}"
        return result


@pytest.mark.parametrize("statistic", STATISTICS)
def test_statistics_make_no_map(monkeypatch: pytest.MonkeyPatch, statistic: Any) -> None:
    """No statistic makes anything of size query x key, not even for one head."""
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", 2**14)
    axis = Patches(grid=(24, 24), image_size=(96, 96))
    q = torch.ones(1, 2, len(axis), 4)
    attention = AttentionMap.from_qk(q, q, queries=axis, keys=axis)
    with _NoMapSized(len(axis) ** 2 // 8):
        statistic(attention)


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_statistics_are_computed_in_float32_at_least(statistic: Any, given: torch.dtype, expected: torch.dtype) -> None:
    """Weights in half precision are summed in float32, those in double in double."""
    weights = make(PATCHES, PATCHES).tensor().to(given)
    narrow = AttentionMap.from_weights(weights, queries=PATCHES, keys=PATCHES)
    wide = AttentionMap.from_weights(weights.double(), queries=PATCHES, keys=PATCHES)
    assert statistic(narrow).dtype == expected
    torch.testing.assert_close(statistic(narrow).double(), statistic(wide), atol=0, rtol=1e-5)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_autocast_around_changes_nothing(statistic: Any) -> None:
    """Autocast does not reach the sums."""
    attention = make(PATCHES, PATCHES)
    expected = statistic(attention)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(expected, statistic(attention))
