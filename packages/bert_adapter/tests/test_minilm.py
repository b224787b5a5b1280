"""A real BERT with real weights: six layers of twelve heads, a padded batch of two sentences."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import anylocal_bert
from anylocal import get_local
from anylocal_bert import minilm

TEXTS = ["The animal didn't cross the street because it was too tired.", "Hello, world!"]
FOLDER = minilm.folder()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModel.from_pretrained(FOLDER, attn_implementation="sdpa").eval()


@pytest.fixture
def maps(model: Any, tokenizer: Any) -> Any:
    with anylocal_bert.capture_attention(model, tokenizer=tokenizer) as maps, torch.no_grad():
        model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))
    return maps


def eager(model: Any, tokenizer: Any, dtype: torch.dtype) -> Any:
    """Return transformers' own maps, which only eager attention returns."""
    other = AutoModel.from_pretrained(FOLDER, attn_implementation="eager").eval().to(dtype)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        return other(**tokenizer(TEXTS, padding=True, return_tensors="pt"), output_attentions=True).attentions


def test_fused_maps_equal_eager_ones(model: Any, tokenizer: Any, maps: Any) -> None:
    """All six fused maps are within 2e-6 of those of the eager model in float64."""
    expected = eager(model, tokenizer, torch.float64)
    assert [attention.fused for attention in maps] == [True] * 6
    for attention, reference in zip(maps, expected, strict=True):
        assert reference.max() > 0.3, "a uniform map proves nothing"
        real = [(0, slice(None)), (1, slice(0, 6))]
        for sample, rows in real:
            torch.testing.assert_close(
                attention[sample, :, rows].double(), reference[sample, :, rows], atol=2e-6, rtol=0
            )


def test_output_is_bit_equal(model: Any, tokenizer: Any) -> None:
    """The model computes the same bits while it is captured."""
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        alone = model(**inputs).last_hidden_state
        with anylocal_bert.capture_attention(model):
            captured = model(**inputs).last_hidden_state
    assert torch.equal(alone, captured)


def test_axes_are_the_tokens(maps: Any) -> None:
    """The axes hold the tokens of each text, and know padding and special tokens."""
    keys = maps[0].keys
    assert keys.labels(1)[:7] == ["[CLS]", "hello", ",", "world", "!", "[SEP]", "[PAD]"]
    assert np.flatnonzero(keys.is_padding(1)).tolist() == list(range(6, len(keys)))
    assert not keys.is_padding(0).any()
    assert np.flatnonzero(keys.is_special(1)[:6]).tolist() == [0, 5]


def test_padding_gets_no_attention(maps: Any) -> None:
    """No token attends to padding."""
    for attention in maps:
        assert attention[1, :, :, 6:].max() == 0


def test_it_attends_to_the_animal(maps: Any) -> None:
    """In some head, "it" attends to "animal" more than to any other word."""
    axis = maps[0].queries
    words = [i for i, special in enumerate(axis.is_special(0)) if not special]
    it, animal = axis.labels(0).index("it"), axis.labels(0).index("animal")
    favourites = {
        words[int(attention[0, head, it, words].argmax())] for attention in maps for head in range(attention.shape[1])
    }
    assert animal in favourites


def test_the_seeds_cache(model: Any, tokenizer: Any, maps: Any) -> None:
    """After `install` and `activate`, the cache holds the arrays of the unmodified fused model."""
    anylocal_bert.install()
    try:
        with get_local.active() as cache, torch.no_grad():
            model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))
        arrays = cache["sdpa_attention_forward"] or cache["BertSdpaSelfAttention.forward"]
        for array, attention in zip(arrays, maps, strict=True):
            np.testing.assert_array_equal(array, attention.numpy())
    finally:
        anylocal_bert.uninstall()
        get_local.clear()


def test_two_models_one_captured(model: Any, tokenizer: Any) -> None:
    """Only the calls of the captured model are recorded, though both models share one function."""
    other = copy.deepcopy(model)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        other(**inputs)
        model(**inputs)
    assert len(maps) == 6
