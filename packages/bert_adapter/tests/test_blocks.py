"""BigBird's attention by blocks: sparse, padded by the model itself, or full for a short text."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

import anylocal_bert
from anylocal.attention import AttentionMaps, Tokens

from .exactness import run
from .tiny import configuration, model_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE, RANDOM = 4, 2
LONG = 50
"""Tokens: 13 blocks, the last not full. With no more than 5 + 2 × 2 blocks, BigBird is not sparse."""
SHORT = 10
FILL = -LONG % SIZE


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Silence the messages of transformers that it pads texts and changes the attention."""
    logging: Any = transformers.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@functools.cache
def weights(model_type: str) -> dict[str, torch.Tensor]:
    """Return parameters that make maps far from uniform."""
    generator = torch.Generator().manual_seed(0)
    state = model_of(model_type, small(model_type)).state_dict()
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in state.items()
        if value.is_floating_point()
    }


def small(model_type: str) -> Any:
    config = configuration(model_type)
    config.block_size, config.num_random_blocks = SIZE, RANDOM
    for name in ("dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "encoder_layerdrop"):
        setattr(config, name, 0.0)
    return config


def make(model_type: str = "big_bird") -> Any:
    """Return a new model: a short text changes it for good."""
    model = model_of(model_type, small(model_type))
    model.load_state_dict(weights(model_type), strict=False)
    return model


def given(length: int) -> dict[str, torch.Tensor]:
    """Return two texts, of which the second is padded."""
    ids = torch.randint(5, 190, (2, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, -6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def captured(model: Any, **inputs: torch.Tensor) -> AttentionMaps:
    with anylocal_bert.capture_attention(model) as maps:
        run(model, inputs)
    return maps


def padding(axis: Any) -> list[int]:
    """Return how many tokens of each text are padding, which are its last."""
    assert isinstance(axis, Tokens)
    counts = [int(axis.is_padding(sample).sum()) for sample in (0, 1)]
    assert all(axis.is_padding(sample)[len(axis) - count :].all() for sample, count in enumerate(counts))
    return counts


def test_random_blocks() -> None:
    """In training, blocks are drawn at random, and a map equals the one that the model itself assembles."""
    model = make().train()
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        expected = model(**given(LONG), output_attentions=True).attentions
    for attention, reference in zip(maps, expected, strict=True):
        assert torch.equal(attention.tensor(), reference)
        assert float(reference.std()) * reference.shape[-1] > 0.5, "a uniform map proves nothing"
    # The third block sees the first, its neighbours, the last, and two more.
    seen = maps[0][0, 0, 2 * SIZE].unflatten(0, (-1, SIZE)).sum(1) > 0
    assert (int(seen.sum()), seen[[0, 1, 2, 3, -1]].all()) == (5 + RANDOM, True)


def test_a_block_that_is_seen_twice() -> None:
    """The weight of a key is a sum: outside training, all random blocks are the first."""
    model = make()
    for attention in captured(model, **given(LONG)):
        torch.testing.assert_close(attention.tensor().sum(-1), torch.ones(attention.shape[:3]))
    assert not model.training


def test_padding_that_the_model_adds() -> None:
    """It fills up the last block, and is padding of every text, after the padding that was given."""
    for attention in captured(make(), **given(LONG)):
        assert attention.shape[2:] == (LONG + FILL, LONG + FILL)
        assert attention.queries == attention.keys
        assert padding(attention.keys) == [FILL, FILL + 6]


def test_padding_apart_from_the_text() -> None:
    """An encoder that looks its padding up apart has it after its text, and its decoder never sees it."""
    ids = given(LONG)["input_ids"]
    maps = captured(make("bigbird_pegasus"), **given(LONG), decoder_input_ids=ids[:, :7])
    encoder, cross = maps[0].keys, maps[-1].keys
    assert isinstance(encoder, Tokens)
    assert isinstance(cross, Tokens)
    assert [text[LONG:] for text in encoder.texts] == [("0",) * FILL] * 2
    assert padding(encoder) == [FILL, FILL + 6]
    assert cross.texts == tuple(text[:LONG] for text in encoder.texts)
    assert padding(cross) == [0, 6]


@pytest.mark.parametrize("model_type", ["big_bird", "bigbird_pegasus"])
def test_a_short_text(model_type: str) -> None:
    """The model switches to full attention as it runs, whose maps keep the names of the replaced layers."""
    model = make(model_type)
    names = [name for name, module in model.named_modules() if type(module).__name__.endswith("SparseAttention")]
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        expected = model(**given(SHORT), output_attentions=True)
    expected = expected.get("encoder_attentions", expected.get("attentions"))
    assert maps.names[:2] == names
    for attention, reference in zip(maps, expected, strict=False):
        assert torch.equal(attention.tensor(), reference)
        assert isinstance(attention.keys, Tokens)


def test_a_short_text_of_another_model() -> None:
    """Full attention that another model switches to meanwhile is not captured."""
    model, other = make(), make()
    with anylocal_bert.capture_attention(model) as maps:
        run(other, given(SHORT))
        run(model, given(SHORT))
    assert len(maps) == 2


def test_a_short_text_of_chosen_layers() -> None:
    """Only they are captured, also when full attention replaces them."""
    model = make()
    with anylocal_bert.capture_attention(model, modules="encoder.layer.1.*") as maps:
        run(model, given(SHORT))
    assert maps.names == ["encoder.layer.1.attention.self"]
