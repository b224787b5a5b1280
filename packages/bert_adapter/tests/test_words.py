"""Tokens are merged into the words that the tokenizer split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, ByT5Tokenizer, PreTrainedTokenizerFast

import anylocal_bert
from anylocal.attention import merge_words
from anylocal_bert._words import readable, split

CORPUS = [
    "the animal was too tired to play",
    "playing animals are tired",
    "今天天气很好",
    "天气不好",
    "it's the tiredness",
] * 4
UNKNOWN = "[UNK]"
SPECIAL = ["[PAD]", UNKNOWN, "[CLS]", "[SEP]"]


def trained(model: Any, trainer: Any, before: Any, decoder: Any) -> Any:
    """Return a fast tokenizer with a small vocabulary, which splits most words."""
    tokenizer: Any = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer, tokenizer.decoder = before, decoder
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrapped(tokenizer)


def wrapped(tokenizer: Any) -> Any:
    names = {"pad_token": "[PAD]", "unk_token": UNKNOWN, "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, **names)


def byte_level() -> Any:
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    before = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained(models.BPE(), trainer, before, decoders.ByteLevel())


def sentence_piece() -> Any:
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=SPECIAL, unk_token=UNKNOWN, show_progress=False, max_piece_length=3
    )
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace())


def word_piece() -> Any:
    # Written out, because training breaks ties at random.
    pieces = ["the", "ani", "##mal", "##s", "was", "tire", "##d", "play", "##ing", "it", "'", "s", *"今天气"]
    tokenizer: Any = Tokenizer(
        models.WordPiece({piece: number for number, piece in enumerate([*SPECIAL, *pieces])}, unk_token=UNKNOWN)
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return wrapped(tokenizer)


MAKE: dict[str, Any] = {
    "byte_level": byte_level,
    "sentence_piece": sentence_piece,
    "word_piece": word_piece,
    "slow": ByT5Tokenizer,
}


@pytest.fixture(params=MAKE)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return MAKE[request.param]()


def spelled(tokenizer: Any, text: str) -> list[str]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    numbers, spellings = split(tokenizer, ids)
    assert len(numbers) == len(ids)
    assert list(dict.fromkeys(numbers)) == list(range(len(spellings))), "each word has a token, in reading order"
    assert len(ids) > len(spellings), "a text of whole words proves nothing"
    return spellings


def test_words_of_a_sentence(tokenizer: Any) -> None:
    """However words are split, they are complete again."""
    assert spelled(tokenizer, "the animal was playing") == ["the", "animal", "was", "playing"]


def test_chinese_words(tokenizer: Any) -> None:
    """Every character is complete, and none is lost: as characters, or as the words that the tokenizer knows."""
    spellings = (
        spelled(tokenizer, "tired 今天天气")
        if not tokenizer.is_fast
        else split(tokenizer, tokenizer("tired 今天天气", add_special_tokens=False)["input_ids"])[1]
    )
    assert "".join(spellings) == "tired今天天气"
    assert spellings[0] == "tired"


@pytest.mark.parametrize(
    ("make", "text", "shown"),
    [
        (byte_level, "the é", ["the", "␣", "é 1/2", "é 2/2"]),
        (byte_level, "ñ🙂", ["ñ 1/2", "ñ 2/2", *(f"🙂 {part}/4" for part in range(1, 5))]),
        (word_piece, "playing it", ["play", "##ing", "it"]),
    ],
)
def test_tokens_are_shown_as_text(make: Any, text: str, shown: list[str]) -> None:
    """Marks of spaces and bytes of characters are not for readers."""
    tokenizer = make()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert readable(tokenizer, ids, tokenizer.convert_ids_to_tokens(ids)) == shown


def test_half_a_character_is_shown_as_its_token() -> None:
    """A text may be cut within a character."""
    tokenizer = byte_level()
    (first, _) = tokenizer("é", add_special_tokens=False)["input_ids"]
    assert readable(tokenizer, [first], tokenizer.convert_ids_to_tokens([first])) == ["Ã"]


def test_a_slow_tokenizer_has_each_chinese_character_as_a_word() -> None:
    """Its three bytes make one word, and not a part of the one before."""
    assert spelled(ByT5Tokenizer(), "好 play天气") == ["好", "play", "天", "气"]


def test_fast_tokenizers_define_words_themselves() -> None:
    """The words of a fast tokenizer are its own: here a punctuation mark after a word is a word."""
    fast = byte_level()
    ids = fast("the animal's tired!", add_special_tokens=False)["input_ids"]
    numbers, spellings = split(fast, ids)
    assert numbers == fast("the animal's tired!", add_special_tokens=False).word_ids()
    assert spellings == ["the", "animal", "'s", "tired", "!"]


def test_special_tokens_are_of_no_word(tokenizer: Any) -> None:
    """They are between words, and belong to none."""
    ids = tokenizer("the animal", add_special_tokens=False)["input_ids"]
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    numbers, spellings = split(tokenizer, [*ids, end, *ids])
    assert numbers[len(ids)] is None
    assert spellings == ["the", "animal", "the", "animal"]


def test_maps_know_their_words() -> None:
    """A captured map is merged into words without the text, padding included."""
    fast = word_piece()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast), num_hidden_layers=1, hidden_size=24, num_attention_heads=2, intermediate_size=24
    )
    model: Any = BertModel(config)
    model.eval()
    inputs = fast(["playing animals", "the animal was tired"], padding=True, return_tensors="pt")
    with anylocal_bert.capture_attention(model, tokenizer=fast) as maps, torch.no_grad():
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    merged = merge_words(maps[0], sample=0)
    assert merged.keys.labels()[:2] == ["playing", "animals"]
    assert merged.keys.labels()[2] == "[PAD]"
    rows = merged.tensor().sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
