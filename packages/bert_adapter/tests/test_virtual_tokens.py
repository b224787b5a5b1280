"""Virtual tokens of PEFT's prompt learning have names of their own, and the text behind them keeps its own.

PEFT is not installed here: the models below do what its `PeftModel` does, and have its attributes.
"""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import nn

import anylocal_bert
from anylocal.attention import Tokens

from .caching import with_cache
from .test_caches import filled, ids, llama

VIRTUAL = ["[virtual 0]", "[virtual 1]", "[virtual 2]"]


class Tuned(nn.Module):
    """Puts three virtual tokens before each text."""

    def __init__(self) -> None:
        super().__init__()
        self.base_model = llama()
        self.active_peft_config = types.SimpleNamespace(is_prompt_learning=True, num_virtual_tokens=3)


class OfPrompts(Tuned):
    """As vectors beside those of the text."""

    def forward(self, text: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        vectors = self.base_model.get_input_embeddings()(text)
        prompt = torch.ones(len(text), 3, vectors.shape[2])
        given = {} if mask is None else {"attention_mask": torch.cat([mask.new_ones(len(mask), 3), mask], 1)}
        return self.base_model(inputs_embeds=torch.cat([prompt, vectors], 1), **given)


class OfPrefixes(Tuned):
    """As keys that are in the cache already."""

    def __init__(self) -> None:
        super().__init__()
        self.prefix = filled(self.base_model, 1, 2, 3)

    def forward(self, text: torch.Tensor) -> Any:
        return self.base_model(text, **with_cache(self.prefix))


@torch.no_grad()
def tokens_of(model: nn.Module, *given: torch.Tensor) -> tuple[Tokens, Tokens]:
    with anylocal_bert.capture_attention(model) as maps:
        model(*given)
    queries, keys = maps[0].queries, maps[0].keys
    assert isinstance(queries, Tokens)
    assert isinstance(keys, Tokens)
    return queries, keys


@pytest.mark.parametrize("kind", [OfPrompts, OfPrefixes])
def test_keys_are_virtual_tokens_and_the_text(kind: type[Tuned]) -> None:
    """The text is behind as many virtual tokens as the model is said to have."""
    _, keys = tokens_of(kind(), ids(7, 8, 9))
    assert keys.labels() == [*VIRTUAL, "7", "8", "9"]


def test_queries_of_prompts_include_virtual_tokens() -> None:
    """They are rows of the map like those of the text."""
    queries, keys = tokens_of(OfPrompts(), ids(7, 8, 9))
    assert queries == keys


def test_queries_behind_a_prefix_are_the_text() -> None:
    """A prefix has keys only; the text begins at the place behind it."""
    queries, _ = tokens_of(OfPrefixes(), ids(7, 8, 9))
    assert (queries.labels(), queries.start) == (["7", "8", "9"], 3)


def test_padding_of_the_text() -> None:
    """It is where the text has it, not three places before."""
    _, keys = tokens_of(OfPrompts(), torch.tensor([[7, 8, 9], [0, 0, 5]]), torch.tensor([[1, 1, 1], [0, 0, 1]]))
    assert keys.is_padding(1).tolist() == [False, False, False, True, True, False]


def test_virtual_tokens_are_special() -> None:
    """They are no words of the text."""
    _, keys = tokens_of(OfPrompts(), ids(7, 8, 9))
    assert keys.is_special().tolist() == [True] * 3 + [False] * 3
