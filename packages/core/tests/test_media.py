"""Images, videos and sounds within a text: which tokens stand for which patches."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from anylocal._maps.codec import decode, encode  # noqa: E402  # after the check for torch
from anylocal.attention import AttentionMap, Media, Patches, Tokens, merge_words  # noqa: E402  # as above
from anylocal.errors import ShapeError  # noqa: E402  # as above


def image(first: int = 1, **changes: Any) -> Media:
    return Media("image", range(first, first + 6), Patches((2, 3), prefix=()), **changes)


def text(length: int = 8, **options: Any) -> Tokens:
    return Tokens([str(place) for place in range(length)], **options)


@pytest.mark.parametrize("values", [np.arange(16.0).reshape(2, 8), torch.arange(16).reshape(2, 8)])
def test_the_picture_of_values_has_them_where_the_patches_are(values: Any) -> None:
    """Separators and words are left out, leading axes stay, and arrays and tensors remain what they are."""
    made = Media("image", [1, 2, 3, 5, 6, 7], Patches((2, 3), prefix=())).picture(values)
    assert type(made) is type(values)
    assert made.tolist() == [[[1, 2, 3], [5, 6, 7]], [[9, 10, 11], [13, 14, 15]]]


def test_a_video_has_a_picture_for_each_frame() -> None:
    """Its grid is frames, rows and columns."""
    video = Media("video", range(8), Patches((2, 2), prefix=()), frames=2)
    assert video.grid == (2, 2, 2)
    assert video.at(1, 0, 1) == 5
    assert video.picture(np.arange(8)).tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


@pytest.mark.parametrize("values", [np.arange(4.0), torch.arange(4)])
def test_a_patch_outside_of_the_axis_has_no_value(values: Any) -> None:
    """Where a window of the last tokens cuts an image, the rest is NaN, never the value of another token."""
    cut = Tokens.join([(text(media=[image()]), slice(4, 8))]).media[0]
    assert cut.positions == (-1, -1, -1, 0, 1, 2)
    np.testing.assert_array_equal(np.asarray(cut.picture(values)), [[np.nan] * 3, [0, 1, 2]])


def test_pieces_of_a_text_join_to_whole_images() -> None:
    """An image that was cut in two is one again, and another one stands after it."""
    whole = text(16, media=[image(), image(8, source=1)])
    joined = Tokens.join([(whole, slice(0, 3)), (whole, slice(3, 16))])
    assert joined.media == whole.media


def test_a_text_that_all_share_is_joined_to_each() -> None:
    """Its image then occurs in each text, at its new positions."""
    both = Tokens([["a", "b"], ["c", "d"]])
    joined = Tokens.join([(both, slice(None)), (text(media=[image()]), slice(None))], start=3)
    assert [(item.text, item.positions) for item in joined.media] == [(0, (3, 4, 5, 6, 7, 8)), (1, (3, 4, 5, 6, 7, 8))]
    assert joined.start == 3


def test_joined_pieces_keep_their_words() -> None:
    """A piece without words has tokens outside of words; spellings that were never given are those of the tokens."""
    first, last = Tokens(["x"]), Tokens(["play", "##ing"], words=[0, 0])
    joined = Tokens.join([(first, slice(None)), (last, slice(None)), (last, slice(None))])
    assert joined.words() == [[0], [1, 2], [3, 4]]
    assert [joined.spelling(word) for word in joined.words()] == ["x", "playing", "playing"]


def test_taken_texts_bring_their_media() -> None:
    """A text may be repeated, in any order."""
    both = Tokens([["a"] * 8, ["b"] * 8], media=[image(text=1)])
    assert [item.text for item in both.take([1, 0, 1]).media] == [0, 2]


def test_merged_words_keep_patches() -> None:
    """An image keeps its places among words; where a word has several patches, that is told."""
    words = [0, *[None] * 6, 0]
    axis = Tokens(["x", *"abcdef", "y"], words=words, media=[image()])
    longer = Tokens.join([(Tokens(["play", "##ing"], words=[0, 0]), slice(None)), (axis, slice(None))])
    merged: Any = merge_words(AttentionMap.from_weights(torch.eye(10), queries=longer, keys=longer)).keys
    assert merged.media[0].positions == (2, 3, 4, 5, 6, 7)
    hidden = Tokens(["x", *"abcdef", "y"], words=[0] * 8, media=[image()])
    merged = merge_words(AttentionMap.from_weights(torch.eye(8), queries=hidden, keys=hidden)).keys
    assert not merged.media
    assert "patches are merged to words" in repr(merged)


def test_media_survive_json() -> None:
    """A stored axis has the same images, and the reason why others are not known."""
    axis = text(media=[image(view="tiles")], media_unknown="no grid")
    again = decode(json.loads(json.dumps(encode(axis))))
    assert again == axis
    assert decode(json.loads(json.dumps(encode(text())))) == text()


def test_axes_with_other_media_differ() -> None:
    """Equal tokens may stand for patches of another grid."""
    assert text(media=[image()]) != text()
    assert text(media_unknown="no grid") != text()


def test_the_repr_tells_what_is_known() -> None:
    """Grid and view of each, and the reason for what is not."""
    shown = repr(text(media=[image(view="tiles", source=1)], media_unknown="no grid"))
    assert shown == "Tokens(8, texts=1, media=[image 1: tiles 2 × 3], media unknown: no grid)"


@pytest.mark.parametrize("change", [{"text": 1}, {"first": 3}])
def test_media_outside_of_the_texts_are_refused(change: dict[str, Any]) -> None:
    """A position beyond the end, or a text that is not there."""
    with pytest.raises(ShapeError, match="does not lie in 1 texts of 8 tokens"):
        text(media=[image(**change)])


def test_as_many_positions_as_patches_are_needed() -> None:
    """And a prefix has no place in an image."""
    with pytest.raises(ShapeError, match="5 positions do not fit"):
        Media("image", range(5), Patches((2, 3), prefix=()))
    with pytest.raises(ShapeError, match="prefix"):
        Media("image", range(7), Patches((2, 3)))
