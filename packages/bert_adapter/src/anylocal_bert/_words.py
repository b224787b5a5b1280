"""The words that tokens belong to, according to the tokenizer itself."""

from __future__ import annotations

import unicodedata
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

Split: TypeAlias = tuple[list[int | None], list[str]]
"""The index of the word of each token, None for special tokens, and the text of each word."""


def split(tokenizer: Any, ids: Sequence[int]) -> Split:
    """Return the word that each token of a text belongs to, and the words."""
    special = set(tokenizer.all_special_ids)
    numbers: list[int | None] = []
    spellings: list[str] = []
    for is_special, run in groupby(ids, key=special.__contains__):
        part = list(run)
        if is_special:
            numbers += [None] * len(part)
            continue
        groups = _groups(tokenizer, part)
        for group in groups:
            numbers += [len(spellings)] * len(group)
            spellings.append(_text(tokenizer, group).strip())
    return numbers, spellings


def readable(tokenizer: Any, ids: Sequence[int], tokens: Sequence[str]) -> list[str]:
    """Return each token as text, without the marks of its tokenizer.

    The tokens of one character are that character with a number: ``é 1/2`` and ``é 2/2``. A space is ``␣``.
    """
    shown: list[str] = []
    while len(shown) < len(ids):
        start = len(shown)
        # Of UTF-8's four bytes, each may be a token.
        ends = range(start + 1, min(start + 4, len(ids)) + 1)
        texts = ((end - start, _text(tokenizer, ids[start:end])) for end in ends)
        known = ((count, text) for count, text in texts if "\N{REPLACEMENT CHARACTER}" not in text)
        count, text = next(known, (1, tokens[start]))
        name = text.strip() or "␣"
        shown += [name] if count == 1 else [f"{name} {part}/{count}" for part in range(1, count + 1)]
    return shown


def _groups(tokenizer: Any, ids: list[int]) -> list[list[int]]:
    """Return the tokens of each word."""
    numbers = _encoded_again(tokenizer, ids) or _by_text(tokenizer, ids)
    numbered = zip(numbers, ids, strict=True)
    return [[token for _, token in group] for _, group in groupby(numbered, key=lambda pair: pair[0])]


def _encoded_again(tokenizer: Any, ids: list[int]) -> list[int] | None:
    """Return the word of each token from a fast tokenizer, None where it does not know.

    A capture has tokens and no text. Encoded again, their text yields their words if it yields the same tokens.
    """
    if not getattr(tokenizer, "is_fast", False):
        return None
    text = _text(tokenizer, ids)
    # Decoding may have dropped a leading space.
    for given in (text, f" {text}", text.strip()):
        encoding = tokenizer(given, add_special_tokens=False)
        numbers = encoding.word_ids()
        if list(encoding["input_ids"]) == ids and None not in numbers:
            return list(numbers)
    return None


def _by_text(tokenizer: Any, ids: list[int]) -> list[int]:
    """Return the word of each token by its place in the text: words end at spaces, in Chinese at each character."""
    words = _word_of_each_character(_text(tokenizer, ids))
    numbers: list[int] = []
    end = 0
    for count in range(1, len(ids) + 1):
        # The tokens of one character decode to nothing before the last of them, and belong to its word.
        text = _text(tokenizer, ids[:count]).rstrip("\N{REPLACEMENT CHARACTER}")
        added = [word for word in words[end : len(text)] if word is not None]
        if added:
            numbers += [added[0]] * (count - len(numbers))
            end = len(text)
    return numbers + [max(numbers, default=0)] * (len(ids) - len(numbers))


def _word_of_each_character(text: str) -> list[int | None]:
    """Return the index of the word of each character, None for spaces."""
    numbers: list[int | None] = []
    number = -1
    before = " "
    for character in text:
        number += not character.isspace() and (before.isspace() or _is_chinese(character) or _is_chinese(before))
        numbers.append(None if character.isspace() else number)
        before = character
    return numbers


def _is_chinese(character: str) -> bool:
    return unicodedata.name(character, "").startswith("CJK")


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
