"""The positions of a map: tokens of an encoder, of a decoder, or patches of an image."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from transformers import BertConfig, BertModel

import anylocal_bert
from anylocal.adapter import module_names
from anylocal.attention import Patches, Tokens

from .dummies import BATCH, TOKENS, inputs
from .exactness import run
from .test_zoo import built
from .tiny import configuration, model_of


def captured(model_type: str) -> tuple[Any, dict[str, Any]]:
    model, given = built(model_type)
    with anylocal_bert.capture_attention(model) as maps:
        run(model, given)
    return maps, given


def set_attention(model: Any, implementation: str) -> None:
    """Choose the kernel, which transformers 4 sets for each part of the model."""
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = implementation


def texts(ids: torch.Tensor) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(token) for token in row) for row in ids.tolist())


@pytest.mark.parametrize("model_type", ["t5", "bart", "marian"])
def test_encoder_and_decoder(model_type: str) -> None:
    """Self-attention has the tokens of one text, cross-attention those of the decoder and of the encoder."""
    maps, given = captured(model_type)
    theirs, ours = texts(given["input_ids"]), texts(given["decoder_input_ids"])
    seen = [(item.queries.texts, item.keys.texts) for item in maps]
    assert seen == 2 * [(theirs, theirs)] + 2 * [(ours, ours), (ours, theirs)]
    cross = maps[-1]
    assert cross.keys.is_padding(1).tolist() == [False] * (TOKENS - 4) + [True] * 4
    assert not cross.queries.is_padding(1).any()


def test_an_encoder_and_a_decoder_that_name_no_embeddings() -> None:
    """FSMT's two parts have tables of their own, which only the model itself would name."""
    maps, given = captured("fsmt")
    theirs, ours = texts(given["input_ids"]), texts(given["decoder_input_ids"])
    seen = [(item.queries.texts, item.keys.texts) for item in maps]
    assert seen == 2 * [(theirs, theirs)] + 2 * [(ours, ours), (ours, theirs)]


@pytest.mark.parametrize("model_type", ["t5", "bart", "marian"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_padding_of_a_decoder(model_type: str, implementation: str) -> None:
    """Tokens that its mask hides are padding, in its own layers and as queries of cross-attention."""
    model, given = built(model_type)
    set_attention(model, implementation)
    mask = torch.ones_like(given["decoder_input_ids"])
    mask[1, -3:] = 0
    with anylocal_bert.capture_attention(model) as maps:
        run(model, {**given, "decoder_attention_mask": mask})
    own, cross = maps[-2], maps[-1]
    hidden = (1 - mask).bool().tolist()
    for axis in (own.queries, own.keys, cross.queries):
        assert isinstance(axis, Tokens)
        assert [axis.is_padding(sample).tolist() for sample in (0, 1)] == hidden


def test_padding_of_a_band() -> None:
    """Padding is also known in attention within a window."""
    maps, _ = captured("longformer")
    assert [int(maps[0].keys.is_padding(sample).sum()) for sample in (0, 1)] == [0, 4]


# Sentences


def segments(axis: Any, sample: int = 0) -> list[int | None]:
    assert isinstance(axis, Tokens)
    return axis.segments(sample)


def test_segments_of_a_model() -> None:
    """They are the token types that it was given, and padding has none."""
    model, given = built("bert")
    types = torch.zeros_like(given["input_ids"])
    types[:, 9:] = 1
    with anylocal_bert.capture_attention(model) as maps:
        run(model, {**given, "token_type_ids": types})
    first = [0] * 9 + [1] * (TOKENS - 9)
    assert [segments(maps[0].keys, sample) for sample in (0, 1)] == [first, [*first[:-4], *[None] * 4]]


@pytest.mark.parametrize("model_type", ["distilbert", "roberta"])
def test_a_model_without_segments(model_type: str) -> None:
    """A model without token types, or with only one, has none."""
    config = configuration(model_type)
    config.type_vocab_size = 1
    model = model_of(model_type, config)
    with anylocal_bert.capture_attention(model) as maps:
        run(model, next(iter(inputs(model))))
    assert segments(maps[0].keys) == [None] * TOKENS


def test_an_encoder_of_sound() -> None:
    """Its positions are only numbered, the decoder's are tokens."""
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
    """The positions of a vision model are its prefix tokens, then the patches of its image."""
    maps, given = captured(model_type)
    height, width = given["pixel_values"].shape[2:]
    for item in maps:
        assert isinstance(item.keys, Patches)
        assert item.keys.prefix == prefix
        assert item.keys.image_size == (height, width)


def test_a_pool_asks_with_something_else() -> None:
    """The single query of a pooling layer is not a patch, its keys are."""
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
    """The keys of each step are the tokens of its beam so far, or those of the encoder."""
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


def test_types_that_are_looked_up_as_tokens_are_not_taken_for_the_text() -> None:
    """GPT-2 looks up token types in the table of tokens: they become segments, and the axis is the text."""
    model, given = built("gpt2")
    types = torch.ones_like(given["input_ids"])
    types[:, 3:] = 2
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        model(given["input_ids"], token_type_ids=types)
        model(given["input_ids"][:, :4])
    first, second = (cast("Tokens", forward[0].keys) for forward in maps.forwards)
    assert first.texts == texts(given["input_ids"])
    assert first.segments(0) == types[0].tolist()
    assert second.texts == texts(given["input_ids"][:, :4])
    assert second.segments(0) == [None] * 4


def test_modules_are_listed_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deeper model's maps are not made by going through all of its modules for each of its layers."""

    def listed(depth: int) -> int:
        times: list[object] = []

        def noted(model: torch.nn.Module) -> Any:
            times.append(model)
            return module_names(model)

        model = BertModel(
            BertConfig(num_hidden_layers=depth, hidden_size=8, num_attention_heads=2, intermediate_size=8)
        )
        with monkeypatch.context() as patched:
            for room in ("_family", "_grids", "_media", "_sounds"):
                patched.setattr(
                    f"anylocal_bert.{room}.module_names",
                    noted,
                    raising=False,
                )
            with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
                model(torch.ones(1, 5, dtype=torch.long))
            assert len(maps) == depth
        return len(times)

    assert listed(4) == listed(1)
