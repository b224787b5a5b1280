"""Maps of flex attention: exact for the functions that users write, computed for the rows that are asked for."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("packaging")

from torch import nn  # noqa: E402  # torch may not be there
from torch.nn.attention.flex_attention import (  # noqa: E402  # as above
    BlockMask,
    create_block_mask,
    flex_attention,
)
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402  # as above

from anylocal._maps.modified import ModifiedRows  # noqa: E402  # as above
from anylocal.errors import ChangedInPlaceWarning, UnsupportedError  # noqa: E402  # as above

from .of_torch import OfTorch  # noqa: E402  # as above

if TYPE_CHECKING:
    from collections.abc import Callable

# torch says so of the very first 3.13, of eager flex attention, and of an argument that is replaced by another.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0"),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:return_lse is deprecated"),
]

BATCH, HEADS, LENGTH, WIDTH = 2, 4, 9, 8
POSITIONS = torch.arange(LENGTH)
DISTANCES = POSITIONS[:, None] - POSITIONS


class Flex(nn.Module):
    """Flex attention with any options."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Any, k: Any) -> Any:
        return flex_attention(q, k, k, **self.options)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def drawn(heads: int = HEADS) -> Any:
    return torch.randn(BATCH, heads, LENGTH, WIDTH) * 2


def scores(q: Any, k: Any, scale: float = WIDTH**-0.5) -> Any:
    return q.double() @ k.double().repeat_interleave(q.shape[1] // k.shape[1], 1).mT * scale


def close(found: Any, wanted: Any) -> None:
    assert not found.requires_grad
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-6)


def causal(_b: Any, _h: Any, i: Any, j: Any) -> Any:
    return i >= j


CAUSAL = DISTANCES >= 0
SLOPES = torch.tensor([0.5, 0.25, 0.125, 1.0])
BIAS = torch.linspace(-3, 3, HEADS * 2 * LENGTH).reshape(HEADS, 2 * LENGTH).sin() * 2
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 1, 1, 3, 3]])


def alibi(score: Any, _b: Any, h: Any, i: Any, j: Any) -> Any:
    return score - SLOPES[h] * (i - j)


def soft_capped(score: Any, *_: Any) -> Any:
    return 2.0 * torch.tanh(score / 2.0)


def relative(score: Any, _b: Any, h: Any, i: Any, j: Any) -> Any:
    return score + BIAS[h][i - j + LENGTH]


def all_at_once(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
    return soft_capped(alibi(score, b, h, i, j)) + torch.where(DOCUMENTS[b, i] == DOCUMENTS[b, j], 0.0, -1.0)


def same_document(b: Any, _h: Any, i: Any, j: Any) -> Any:
    return DOCUMENTS[b, i] == DOCUMENTS[b, j]


SAME = DOCUMENTS[:, None, :, None] == DOCUMENTS[:, None, None, :]
OF_ALIBI = SLOPES.double()[:, None, None] * DISTANCES

MODS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "alibi": (alibi, lambda s: s - OF_ALIBI),
    "soft cap": (soft_capped, lambda s: 2 * torch.tanh(s / 2)),
    "relative bias": (relative, lambda s: s + BIAS.double()[:, DISTANCES + LENGTH]),
    "all at once": (all_at_once, lambda s: 2 * torch.tanh((s - OF_ALIBI) / 2) - (~SAME).double()),
    "partial": (functools.partial(soft_capped), lambda s: 2 * torch.tanh(s / 2)),
}


@pytest.mark.parametrize(("mod", "wanted"), [pytest.param(*value, id=key) for key, value in MODS.items()])
def test_functions_of_the_score(mod: Any, wanted: Any) -> None:
    """The map is the softmax of what the function makes of each score, and the output has the same bits."""
    model, q, k = Flex(score_mod=mod), drawn(), drawn()
    before = model(q, k)
    with OfTorch().capture_attention(model) as maps:
        after = model(q, k)
    assert torch.equal(before, after)
    (attention,) = maps
    assert attention.fused
    close(attention.tensor(), wanted(scores(q, k)).softmax(-1))
    close(attention[1, 2:, [3, 1]], wanted(scores(q, k)).softmax(-1)[1, 2:, [3, 1]])


MASKS = {
    "causal": ((causal, None, None), CAUSAL),
    "documents": ((same_document, BATCH, None), SAME),
    "heads": ((lambda _b, h, i, j: (i + j) % (h + 1) == 0, None, HEADS), None),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("block", [4, 128])
def test_block_masks(name: str, block: int) -> None:
    """Keys that the mask leaves out have no weight, and a row without any key is 0."""
    (function, batch, heads), wanted = MASKS[name]
    if wanted is None:
        wanted = torch.stack([(POSITIONS[:, None] + POSITIONS) % (h + 1) == 0 for h in range(HEADS)])
    mask = create_block_mask(function, batch, heads, LENGTH, LENGTH, device="cpu", BLOCK_SIZE=block)
    model, q, k = Flex(block_mask=mask), drawn(), drawn()
    with OfTorch().capture_attention(model) as maps:
        model(q, k)
    close(maps[0].tensor(), scores(q, k).masked_fill(~wanted, -torch.inf).softmax(-1))


def test_a_row_without_keys() -> None:
    """It is 0, as in the kernel."""
    mask = create_block_mask(lambda _b, _h, i, j: (i >= j) & (i != 3), None, None, LENGTH, LENGTH, device="cpu")
    model = Flex(block_mask=mask, score_mod=soft_capped)
    with OfTorch().capture_attention(model) as maps:
        model(drawn(), drawn())
    assert maps[0][:, :, 3].abs().max() == 0
    close(maps[0][:, :, 4].sum(-1), torch.ones(BATCH, HEADS, dtype=torch.float64))


@pytest.mark.parametrize("options", [{"return_lse": True}, {"scale": 0.3}, {"enable_gqa": True}], ids=str)
def test_other_options(options: dict[str, Any]) -> None:
    """Statistics that are returned change nothing; a scale and grouped heads are those of the call."""
    model, q, k = Flex(score_mod=alibi, **options), drawn(), drawn(2 if "enable_gqa" in options else HEADS)
    with OfTorch().capture_attention(model) as maps:
        model(q, k)
    close(maps[0].tensor(), (scores(q, k, options.get("scale", WIDTH**-0.5)) - OF_ALIBI).softmax(-1))


class Own(nn.Module):
    """A function of the score within the forward, which uses a parameter and an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(HEADS, 2 * LENGTH))

    def forward(self, q: Any, k: Any, factor: Any) -> Any:
        def score_mod(score: Any, _b: Any, h: Any, i: Any, j: Any) -> Any:
            return factor[h] * score + self.bias[h, i - j + LENGTH]

        mask = create_block_mask(causal, None, None, LENGTH, LENGTH, device="cpu")
        return flex_attention(q, k, k, score_mod, mask)

    def expected(self, q: Any, k: Any, factor: Any) -> Any:
        with torch.no_grad():
            made = factor.double()[:, None, None] * scores(q, k) + self.bias.double()[:, DISTANCES + LENGTH]
            return made.masked_fill(~CAUSAL, -torch.inf).softmax(-1)


FACTOR = torch.tensor([0.5, 1.0, 2.0, -1.0])


@pytest.mark.parametrize("backend", [None, "eager", "aot_eager"])
def test_compiled(backend: str | None) -> None:
    """In one graph, each call has the map of its own operands, and what the function captured."""
    model, q, k = Own(), drawn(), drawn()
    run: Any = model if backend is None else torch.compile(model, backend=backend, fullgraph=True)
    with OfTorch().capture_attention(model) as maps, torch.no_grad():
        run(q, k, FACTOR)
        run(q * 2, k, -FACTOR)
    assert len(maps) == 2
    close(maps[0].tensor(), model.expected(q, k, FACTOR))
    close(maps[1].tensor(), model.expected(q * 2, k, -FACTOR))


compiled_flex = torch.compile(flex_attention, backend="eager")


class Compiled(nn.Module):
    def forward(self, q: Any, k: Any) -> Any:
        return compiled_flex(q, k, k, soft_capped)


def test_a_compiled_kernel() -> None:
    """The kernel is known where it is compiled by itself, as its documentation says."""
    model, q, k = Compiled(), drawn(), drawn()
    with OfTorch().capture_attention(model) as maps:
        model(q, k)
    close(maps[0].tensor(), (2 * torch.tanh(scores(q, k) / 2)).softmax(-1))


class Table:
    def __init__(self) -> None:
        self.bias = torch.randn(HEADS)

    def score(self, score: Any, _b: Any, h: Any, _i: Any, _j: Any) -> Any:
        return score * self.bias[h]


class TestChanges:
    """What the functions depend on may change after the call, which is reported."""

    def test_a_parameter(self) -> None:
        """A parameter that is trained meanwhile."""
        model, q = Own(), drawn()
        with OfTorch().capture_attention(model) as maps, torch.no_grad():
            model(q, q, FACTOR)
        with torch.no_grad():
            model.bias.mul_(2)
        with pytest.warns(ChangedInPlaceWarning, match="What score_mod or mask_mod"):
            maps[0][0, 0, 0]

    def test_another_parameter(self) -> None:
        """A parameter that is replaced."""
        model, q = Own(), drawn()
        with OfTorch().capture_attention(model) as maps, torch.no_grad():
            model(q, q, FACTOR)
        attention = maps[0]
        attention.tensor()
        model.bias = nn.Parameter(model.bias.detach().clone())
        with pytest.warns(ChangedInPlaceWarning, match="What score_mod or mask_mod"):
            attention.tensor()

    def test_an_object(self) -> None:
        """A tensor of an object that can be called."""
        mod = Table()
        model = Flex(score_mod=mod.score)
        with OfTorch().capture_attention(model) as maps:
            model(drawn(), drawn())
        mod.bias.add_(1)
        with pytest.warns(ChangedInPlaceWarning, match="What score_mod or mask_mod"):
            maps[0][0, 0, 0]

    def test_a_number(self) -> None:
        """A number of the function's surroundings."""
        cap = 2.0

        def score_mod(score: Any, *_: Any) -> Any:
            return cap * torch.tanh(score / cap)

        model = Flex(score_mod=score_mod)
        with OfTorch().capture_attention(model) as maps:
            model(drawn(), drawn())
        cap = 3.0
        with pytest.warns(ChangedInPlaceWarning, match="What score_mod or mask_mod"):
            maps[0][0, 0, 0]

    def test_a_table_of_documents(self) -> None:
        """The table that a mask looks up."""
        table = DOCUMENTS.clone()
        mask = create_block_mask(
            lambda b, _h, i, j: table[b, i] == table[b, j], BATCH, None, LENGTH, LENGTH, device="cpu"
        )
        model = Flex(block_mask=mask)
        with OfTorch().capture_attention(model) as maps:
            model(drawn(), drawn())
        table.zero_()
        with pytest.warns(ChangedInPlaceWarning, match="What score_mod or mask_mod"):
            maps[0][0, 0, 0]


@pytest.mark.parametrize("listed", [0, 3])
def test_lists_of_blocks_without_a_function(listed: int) -> None:
    """Eager code ignores a list of blocks, and compiled code follows it: where it matters, it is refused."""
    count = torch.full((1, 1, 3), listed, dtype=torch.int32)
    mask = BlockMask.from_kv_blocks(count, torch.arange(3, dtype=torch.int32).expand(1, 1, 3, 3), BLOCK_SIZE=4)
    model, q, k = Flex(block_mask=mask), torch.randn(1, 2, 12, WIDTH), torch.randn(1, 2, 12, WIDTH)
    with OfTorch().capture_attention(model) as maps:
        model(q, k)
    if listed:
        close(maps[0].tensor(), scores(q, k).softmax(-1))
    else:
        with pytest.raises(UnsupportedError, match="lists other blocks than its mask_mod selects"):
            maps[0].tensor()


class NoMap(TorchDispatchMode):
    """Refuses tensors of the size of a map."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            assert not isinstance(tensor, torch.Tensor) or tensor.numel() < 400 * 400, function
        return made


def test_only_the_rows_that_are_asked_for() -> None:
    """Two rows of a long map take no memory of the size of a map."""
    mask = create_block_mask(causal, None, None, 400, 400, device="cpu")
    model, q = Flex(block_mask=mask, score_mod=soft_capped), torch.randn(1, 2, 400, WIDTH)
    with OfTorch().capture_attention(model) as maps:
        model(q, q)
    attention = maps[0]
    with NoMap():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        rows = attention[0, :, [7, 399]]
    made = (2 * torch.tanh(scores(q, q) / 2)).masked_fill(~torch.ones(400, 400).bool().tril(), -torch.inf).softmax(-1)
    close(rows, made[0][:, [7, 399]])


def test_a_column_makes_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column is read in blocks of rows, from functions of the positions too."""
    monkeypatch.setattr("anylocal._maps.rows._BLOCK", 2 * 30 * 400)
    mask = create_block_mask(causal, None, None, 400, 400, device="cpu")
    model, q = Flex(block_mask=mask, score_mod=soft_capped), torch.randn(1, 2, 400, WIDTH)
    with OfTorch().capture_attention(model) as maps:
        model(q, q)
    with NoMap():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        column = maps[0][..., 7]
    made = (2 * torch.tanh(scores(q, q) / 2)).masked_fill(~torch.ones(400, 400).bool().tril(), -torch.inf).softmax(-1)
    close(column, made[..., 7])


@pytest.mark.parametrize("keep", ["clone", "cpu"])
def test_how_it_is_kept(keep: str) -> None:
    """A copy of query and key outlives changes of them."""
    model, q, k = Flex(score_mod=alibi), drawn(), drawn()
    wanted = (scores(q, k) - OF_ALIBI).softmax(-1)
    with OfTorch().capture_attention(model, keep=keep) as maps:
        model(q, k)
    q.zero_()
    close(maps[0].cpu().tensor(), wanted)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients(masked: bool) -> None:
    """The gradient of a weight leads back to the query, through the function of the score."""
    q, k = drawn().requires_grad_(), drawn()
    mask = create_block_mask(causal, None, None, LENGTH, LENGTH, device="cpu") if masked else None
    rows = ModifiedRows(q, k, None, lambda score, *_: score.tanh(), mask)
    hidden = ~CAUSAL & torch.tensor(masked)
    wanted = scores(q, k).tanh().masked_fill(hidden, -torch.inf).softmax(-1)
    (found,) = torch.autograd.grad(rows.take(slice(None), slice(None), slice(None))[:, :, 3, 0].sum(), q)
    torch.testing.assert_close(found, torch.autograd.grad(wanted[:, :, 3, 0].sum(), q)[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])  # noqa: S301  # its own
def test_copies(again: Any) -> None:
    """A copy has the same weights."""
    model = Flex(score_mod=lambda score, *_: score * 2)
    with OfTorch().capture_attention(model) as maps:
        model(drawn(), drawn())
    torch.testing.assert_close(again(maps[0]).tensor(), maps[0].tensor(), rtol=0, atol=0)
