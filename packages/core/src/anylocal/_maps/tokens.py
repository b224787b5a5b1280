"""Positions that are the tokens of a text."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from anylocal._maps.bounds import inside
from anylocal._maps.media import Media, united
from anylocal._maps.positions import Axis
from anylocal.errors import ChoiceError, NameNotFoundError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

Flags: TypeAlias = npt.NDArray[np.bool_]
Mask: TypeAlias = Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[Any] | torch.Tensor
Words: TypeAlias = Sequence[int | None] | Sequence[Sequence[int | None]]


class Tokens(Axis):
    """Positions that are the tokens of one text, or of a batch of texts padded to one length.

    A single text is shared by all samples of the batch.

    Parameters
    ----------
    tokens : sequence of str, or sequence of sequences of str
    padding, special : bool array of the same shape, optional
        Which tokens pad a shorter text, and which the tokenizer added (``[CLS]``, ``</s>``). Note that a tokenizer's
        ``attention_mask`` is the inverse of `padding`.
    start : int, default 0
        Index of the first token in its text: in a step of generation, the queries are the last tokens only.
    words : sequence of (int or None), or sequence of such, optional
        Index of each token's word, as in a tokenizer's ``word_ids``; None for tokens outside words. By default each
        token is a word of its own.
    spellings : sequence of str, or sequence of sequences of str, optional
        The text of each word, by its index; by default its tokens joined.
    segments : sequence of (int or None), or sequence of such, optional
        Index of each token's sentence, for models that read several at once, as in BERT's ``token_type_ids`` and a
        tokenizer's ``sequence_ids``. None for tokens outside sentences, such as padding.
    readable : sequence of str, or sequence of sequences of str, optional
        How pictures show each token, as for byte-level tokens: ``"Ġcat"`` is ``"cat"``. By default as it is.
    media : sequence of Media, optional
        The images, videos and sounds that some of the tokens stand for.
    media_unknown : str, default ""
        Why it is not known what other tokens stand for, though a model was given an image, a video or a sound.

    Attributes
    ----------
    texts : tuple of tuple of str
        The tokens of each text.
    media : tuple of Media
        The images, videos and sounds of all texts; `Media.text` is the index of the text.
    media_unknown : str
        As given.

    Raises
    ------
    ShapeError
        If the texts differ in length, there are none, or a mask or the words do not fit them.

    Examples
    --------
    >>> from anylocal.attention import Tokens
    >>> axis = Tokens([["[CLS]", "hi", "[SEP]"], ["[CLS]", "[SEP]", "[PAD]"]],
    ...               padding=[[False, False, False], [False, False, True]])
    >>> len(axis), axis.labels(1)
    (3, ['[CLS]', '[SEP]', '[PAD]'])
    >>> axis.is_padding(1).tolist()
    [False, False, True]
    """

    def __init__(
        self,
        tokens: Sequence[str] | Sequence[Sequence[str]],
        padding: Mask | None = None,
        special: Mask | None = None,
        start: int = 0,
        *,
        words: Words | None = None,
        spellings: Sequence[str] | Sequence[Sequence[str]] | None = None,
        segments: Words | None = None,
        readable: Sequence[str] | Sequence[Sequence[str]] | None = None,
        media: Sequence[Media] = (),
        media_unknown: str = "",
    ) -> None:
        self.start = operator.index(start)
        self.texts = _texts(tokens)
        super().__init__(len(self.texts[0]))
        self._padding = self._flags(padding, "padding")
        self._special = self._flags(special, "special")
        self._words = None if words is None else self._numbers(words, "words")
        numbers = None if segments is None else self._numbers(segments, "segments")
        # Known for no token means not known.
        self._segments = numbers if any(number is not None for row in numbers or () for number in row) else None
        self._spellings = None if spellings is None else self._checked_spellings(spellings)
        self._readable = self.texts if readable is None else _texts(readable)
        if [len(text) for text in self._readable] != [len(self)] * len(self.texts):
            lengths = [len(text) for text in self._readable]
            msg = f"readable has {lengths} texts for {len(self)} tokens; give one for each token."
            raise ShapeError(msg)
        self.media = tuple(media)
        self.media_unknown = media_unknown
        for item in self.media:
            if not 0 <= item.text < len(self.texts) or max(item.positions) >= len(self):
                msg = f"{item!r} does not lie in {len(self.texts)} texts of {len(self)} tokens."
                raise ShapeError(msg)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Tokens)
            and (self.texts, self.start) == (other.texts, other.start)
            and np.array_equal(self._padding, other._padding)
            and np.array_equal(self._special, other._special)
            and (self._words, self._spellings) == (other._words, other._spellings)
            and (self._segments, self._readable) == (other._segments, other._readable)
            and (self.media, self.media_unknown) == (other.media, other.media_unknown)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.texts))

    def __repr__(self) -> str:
        start = f", start={self.start}" if self.start else ""
        media = f", media=[{', '.join(item.name for item in self.media)}]" if self.media else ""
        unknown = f", media unknown: {self.media_unknown}" if self.media_unknown else ""
        return f"Tokens({len(self)}, texts={len(self.texts)}{start}{media}{unknown})"

    def label(self, position: SupportsIndex, sample: int = 0) -> str:
        """Return the token at a position of one text.

        Raises
        ------
        PositionError
            If the position or the text is out of range.
        """
        return self.texts[self._text(sample)][self._checked(position)]

    def display(self, position: SupportsIndex, sample: int = 0) -> str:
        """Return the token at a position of one text as pictures show it.

        Examples
        --------
        >>> from anylocal.attention import Tokens
        >>> axis = Tokens(["the", "Ġcat"], readable=["the", "cat"])
        >>> axis.label(1), axis.display(1)
        ('Ġcat', 'cat')
        """
        return self._readable[self._text(sample)][self._checked(position)]

    def is_padding(self, sample: int = 0) -> Flags:
        """Return, for each position of one text, whether it is padding: shape (len(self),)."""
        return self._row(self._padding, sample)

    def is_special(self, sample: int = 0) -> Flags:
        """Return, for each position of one text, whether the tokenizer added it: shape (len(self),)."""
        return self._row(self._special, sample)

    def words(self, sample: int = 0) -> list[list[int]]:
        """Return the positions of each word of one text, in reading order; a token outside words is one by itself.

        Examples
        --------
        >>> from anylocal.attention import Tokens
        >>> Tokens(["[CLS]", "play", "##ing", "[SEP]"], words=[None, 0, 0, None]).words()
        [[0], [1, 2], [3]]
        """
        numbers = [None] * len(self) if self._words is None else self._words[self._text(sample)]
        found: list[list[int]] = []
        for position, number in enumerate(numbers):
            if number is not None and position and numbers[position - 1] == number:
                found[-1].append(position)
            else:
                found.append([position])
        return found

    def segments(self, sample: int = 0) -> list[int | None]:
        """Return the index of each position's sentence in one text, None where it is not known.

        Examples
        --------
        >>> from anylocal.attention import Tokens
        >>> Tokens(["[CLS]", "who", "[SEP]", "he", "[SEP]"], segments=[0, 0, 0, 1, 1]).segments()
        [0, 0, 0, 1, 1]
        """
        text = self._text(sample)
        return [None] * len(self) if self._segments is None else list(self._segments[text])

    @property
    def split(self) -> dict[str, Any]:
        """How the texts were split into words, ``words`` and ``spellings``, as given; and ``readable``, where given."""
        readable = {} if self._readable == self.texts else {"readable": self._readable}
        return {"words": self._words, "spellings": self._spellings, **readable}

    def spelling(self, positions: Sequence[int], sample: int = 0) -> str:
        """Return the text of a word, given the positions of its tokens in one text."""
        text = self._text(sample)
        number = None if self._words is None else self._words[text][positions[0]]
        if self._spellings is not None and number is not None:
            return self._spellings[text][number]
        return _joined([self.texts[text][position] for position in positions])

    def take(self, texts: Sequence[int]) -> Tokens:
        """Return the tokens of some of the texts, in this order; a text may be repeated."""
        rows = [self._text(text) for text in texts]
        return Tokens(
            [self.texts[row] for row in rows],
            padding=self._padding[rows],
            special=self._special[rows],
            start=self.start,
            words=None if self._words is None else [self._words[row] for row in rows],
            spellings=None if self._spellings is None else [self._spellings[row] for row in rows],
            segments=None if self._segments is None else [self._segments[row] for row in rows],
            readable=[self._readable[row] for row in rows],
            media=[replace(item, text=at) for at, row in enumerate(rows) for item in self.media if item.text == row],
            media_unknown=self.media_unknown,
        )

    @staticmethod
    def join(pieces: Sequence[tuple[Tokens, slice]], start: int = 0) -> Tokens:
        """Return the tokens of pieces of texts, one after the other in each text.

        Parameters
        ----------
        pieces : sequence of (Tokens, slice)
            Of which tokens, and which of them. A single text is shared by all texts of the others.
        start : int, default 0
            Index of the first token in its text.

        Examples
        --------
        >>> from anylocal.attention import Tokens
        >>> tokens = Tokens(["the", "cat", "sat"])
        >>> Tokens.join([(tokens, slice(2)), (Tokens(["."]), slice(None))]).labels()
        ['the', 'cat', '.']
        """
        count = max(len(axis.texts) for axis, _ in pieces)
        sides = [(axis if len(axis.texts) == count else axis.take([0] * count), part) for axis, part in pieces]
        words: list[list[int | None]] = [[] for _ in range(count)]
        spellings: list[list[str]] = [[] for _ in range(count)]
        media: list[Media] = []
        for axis, part in sides:
            begin, end, _ = part.indices(len(axis))
            media += [item.moved(-begin, end - begin).moved(len(words[0]), len(words[0]) + end) for item in axis.media]
            for text in range(count):
                numbers, spelled = _named_words(axis, text)
                first = len(spellings[text])
                words[text] += [None if number is None else number + first for number in numbers[part]]
                spellings[text] += spelled

        def joined(read: Callable[[Tokens, int], Sequence[Any] | Flags]) -> list[list[Any]]:
            return [[value for axis, part in sides for value in read(axis, text)[part]] for text in range(count)]

        has_words = any(axis.split["words"] is not None for axis, _ in sides)
        return Tokens(
            joined(lambda axis, text: axis.texts[text]),
            padding=joined(Tokens.is_padding),
            special=joined(Tokens.is_special),
            start=start,
            words=words if has_words else None,
            spellings=spellings if has_words else None,
            segments=joined(Tokens.segments),
            readable=joined(lambda axis, text: [axis.display(place, text) for place in range(len(axis))]),
            media=united(media),
            media_unknown=next((axis.media_unknown for axis, _ in sides if axis.media_unknown), ""),
        )

    def position(self, query: object, sample: int = 0) -> int:
        """Return the position that a query means: an integer, or a token that occurs once, by its label or as shown.

        Raises
        ------
        NameNotFoundError
            If the text has no such token.
        ChoiceError
            If the token occurs more than once.
        PositionError
            If the position or the text is out of range.
        """
        if not isinstance(query, str):
            return super().position(query, sample)
        text = self.texts[self._text(sample)]
        shown = self._readable[self._text(sample)]
        found = [position for position, token in enumerate(text) if token == query]
        found = found or [position for position, token in enumerate(shown) if token == query]
        if not found:
            raise NameNotFoundError(query, f"Text {sample} of {self!r}", text, kind="token")
        if len(found) > 1:
            msg = f"Token {query!r} is at positions {found} of text {sample}; give one of them."
            raise ChoiceError(msg)
        return found[0]

    def _text(self, sample: int) -> int:
        if len(self.texts) == 1:
            return 0
        return inside(sample, len(self.texts), "sample", of=self)

    def _row(self, flags: Flags, sample: int) -> Flags:
        # A copy, so that changing it in place leaves the axis as it is.
        row: Flags = flags[self._text(sample)].copy()
        return row

    def _numbers(self, given: Words, name: str) -> tuple[tuple[int | None, ...], ...]:
        plain: Any = given.tolist() if isinstance(given, torch.Tensor | np.ndarray) else given
        rows = plain if len(plain) and isinstance(plain[0], Sequence | torch.Tensor | np.ndarray) else [plain]
        # NumPy's integers, and tensors of one number, cannot be written as JSON.
        numbers = tuple(tuple(None if number is None else operator.index(number) for number in row) for row in rows)
        if [len(row) for row in numbers] != [len(self)] * len(self.texts):
            lengths, have = [len(row) for row in numbers], f"{len(self.texts)} × {len(self)}"
            msg = f"{name} has {lengths} numbers and the tokens are {have}; give one for each token."
            raise ShapeError(msg)
        return numbers

    def _checked_spellings(self, given: Sequence[str] | Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
        single = all(isinstance(word, str) for word in given) and len(self.texts) == 1
        spellings = ((*map(str, given),),) if single else tuple(tuple(words) for words in given)
        numbers = self._words or ((),) * len(spellings)
        most = [max((n for n in row if n is not None), default=-1) for row in numbers]
        if len(spellings) != len(self.texts) or any(len(w) <= n for w, n in zip(spellings, most, strict=True)):
            msg = (
                f"spellings has {[len(words) for words in spellings]} words for each text, and words goes up to {most}."
            )
            raise ShapeError(msg)
        return spellings

    def _flags(self, given: Mask | None, name: str) -> Flags:
        shape = (len(self.texts), len(self))
        if given is None:
            return np.zeros(shape, dtype=bool)
        plain = given.cpu().numpy() if isinstance(given, torch.Tensor) else given
        try:
            flags: Flags = np.array(plain, dtype=bool, ndmin=2)
        except ValueError:
            msg = f"{name} has rows of different lengths; give one bool for each token."
            raise ShapeError(msg) from None
        if flags.shape != shape:
            msg = f"{name} has shape {flags.shape} and the tokens have {shape}; give one bool for each token."
            raise ShapeError(msg)
        return flags


def _named_words(axis: Tokens, text: int) -> tuple[Sequence[int | None], Sequence[str]]:
    """Return the index of each token's word in one text, and the text of each word."""
    words, spellings = axis.split["words"], axis.split["spellings"]
    if words is None or spellings is not None:
        return ([None] * len(axis), ()) if words is None else (words[text], spellings[text])
    numbers = words[text]
    spelled = {numbers[word[0]]: axis.spelling(word, text) for word in axis.words(text)}
    most = max((number for number in numbers if number is not None), default=-1)
    return numbers, [spelled.get(number, "") for number in range(most + 1)]


def _texts(tokens: Sequence[str] | Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    if isinstance(tokens, str):
        msg = f"Tokens takes a list of tokens, not a string: {tokens!r}; split it first."
        raise ShapeError(msg)
    single = tuple(token for token in tokens if isinstance(token, str))
    texts = (single,) if single and len(single) == len(tokens) else tuple(tuple(text) for text in tokens)
    lengths = [len(text) for text in texts]
    if len(set(lengths)) != 1:
        msg = f"The texts of a batch must be padded to one length; got {len(texts)}, of lengths {lengths}."
        raise ShapeError(msg)
    return texts


# WordPiece marks the continuation of a word; SentencePiece and byte-level BPE mark a space before it.
_CONTINUATION: Final = "##"
_SPACES: Final = ("\u2581", "\u0120")


def _joined(tokens: Sequence[str]) -> str:
    if len(tokens) == 1:
        return tokens[0]
    whole = "".join([tokens[0], *(token.removeprefix(_CONTINUATION) for token in tokens[1:])])
    for space in _SPACES:
        whole = whole.removeprefix(space)
    return whole
