"""Places before and behind a text that hold none of its tokens: virtual tokens, and free places of a static cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from anylocal.attention import Tokens

if TYPE_CHECKING:
    import torch

_ALL: Final = slice(None)


def virtual_tokens(model: torch.nn.Module) -> int:
    """Return how many virtual tokens PEFT's prompt learning puts before each text, as vectors or as keys in a cache."""
    settings: Any = getattr(model, "active_peft_config", None)
    number = getattr(settings, "num_virtual_tokens", None)
    return number if getattr(settings, "is_prompt_learning", False) is True and isinstance(number, int) else 0


def with_virtual_tokens(tokens: Tokens, count: int) -> Tokens:
    """Return a text behind virtual tokens, which count as special ones."""
    virtual = Tokens([f"[virtual {number}]" for number in range(count)], special=[True] * count)
    return Tokens.join([(virtual, _ALL), (tokens, _ALL)])


def behind_virtual_tokens(tokens: Tokens, count: int) -> Tokens:
    """Return tokens of a text that has virtual tokens before it, without these."""
    return Tokens.join([(tokens, _ALL)], tokens.start + count)


def with_free_places(tokens: Tokens, count: int) -> Tokens:
    """Return the tokens of a static cache: free places are behind the text, are padding, and have no name."""
    return Tokens.join([(tokens, _ALL), (Tokens([""] * count, padding=[True] * count), _ALL)])
