"""Positions that are the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from anylocal._axes import Axis, inside
from anylocal.errors import ChoiceError, NameNotFoundError, ShapeError

Flags: TypeAlias = npt.NDArray[np.bool_]
Mask: TypeAlias = Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[Any] | torch.Tensor


class Tokens(Axis):
    """Positions that are the tokens of one text, or of a batch of texts padded to one length.

    A single text is shared by every sample of the batch.

    Parameters
    ----------
    tokens : sequence of str, or sequence of sequences of str
    padding, special : bool array of the same shape, optional
        Which tokens fill up a shorter text, and which the tokenizer added (``[CLS]``, ``</s>``). Beware that
        a tokenizer's ``attention_mask`` says the opposite of `padding`.
    start : int, default 0
        The place of the first token in its text: a step that generates asks with its last tokens only.

    Attributes
    ----------
    texts : tuple of tuple of str
        The tokens of each text.

    Raises
    ------
    ShapeError
        Where the texts differ in length, there is none, or a mask does not fit them.

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
    ) -> None:
        self.start = start
        self.texts = _texts(tokens)
        super().__init__(len(self.texts[0]))
        self._padding = self._flags(padding, "padding")
        self._special = self._flags(special, "special")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Tokens)
            and (self.texts, self.start) == (other.texts, other.start)
            and np.array_equal(self._padding, other._padding)
            and np.array_equal(self._special, other._special)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.texts))

    def __repr__(self) -> str:
        start = f", start={self.start}" if self.start else ""
        return f"Tokens({len(self)}, texts={len(self.texts)}{start})"

    def label(self, position: SupportsIndex, sample: int = 0) -> str:
        """Return the token at a position of one text.

        Raises
        ------
        PositionError
            Where there is no such position, or no such text.
        """
        return self.texts[self._text(sample)][self._checked(position)]

    def is_padding(self, sample: int = 0) -> Flags:
        """Return, for each position of one text, whether it is padding: shape (len(self),)."""
        return self._row(self._padding, sample)

    def is_special(self, sample: int = 0) -> Flags:
        """Return, for each position of one text, whether the tokenizer added it: shape (len(self),)."""
        return self._row(self._special, sample)

    def position(self, query: object, sample: int = 0) -> int:
        """Return the position that a query means: an integer, or a token that occurs once in the text.

        Raises
        ------
        NameNotFoundError
            Where the text has no such token.
        ChoiceError
            Where it occurs more than once.
        PositionError
            Where there is no such position, or no such text.
        """
        if not isinstance(query, str):
            return super().position(query, sample)
        text = self.texts[self._text(sample)]
        found = [position for position, token in enumerate(text) if token == query]
        if not found:
            raise NameNotFoundError(query, f"Text {sample} of {self!r}", text, kind="token")
        if len(found) > 1:
            msg = f"Token {query!r} stands at positions {found} of text {sample}; give one of them."
            raise ChoiceError(msg)
        return found[0]

    def _text(self, sample: int) -> int:
        if len(self.texts) == 1:
            return 0
        return inside(sample, len(self.texts), f"Sample {sample} of {self!r}")

    def _row(self, flags: Flags, sample: int) -> Flags:
        # A copy: inverting it in place must not change the axis.
        row: Flags = flags[self._text(sample)].copy()
        return row

    def _flags(self, given: Mask | None, name: str) -> Flags:
        shape = (len(self.texts), len(self))
        if given is None:
            return np.zeros(shape, dtype=bool)
        try:
            flags: Flags = np.array(
                given.cpu().numpy() if isinstance(given, torch.Tensor) else given, dtype=bool, ndmin=2
            )
        except ValueError:
            msg = f"{name} has rows of different lengths; give one bool for each token."
            raise ShapeError(msg) from None
        if flags.shape != shape:
            msg = f"{name} has shape {flags.shape} and the tokens have {shape}; give one bool for each token."
            raise ShapeError(msg)
        return flags


def _texts(tokens: Sequence[str] | Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    if isinstance(tokens, str):
        msg = f"Tokens takes a list of tokens, not one string: {tokens!r}; split it first."
        raise ShapeError(msg)
    single = tuple(token for token in tokens if isinstance(token, str))
    texts = (single,) if single and len(single) == len(tokens) else tuple(tuple(text) for text in tokens)
    lengths = [len(text) for text in texts]
    if len(set(lengths)) != 1:
        msg = f"The texts of a batch must be padded to one length; there are {len(texts)}, of {lengths}."
        raise ShapeError(msg)
    return texts
