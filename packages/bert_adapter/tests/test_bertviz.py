"""Maps as arguments of the views of BertViz: which layers, which tokens, without padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import anylocal_bert
from anylocal.attention import AttentionMap, Tokens
from anylocal.errors import ChoiceError, OptionError, ShapeError, StateError

SOURCE = Tokens(
    [["guten", "Tag", "!", "</s>"], ["<pad>", "hallo", "!", "</s>"]], padding=[[False] * 4, [True, False, False, False]]
)
TARGET = Tokens(
    [["<s>", "good", "day"], ["<s>", "hello", "<pad>"]],
    padding=[[False] * 3, [False, False, True]],
)
# A layer of cross-attention does not know the padding of the queries' text.
BARE = Tokens(TARGET.texts)


def make(queries: Tokens, keys: Tokens, name: str = "layer", *, heads: int = 2, **options: Any) -> AttentionMap:
    weights = torch.rand(2, heads, len(queries), len(keys), requires_grad=True).softmax(-1)
    return AttentionMap.from_weights(weights, name=name, queries=queries, keys=keys, **options)


def translator() -> list[AttentionMap]:
    return [
        make(SOURCE, SOURCE, "encoder.0"),
        make(SOURCE, SOURCE, "encoder.1"),
        make(TARGET, TARGET, "decoder.0.self"),
        make(BARE, SOURCE, "decoder.0.across"),
        make(TARGET, TARGET, "decoder.1.self"),
        make(BARE, SOURCE, "decoder.1.across"),
    ]


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach()[None], rtol=0, atol=0)
        assert not one.requires_grad


def test_one_text() -> None:
    """The maps of one text are tensors with a batch of one, and its tokens are a list."""
    layers = [make(SOURCE, SOURCE), make(SOURCE, SOURCE)]
    found = anylocal_bert.bertviz(layers, sample=0)
    assert list(found) == ["attention", "tokens"]
    assert found["tokens"] == ["guten", "Tag", "!", "</s>"]
    same(found["attention"], [layer[0] for layer in layers])


def test_a_pair_of_sentences() -> None:
    """BertViz is told where the second one starts, counted without padding."""
    axis = Tokens(
        ["<pad>", "<s>", "who", "</s>", "he", "</s>"], padding=[1, 0, 0, 0, 0, 0], segments=[None, 0, 0, 0, 1, 1]
    )
    found = anylocal_bert.bertviz([make(axis, axis)], sample=0)
    assert found["tokens"][found["sentence_b_start"]] == "he"


@pytest.mark.parametrize("sample", [1, -1])
def test_padding_is_cut_off(sample: int) -> None:
    """Rows, columns and tokens of padding are cut off, also padding on the left."""
    layer = make(SOURCE, SOURCE)
    found = anylocal_bert.bertviz([layer], sample=sample)
    assert found["tokens"] == ["hallo", "!", "</s>"]
    same(found["attention"], [layer[1, :, 1:, 1:]])


def test_two_texts() -> None:
    """Layers of an encoder-decoder are told apart by their tokens, in order of execution."""
    layers = translator()
    found = anylocal_bert.bertviz(layers, sample=0)
    assert (found["encoder_tokens"], found["decoder_tokens"]) == (
        ["guten", "Tag", "!", "</s>"],
        ["<s>", "good", "day"],
    )
    same(found["encoder_attention"], [layers[0][0], layers[1][0]])
    same(found["decoder_attention"], [layers[2][0], layers[4][0]])
    same(found["cross_attention"], [layers[3][0], layers[5][0]])
    assert len(found) == 5


def test_padding_of_two_texts() -> None:
    """The padding of each text is cut off in all layers, even where only the layers of the target know it."""
    layers = translator()
    found = anylocal_bert.bertviz(layers, sample=1)
    assert (found["encoder_tokens"], found["decoder_tokens"]) == (["hallo", "!", "</s>"], ["<s>", "hello"])
    same(found["encoder_attention"], [layers[0][1, :, 1:, 1:], layers[1][1, :, 1:, 1:]])
    same(found["decoder_attention"], [layers[2][1, :, :2, :2], layers[4][1, :, :2, :2]])
    same(found["cross_attention"], [layers[3][1, :, :2, 1:], layers[5][1, :, :2, 1:]])


def test_cross_attention_alone() -> None:
    """Only the kinds of layers that were given are returned."""
    layers = translator()[3::2]
    found = anylocal_bert.bertviz(layers, sample=0)
    assert set(found) == {"cross_attention", "encoder_tokens", "decoder_tokens"}


def test_a_text_that_is_its_own_translation() -> None:
    """If both texts are equal, the names of the modules tell the layers apart."""
    names = ["encoder.0", "decoder.0.self_attn", "decoder.0.encoder_attn"]
    layers = [make(SOURCE, SOURCE, name) for name in names]
    found = anylocal_bert.bertviz(layers, sample=0)
    for kind, layer in zip(["encoder", "decoder", "cross"], layers, strict=True):
        same(found[f"{kind}_attention"], [layer[0]])


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([], StateError, "run the model inside the capture"),
        ([make(SOURCE, SOURCE), make(SOURCE, SOURCE, forward=1)], ChoiceError, r"maps\.forwards"),
        ([np.eye(3)], OptionError, "from_weights"),
        ([AttentionMap.from_weights(torch.rand(2, 1, 3, 3), name="vision.0")], ShapeError, "'vision.0' are not tokens"),
        ([make(SOURCE, SOURCE), make(TARGET, TARGET)], ShapeError, "draws one text that attends to itself"),
        ([make(Tokens(["!"], start=2), SOURCE, "self")], ShapeError, "one forward pass over the whole text"),
        ([*translator(), make(Tokens(["x"]), Tokens(["x"]))], ShapeError, "neither the encoder's nor the decoder's"),
        ([*translator(), make(SOURCE, SOURCE, "cross.2")], ShapeError, "'cross.2'.*neither the encoder's"),
        ([make(SOURCE, SOURCE), make(SOURCE, SOURCE, heads=3)], ShapeError, r"those of attention have \[2, 3\]"),
    ],
)
def test_what_bertviz_cannot_draw(layers: list[Any], error: type[Exception], message: str) -> None:
    """Layers that BertViz cannot draw in one picture are refused, with a remedy."""
    with pytest.raises(error, match=message):
        anylocal_bert.bertviz(layers, sample=0)


def test_a_batch_needs_a_choice() -> None:
    """One of several texts must be chosen."""
    with pytest.raises(ChoiceError, match="sample=0 … 1"):
        anylocal_bert.bertviz(translator())


# BertViz leaves the files of its scripts open.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("view", ["head_view", "model_view"])
@pytest.mark.parametrize("layers", [[make(SOURCE, SOURCE)], translator()], ids=["one text", "two texts"])
def test_the_views_take_it(view: str, layers: list[AttentionMap]) -> None:
    """BertViz itself draws the arguments."""
    bertviz = pytest.importorskip("bertviz")
    page = getattr(bertviz, view)(**anylocal_bert.bertviz(layers, sample=1), html_action="return")
    assert "hallo" in page.data
