"""What the positions of a map are: tokens of an encoder, of a decoder, or patches of an image."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import anylocal_bert
from anylocal.attention import Patches, Tokens

from .dummies import BATCH, TOKENS
from .exactness import run
from .test_zoo import built


def captured(model_type: str) -> tuple[Any, dict[str, Any]]:
    model, given = built(model_type)
    with anylocal_bert.capture_attention(model) as maps:
        run(model, given)
    return maps, given


def texts(ids: torch.Tensor) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(token) for token in row) for row in ids.tolist())


@pytest.mark.parametrize("model_type", ["t5", "bart", "marian"])
def test_encoder_and_decoder(model_type: str) -> None:
    """Self-attention relates tokens of one text, cross-attention those of the decoder's to those of the encoder's."""
    maps, given = captured(model_type)
    theirs, ours = texts(given["input_ids"]), texts(given["decoder_input_ids"])
    seen = [(item.queries.texts, item.keys.texts) for item in maps]
    assert seen == 2 * [(theirs, theirs)] + 2 * [(ours, ours), (ours, theirs)]
    cross = maps[-1]
    assert cross.keys.is_padding(1).tolist() == [False] * (TOKENS - 4) + [True] * 4
    assert not cross.queries.is_padding(1).any()


def test_an_encoder_of_sound() -> None:
    """Its positions are only counted, the decoder's are tokens."""
    maps, given = captured("whisper")
    assert maps[-1].queries.texts == texts(given["decoder_input_ids"])
    assert not isinstance(maps[-1].keys, Tokens)


@pytest.mark.parametrize(
    ("model_type", "prefix"),
    [
        ("vit", ("cls",)),
        ("deit", ("cls", "dist")),
        ("dinov2", ("cls",)),
        ("dinov2_with_registers", ("cls", "reg1", "reg2", "reg3", "reg4")),
        ("beit", ("cls",)),
        ("siglip_vision_model", ()),
    ],
)
def test_patches(model_type: str, prefix: tuple[str, ...]) -> None:
    """A vision model's positions are the patches of its image, behind the tokens that it puts in front."""
    maps, given = captured(model_type)
    height, width = given["pixel_values"].shape[2:]
    for item in maps:
        assert isinstance(item.keys, Patches)
        assert item.keys.prefix == prefix
        assert item.keys.image_size == (height, width)


def test_a_pool_asks_with_something_else() -> None:
    """The one query of a pool is no patch, its keys are."""
    maps, _ = captured("siglip_vision_model")
    assert (len(maps[-1].queries), type(maps[-1].keys)) == (1, Patches)


def test_text_and_image_of_one_model() -> None:
    """Each tower has its own positions."""
    maps, _ = captured("clip")
    assert {(item.name.split(".")[0], type(item.keys)) for item in maps} == {
        ("text_model", Tokens),
        ("vision_model", Patches),
    }


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_of_an_encoder_decoder(beams: int) -> None:
    """Each step's keys are its own beam's tokens so far, and those of the encoder."""
    from transformers import BartForConditionalGeneration, GenerationConfig

    model, given = built("bart")
    torch.manual_seed(0)
    whole: Any = BartForConditionalGeneration
    settings: Any = GenerationConfig
    model = whole(model.config).eval()
    model.generation_config = settings(pad_token_id=1, bos_token_id=0, decoder_start_token_id=2)
    text = given["input_ids"]
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        generated = model.generate(
            text, num_beams=beams, max_new_tokens=5, do_sample=False, forced_eos_token_id=None, eos_token_id=None
        )
    last: list[Any] = [item.keys for item in maps if "decoder" in item.name][-2:]
    self_, cross = (keys.texts for keys in last)
    assert len(self_) == BATCH * beams
    expected = [tuple(str(token) for token in row[:-1]) for row in generated.tolist()]
    assert set(expected) <= set(self_)
    assert cross == texts(text.repeat_interleave(beams, 0))
