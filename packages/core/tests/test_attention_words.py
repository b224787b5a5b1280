"""Tokens that are the parts of words, and maps of words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from anylocal.attention import AttentionMap, Axis, Tokens, merge_words
from anylocal.errors import ChoiceError, PositionError, ShapeError

PLAYING = Tokens(["[CLS]", "play", "##ing", "now"], special=[1, 0, 0, 0], words=[None, 0, 0, 1])


def weights(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).softmax(-1)


def test_tokens_of_a_word_stand_together() -> None:
    """Neighbours with the same index are a word; tokens outside words stand by themselves."""
    assert PLAYING.words() == [[0], [1, 2], [3]]
    assert Tokens(["a", "b", "c"], words=[None, None, 0]).words() == [[0], [1], [2]]


def test_without_words_each_token_is_one() -> None:
    """A text without known words is not merged."""
    assert Tokens(["a", "b"]).words() == [[0], [1]]


@pytest.mark.parametrize(
    ("tokens", "spelling"),
    [
        (["play", "##ing"], "playing"),
        (["\u2581pla", "ying"], "playing"),
        (["\u0120play", "ing"], "playing"),
        (["##ing"], "##ing"),
    ],
)
def test_words_are_spelled_by_their_tokens(tokens: list[str], spelling: str) -> None:
    """Marks of continuation and of a space are removed; a single token is unchanged."""
    axis = Tokens(tokens, words=[0] * len(tokens))
    assert axis.spelling(range(len(tokens))) == spelling


def test_spellings_are_taken_where_they_are_given() -> None:
    """Given spellings are used, as byte-level tokens are not readable."""
    axis = Tokens([["a", "b", "c"], ["d", "e", "f"]], words=[[0, 0, 1], [0, 1, 1]], spellings=[["x", "y"], ["z", "w"]])
    assert [axis.spelling([0, 1]), axis.spelling([1, 2], sample=1)] == ["x", "w"]


@pytest.mark.parametrize("words", [[0, 0], [[0, 0, 1, 1], [0, 0, 1, 1]]])
def test_words_fit_the_tokens(words: Any) -> None:
    """A number for each token of each text."""
    with pytest.raises(ShapeError, match="one for each token"):
        Tokens(["a", "b", "c", "d"], words=words)


@pytest.mark.parametrize("spellings", [["x"], [["x", "y"], ["x", "y"]]])
def test_spellings_fit_the_words(spellings: Any) -> None:
    """A text for each word of each text."""
    with pytest.raises(ShapeError, match="spellings has"):
        Tokens(["a", "b"], words=[0, 1], spellings=spellings)


# Sentences


PAIR = Tokens(["[CLS]", "play", "##ing", "he"], words=[None, 0, 0, 1], segments=[0, 0, 0, 1])


def test_tokens_of_a_text_without_sentences() -> None:
    """Without known sentences, no token belongs to one."""
    assert Tokens(["a", "b"]).segments() == [None, None]
    assert Tokens(["a", "b"], segments=[None, None]) == Tokens(["a", "b"])


def test_segments_are_told_text_by_text() -> None:
    """Each text has its own, also where some of them are taken, and one that differs makes another axis."""
    told: list[list[int | None]] = [[0, 1], [0, None]]
    axis = Tokens([["a", "b"], ["c", "d"]], segments=told)
    assert [axis.segments(text) for text in (0, 1, -1)] == [*told, told[1]]
    assert axis.take([1, 0]).segments(1) == [0, 1]
    assert axis != Tokens(axis.texts, segments=[[0, 1], [0, 1]])


def test_segments_fit_the_tokens() -> None:
    """A number for each token."""
    with pytest.raises(ShapeError, match=r"segments has \[3\] numbers and the tokens are 1 × 2"):
        Tokens(["a", "b"], segments=[0, 0, 1])


def test_merged_words_keep_their_sentence() -> None:
    """A word is of the sentence of its tokens."""
    merged = merge_words(AttentionMap.from_weights(weights(1, 1, 4, 4), queries=PAIR, keys=PAIR))
    assert isinstance(merged.keys, Tokens)
    assert merged.keys.segments() == [0, 0, 1]


def test_tokens_with_other_words_differ() -> None:
    """Two axes are equal if their words are, too."""
    assert Tokens(["a", "b"], words=[0, 0]) != Tokens(["a", "b"], words=[0, 1])
    assert Tokens(["a", "b"], words=[0, 0]) == Tokens(["a", "b"], words=[0, 0])


def test_some_of_the_texts_are_taken() -> None:
    """With their padding, words and spellings, in the order asked for."""
    words: list[list[int | None]] = [[0, 0], [0, None]]
    axis = Tokens([["a", "b"], ["c", "d"]], padding=[[0, 0], [0, 1]], words=words, spellings=[["ab"], ["c"]])
    taken = axis.take([1, 0, 1])
    assert taken.texts == (("c", "d"), ("a", "b"), ("c", "d"))
    assert [taken.words(sample) for sample in range(3)] == [[[0], [1]], [[0, 1]], [[0], [1]]]
    assert taken.is_padding(2).tolist() == [False, True]
    assert taken.spelling([0, 1], sample=1) == "ab"


def test_columns_are_summed_and_rows_averaged() -> None:
    """The merged map is that of the definition, written out."""
    attention = AttentionMap.from_weights(weights(1, 2, 4, 4), queries=PLAYING, keys=PLAYING)
    whole = attention.numpy()[0]
    summed = np.stack([whole[..., 0], whole[..., 1] + whole[..., 2], whole[..., 3]], -1)
    expected = np.stack([summed[:, 0], (summed[:, 1] + summed[:, 2]) / 2, summed[:, 3]], 1)
    merged = merge_words(attention)
    np.testing.assert_allclose(merged.numpy()[0], expected, rtol=1e-6)
    np.testing.assert_allclose(merged.numpy().sum(-1), 1, rtol=1e-6)


def test_merged_axes_are_words() -> None:
    """With the words as tokens, and what was special still so."""
    merged = merge_words(AttentionMap.from_weights(weights(1, 1, 4, 4), queries=PLAYING, keys=PLAYING, name="layer"))
    assert merged.keys.labels() == ["[CLS]", "playing", "now"]
    assert isinstance(merged.keys, Tokens)
    assert merged.keys.is_special().tolist() == [True, False, False]
    assert merged.name == "layer"


def test_one_side_may_be_something_else() -> None:
    """Of a cross-attention to patches only the tokens are merged."""
    merged = merge_words(AttentionMap.from_weights(weights(1, 1, 4, 5), queries=PLAYING, keys=Axis(5)))
    assert merged.shape == (1, 1, 3, 5)
    assert merged.keys == Axis(5)


def test_texts_of_a_batch_are_merged_one_at_a_time() -> None:
    """Their words differ, so one must be chosen."""
    axis = Tokens([["a", "b"], ["c", "d"]], words=[[0, 0], [0, 1]])
    attention = AttentionMap.from_weights(weights(2, 1, 2, 2), queries=axis, keys=axis)
    assert [merge_words(attention, sample=sample).shape[2:] for sample in (0, -1)] == [(1, 1), (2, 2)]
    assert torch.equal(merge_words(attention, sample=1)[0], attention[1])
    with pytest.raises(ChoiceError, match="holds 2 texts"):
        merge_words(attention)
    with pytest.raises(PositionError, match="Sample index 2"):
        merge_words(attention, sample=2)


def test_what_is_no_text_has_no_words() -> None:
    """Without tokens there is nothing to merge."""
    with pytest.raises(ShapeError, match="no words to merge"):
        merge_words(AttentionMap.from_weights(weights(1, 1, 2, 2)))


def test_windows_of_a_text_share_its_words() -> None:
    """In a windowed layer, the words are those of the window's text."""
    axis = Tokens([["a", "b"], ["c", "d"]], words=[[0, 0], [0, 1]])
    attention = AttentionMap.from_weights(weights(4, 1, 2, 2), queries=axis, keys=axis, windows=2)
    assert [merge_words(attention, sample=at).keys.labels() for at in range(4)] == [["ab"]] * 2 + [["c", "d"]] * 2
    assert torch.equal(merge_words(attention, sample=3)[0], attention[3])


@pytest.mark.parametrize("sample", ["1", 1.0])
def test_a_sample_that_is_no_number(sample: Any) -> None:
    """A sample that is not an integer is refused."""
    axis = Tokens([["a", "b"], ["c", "d"]])
    attention = AttentionMap.from_weights(weights(2, 1, 2, 2), queries=axis, keys=axis)
    with pytest.raises(PositionError, match=r"Sample index '?1.* of AttentionMap\(.*\) is not an integer"):
        merge_words(attention, sample=sample)
