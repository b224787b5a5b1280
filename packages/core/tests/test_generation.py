"""The steps of a generation, joined to one map for each layer."""

from __future__ import annotations

import copy
import string
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from anylocal.attention import AttentionMap, AttentionMaps, Axis, Tokens  # noqa: E402  # torch may not be there
from anylocal.errors import ChoiceError, StateError, UnsupportedError  # noqa: E402  # as above

from .sizes import largest  # noqa: E402  # as above

N = 12
TEXTS = [[*string.ascii_lowercase[:N]], [*string.ascii_uppercase[:N]]]
STEPS = [(0, 5), *((i, i + 1) for i in range(5, N))]
WHOLE = Tokens(TEXTS)


def operands(length: int = N) -> Any:
    make = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, length, 4, generator=make, dtype=torch.float64) for heads in (4, 2)]


def text(start: int, stop: int, free: int = 0) -> Tokens:
    padding = [[False] * (stop - start) + [True] * free] * 2
    return Tokens([[*row[start:stop], *[""] * free] for row in TEXTS], start=start, padding=padding)


def step(number: int, start: int, stop: int, *, window: int = N, room: int = 0, **labels: Any) -> AttentionMap:
    """Return the map of a step, as a cache holds its keys: the last ones of a window, or with free places."""
    q, k = operands()
    first = max(0, start - window + 1)
    free = max(0, room - stop)
    place = torch.arange(N)
    seen = (place <= place[:, None]) & (place > place[:, None] - window)
    mask = torch.nn.functional.pad(seen[start:stop, first:stop], (0, free))
    k = torch.nn.functional.pad(k[:, :, first:stop], (0, 0, 0, free), value=7.0)
    known: dict[str, Any] = {
        "queries": text(start, stop),
        "keys": text(first, stop, free),
        "name": "attn",
        "forward": number,
    }
    return AttentionMap.from_qk(q[:, :, start:stop], k, mask=mask, **(known | labels))


def generated(spans: Any = STEPS, **options: Any) -> AttentionMap:
    maps = AttentionMaps([step(number, *span, **options) for number, span in enumerate(spans)]).generation()
    assert len(maps) == 1
    return maps[0]


def reference(window: int = N) -> Any:
    q, k = operands()
    place = torch.arange(N)
    hidden = (place > place[:, None]) | (place <= place[:, None] - window)
    scores = q @ k.repeat_interleave(2, 1).mT / 2
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


CACHES: dict[str, dict[str, Any]] = {"growing": {}, "window": {"window": 4}, "static": {"room": 20}}
GUESSES = [(0, 5), (5, 9), (9, 10), (7, 10), (8, N)]


ANEW = [(0, stop) for stop in range(5, N + 1)]


@pytest.mark.parametrize("spans", [STEPS, GUESSES, ANEW], ids=["one by one", "guesses taken back", "without a cache"])
@pytest.mark.parametrize("cache", CACHES)
def test_the_joined_map_is_that_of_the_whole_text(cache: str, spans: Any) -> None:
    """The kind of cache and the way in which the text was read make no difference."""
    joined = generated(spans, **CACHES[cache])
    torch.testing.assert_close(joined.tensor(), reference(CACHES[cache].get("window", N)), atol=1e-14, rtol=0)
    assert joined.queries == joined.keys == WHOLE


@pytest.mark.parametrize(
    "index", [(0, 1, [11, 3, 4]), (..., 2), (1, [0, 3], slice(2, 9, 3)), (..., slice(3, 5))], ids=str
)
def test_any_index_reads_the_same_values(index: Any) -> None:
    """Rows may be picked in any order and of several steps, and columns go through all of them."""
    torch.testing.assert_close(generated()[index], reference()[index], atol=1e-14, rtol=0)


def test_only_the_rows_asked_for_are_computed() -> None:
    """Neither joining nor reading a row makes anything of the size of the map; a column is read in blocks."""
    n = 600
    q, k = torch.ones(1, 2, n, 4).bfloat16(), torch.ones(1, 2, n, 4).bfloat16()
    maps = AttentionMaps(
        AttentionMap.from_qk(q[:, :, a:b], k[:, :, :b], name="attn", forward=number)
        for number, (a, b) in enumerate([(0, 300), *((i, i + 1) for i in range(300, n))])
    )
    assert largest(lambda: maps.generation()[0][..., -1, :]) < n * n / 10
    assert maps.generation()[0][0, 0, -1].sum() == pytest.approx(1)


def test_statistics_and_rollout_take_it_as_any_map() -> None:
    """It has the shape, the labels and the forward pass of one."""
    joined = generated()
    expected = AttentionMap.from_weights(reference(), queries=WHOLE, keys=WHOLE)
    torch.testing.assert_close(AttentionMaps([joined]).rollout(), AttentionMaps([expected]).rollout())
    torch.testing.assert_close(joined.sum(-2), expected.sum(-2))


def test_copies_hold_the_same_values() -> None:
    """Copies read as the map itself."""
    joined = generated()
    for other in (joined.cpu(), copy.deepcopy(joined)):
        torch.testing.assert_close(other.tensor(), joined.tensor())


def test_a_text_in_the_cache_from_before_has_keys_and_no_rows() -> None:
    """The queries start where the capture began to see the text read."""
    joined = generated([(6, 9), (9, N)])
    torch.testing.assert_close(joined.tensor(), reference()[:, :, 6:])
    assert (joined.queries, joined.keys) == (text(6, N), WHOLE)


def test_cross_attention_keeps_the_keys_of_the_other_text() -> None:
    """Each step has the same keys, and its own rows."""
    q, k = operands()
    source = Tokens([["x", "y", "z"]])
    maps = AttentionMaps(
        AttentionMap.from_qk(q[:, :, a:b], k[:, :, :3], queries=text(a, b), keys=source, name=name, forward=number)
        if name == "cross"
        else step(number, a, b)
        for number, (a, b) in enumerate(STEPS)
        for name in ("attn", "cross")
    ).generation()
    assert maps.names == ["attn", "cross"]
    assert (maps[1].queries, maps[1].keys) == (WHOLE, source)
    torch.testing.assert_close(maps[1].tensor(), AttentionMap.from_qk(q, k[:, :, :3]).tensor())


def test_layers_of_the_first_forward_pass_only_stay() -> None:
    """An encoder and a vision tower run once, and a layer of the tower may run for each window."""
    tower = [AttentionMap.from_weights(torch.eye(4), name="tower", forward=3) for _ in range(2)]
    maps = AttentionMaps([*tower, *(step(number + 3, *span) for number, span in enumerate(STEPS))]).generation()
    assert [item.name for item in maps] == ["tower", "tower", "attn"]
    assert {item.forward for item in maps} == {3}


def test_a_layer_that_runs_twice_in_each_step_has_two_maps() -> None:
    """Layers that share a module are told apart by their order."""
    maps = [step(number, *span) for number, span in enumerate(STEPS) for _ in range(2)]
    assert [item.shape[2:] for item in AttentionMaps(maps).generation()] == [(N, N)] * 2


def test_words_go_on_through_the_windows() -> None:
    """Where no cache holds the whole text, the prompt has the words that it was split into, and so has the answer."""
    pieces = [Tokens(["a", "##b", "c"], words=[0, 0, 1], spellings=["ab", "c"])]
    pieces.append(Tokens(["d"], start=3, words=[0], spellings=["d"]))
    window = Tokens(["c", "d"], start=2, words=[0, 1], spellings=["c", "d"])
    made = [
        AttentionMap.from_weights(torch.eye(3), queries=pieces[0], keys=pieces[0]),
        AttentionMap.from_weights(torch.tensor([[0.0, 1.0]]), queries=pieces[1], keys=window, forward=1),
    ]
    keys = AttentionMaps(made).generation()[0].keys
    assert isinstance(keys, Tokens)
    assert keys.words() == [[0, 1], [2], [3]]
    assert [keys.spelling(word) for word in keys.words()] == ["ab", "c", "d"]


def test_what_a_layer_made_of_its_map_is_joined_too() -> None:
    """The mixed maps of the steps make one."""
    maps = [step(number, *span) for number, span in enumerate(STEPS)]
    mixed = [item.labelled(mixed=item.tensor() * 2) for item in maps]
    joined = AttentionMaps(mixed).generation()[0].mixed
    assert joined is not None
    torch.testing.assert_close(joined, reference() * 2)


def test_unknown_tokens_are_joined_by_the_number_of_keys() -> None:
    """A single text whose keys grow with each step needs no names."""
    q, k = operands()
    made = AttentionMaps(
        AttentionMap.from_qk(q[:1, :, a:b], k[:1, :, :b], forward=number) for number, (a, b) in enumerate(STEPS[1:])
    ).generation()[0]
    assert made.shape == (1, 4, N - 5, N)
    assert made.keys == Axis(N)


def swapped(item: AttentionMap) -> AttentionMap:
    return item.labelled(queries=item.queries.take([1, 0]), keys=item.keys.take([1, 0]))  # type: ignore[attr-defined]


def unknown(item: AttentionMap) -> AttentionMap:
    return item.labelled(queries=None, keys=None)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "beams": ([step(0, 0, 5), swapped(step(1, 5, 6))], UnsupportedError, "beams have changed places"),
    "beams, unknown": ([unknown(step(0, 0, 5)), unknown(step(1, 5, 6))], UnsupportedError, "are not known"),
    "beams across": (
        [step(n, a, b, room=N, keys=Axis(N)) for n, (a, b) in enumerate(STEPS)],
        UnsupportedError,
        "only self-attention",
    ),
    "a gap": ([step(0, 0, 5), step(1, 6, 7)], UnsupportedError, "missing"),
    "two": ([step(0, 0, 5), step(1, 5, 6), step(2, 0, 5)], ChoiceError, "several generations"),
    "ranks": ([step(0, 0, 5, rank=0), step(1, 5, 6, rank=1)], ChoiceError, "several ranks"),
    "nothing": ([], StateError, "at least one map"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_joined_is_refused(case: str) -> None:
    """The message says why."""
    maps, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        AttentionMaps(maps).generation()
