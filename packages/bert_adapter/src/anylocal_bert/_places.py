"""Places before and behind a text that hold none of its tokens: virtual tokens, and free places of a static cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anylocal.attention import Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


def virtual_tokens(model: torch.nn.Module) -> int:
    """Return how many virtual tokens PEFT's prompt learning puts before each text, as vectors or as keys in a cache."""
    settings: Any = getattr(model, "active_peft_config", None)
    number = getattr(settings, "num_virtual_tokens", None)
    return number if getattr(settings, "is_prompt_learning", False) is True and isinstance(number, int) else 0


def with_virtual_tokens(tokens: Tokens, count: int) -> Tokens:
    """Return a text behind virtual tokens, which count as special ones."""
    return _widened(tokens, before=[f"[virtual {number}]" for number in range(count)])


def behind_virtual_tokens(tokens: Tokens, count: int) -> Tokens:
    """Return tokens of a text that has virtual tokens before it, without these."""
    return _widened(tokens, start=tokens.start + count)


def with_free_places(tokens: Tokens, count: int) -> Tokens:
    """Return the tokens of a static cache: free places are behind the text, are padding, and have no name."""
    return _widened(tokens, behind=count)


def _widened(tokens: Tokens, before: Sequence[str] = (), behind: int = 0, start: int = 0) -> Tokens:
    def around(row: Sequence[Any], first: Any, last: Any) -> list[Any]:
        return [*[first] * len(before), *row, *[last] * behind]

    texts, known = range(len(tokens.texts)), tokens.split
    named = [[*before, *text, *[""] * behind] for text in tokens.texts]
    shown = [[tokens.display(place, text) for place in range(len(tokens))] for text in texts]
    return Tokens(
        named,
        padding=[around(tokens.is_padding(text).tolist(), first=False, last=True) for text in texts],
        special=[around(tokens.is_special(text).tolist(), first=True, last=False) for text in texts],
        start=start,
        words=None if known["words"] is None else [around(row, None, None) for row in known["words"]],
        spellings=known["spellings"],
        segments=[around(tokens.segments(text), None, None) for text in texts],
        readable=[[*before, *row, *[""] * behind] for row in shown],
    )
