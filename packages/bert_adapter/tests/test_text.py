"""A text in, maps with its tokens out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import anylocal_bert
from anylocal.attention import Axis, Tokens
from anylocal.errors import OptionError
from anylocal_bert import minilm

FOLDER = minilm.folder()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModel.from_pretrained(FOLDER).eval()


def translator() -> Any:
    """Return a small encoder-decoder for the tokenizer's vocabulary."""
    from transformers import T5Config, T5Model

    torch.manual_seed(0)
    make: Any = T5Model
    settings: Any = T5Config
    config = settings(
        vocab_size=30522, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return make(config).eval()


def test_one_text(model: Any, tokenizer: Any) -> None:
    """Its tokens are the axes of every map, and no gradient is kept."""
    maps = anylocal_bert.capture_text(model, tokenizer, "Hello, world!")
    assert len(maps) == 6
    for attention in maps:
        assert attention.keys.labels() == ["[CLS]", "hello", ",", "world", "!", "[SEP]"]
        assert not attention.tensor().requires_grad


def test_text_and_tokenizer_swapped(model: Any, tokenizer: Any) -> None:
    """The order of the arguments is told."""
    with pytest.raises(OptionError, match="takes the model, the tokenizer and then the text"):
        anylocal_bert.capture_text(model, "a text", tokenizer)  # type: ignore[arg-type]  # wrong on purpose


def test_texts_of_a_batch(model: Any, tokenizer: Any) -> None:
    """They are padded to one length, and the axes know the padding."""
    maps = anylocal_bert.capture_text(model, tokenizer, ["Hello, world!", "Hello!"])
    keys = maps[0].keys
    assert isinstance(keys, Tokens)
    assert [keys.is_padding(sample).tolist() for sample in (0, 1)] == [[False] * 6, [False] * 4 + [True] * 2]


def test_a_pair(model: Any, tokenizer: Any) -> None:
    """The second text comes after the first."""
    maps = anylocal_bert.capture_text(model, tokenizer, "Who?", "He.")
    assert maps[0].keys.labels() == ["[CLS]", "who", "?", "[SEP]", "he", ".", "[SEP]"]


@pytest.mark.parametrize(("target", "labels"), [(None, ["[PAD]"]), ("world", ["[PAD]", "[CLS]", "world", "[SEP]"])])
def test_an_encoder_decoder(tokenizer: Any, target: str | None, labels: list[str]) -> None:
    """The decoder reads the target after its start token, and attends to the text."""
    maps = anylocal_bert.capture_text(translator(), tokenizer, "Hello!", target=target)
    assert maps[-1].queries.labels() == labels
    assert maps[-1].keys.labels() == ["[CLS]", "hello", "!", "[SEP]"]


def test_targets_of_a_batch(tokenizer: Any) -> None:
    """They are padded to one length, and the axes of the decoder know the padding."""
    maps = anylocal_bert.capture_text(translator(), tokenizer, ["Hello!", "Hi!"], target=["world", "hello, world"])
    for axis in (maps[1].queries, maps[1].keys, maps[2].queries):
        assert isinstance(axis, Tokens)
        assert [axis.is_padding(sample).sum() for sample in (0, 1)] == [2, 0]


def segments(axis: Axis) -> list[int | None]:
    assert isinstance(axis, Tokens)
    return axis.segments()


def test_segments_of_a_pair(model: Any, tokenizer: Any) -> None:
    """They are the model's token types, or the tokenizer's segments for a model without any."""
    maps = anylocal_bert.capture_text(model, tokenizer, "Who?", "He.")
    assert segments(maps[0].keys) == [0, 0, 0, 0, 1, 1, 1]
    without = anylocal_bert.capture_text(translator(), tokenizer, "Who?", "He.")
    assert segments(without[0].keys) == [None, 0, 0, None, 1, 1, None]
    assert segments(without[-1].queries) == [None]


def test_a_target_without_a_decoder(model: Any, tokenizer: Any) -> None:
    """A model without a decoder refuses a target."""
    with pytest.raises(OptionError, match="BertModel has no decoder for a target"):
        anylocal_bert.capture_text(model, tokenizer, "Hello!", target="world")


def test_a_batch_without_a_padding_token(model: Any) -> None:
    """Several texts cannot be padded without a padding token, and the message says what to do."""
    tokenizer: Any = AutoTokenizer.from_pretrained(FOLDER)
    tokenizer.pad_token = None
    with pytest.raises(OptionError, match="has no padding token, and 2 texts"):
        anylocal_bert.capture_text(model, tokenizer, ["Hello!", "Hello, world!"])


def test_a_text_that_is_too_long(model: Any, tokenizer: Any) -> None:
    """It is refused with both lengths, instead of an index error of the model."""
    with pytest.raises(OptionError, match=r"BertModel reads 512 tokens at most, and the text has 602\. Give a shorter"):
        anylocal_bert.capture_text(model, tokenizer, "owl " * 600)


class Around(torch.nn.Module):
    """Holds a model, and takes its inputs as one dict, as SentenceTransformer does."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model

    def forward(self, given: dict[str, Any], **options: Any) -> Any:
        return self.inner(**given, **options)


def test_a_model_around_another(model: Any, tokenizer: Any) -> None:
    """A module that takes no tokens is refused, with the name of the model inside it."""
    with pytest.raises(OptionError, match=r"Around requires given, .* Pass the model inside it, its \.inner, or"):
        anylocal_bert.capture_text(Around(model), tokenizer, "owl")


def test_other_errors_of_a_model_propagate(model: Any, tokenizer: Any) -> None:
    """An error of the model is not replaced, whatever its type."""
    broken = copy.deepcopy(model)
    broken.encoder.layer[1].forward = _of_no_tensor
    with pytest.raises(IndexError, match="no tensor"):
        anylocal_bert.capture_text(broken, tokenizer, "owl")


def _of_no_tensor(*_: Any, **__: Any) -> None:
    raise IndexError("no tensor")
