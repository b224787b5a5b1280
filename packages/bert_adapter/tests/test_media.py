"""Images in a text: which of its tokens stand for which patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

import anylocal_bert
from anylocal.attention import AttentionMap, Media, Patches, Tokens

from .caching import cache_of, with_cache
from .media_types import IS_NEW, TYPES, Image, MediaType, Names, built, processed
from .more_media_types import MORE_TYPES


def first_of_text(maps: Any) -> AttentionMap:
    """Return the map of the first layer that reads the text."""
    found: AttentionMap = next(each for each in maps if isinstance(each.keys, Tokens))
    return found


def captured(model: Any, given: dict[str, Any], **options: Any) -> AttentionMap:
    with anylocal_bert.capture_attention(model, **options) as maps, torch.no_grad():
        model(**given)
    return first_of_text(maps)


def media_of(attention: AttentionMap) -> tuple[Media, ...]:
    assert isinstance(attention.keys, Tokens)
    assert not attention.keys.media_unknown, repr(attention.keys)
    return attention.keys.media


def noise(sizes: tuple[tuple[int, int], ...]) -> list[Image]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def with_other_patch(images: list[Image], number: int, grid: tuple[int, ...], place: tuple[int, int]) -> list[Image]:
    """Return the images with one part of one of them inverted."""
    changed = [image.copy() for image in images]
    high, wide = (size // count for size, count in zip(changed[number].shape, grid, strict=False))
    part = changed[number][place[0] * high : (place[0] + 1) * high, place[1] * wide : (place[1] + 1) * wide]
    part[:] = 255 - part
    return changed


def moved(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return by how much the scores of a row changed: not its weights, whose sum of 1 changes all of them."""
    change = (after / before).log()
    # Masked positions are not a number.
    return (change - change.nanmedian(-1, keepdim=True).values).abs().nan_to_num().sum(0)


@pytest.mark.parametrize("kind", [*TYPES, *MORE_TYPES], ids=lambda kind: kind.name)
def test_the_column_of_a_patch_that_changes_changes_most(kind: MediaType) -> None:
    """Of two texts with images of several sizes, padded on the left, the last token's row changes at that position."""
    model, images = kind.model(), noise(kind.sizes)
    before = captured(model, kind.inputs(model, images), tokenizer=Names())
    media = media_of(before)
    assert [item.name for item in media if not item.text] == [*kind.grids]
    for number, source in enumerate([(0, 0), (0, 1), (1, 0)]):
        views = [item for item in media if (item.text, item.source) == source]
        assert views
        # One patch of the finest view; most other views see that part of the image as well.
        grid = max((view.grid for view in views), key=np.prod)
        grid = (grid[0], 2 * grid[1]) if views[0].view == "tile 0" else grid
        place = grid[0] - 1, grid[1] // 2
        after = captured(model, kind.inputs(model, with_other_patch(images, number, grid, place)))
        change = moved(before[source[0], :, -1], after[source[0], :, -1])
        for view in (view for view in views if view.view != "tile 0"):
            # The right half of the image.
            column = place[1] - grid[1] // 2 if view.view == "tile 1" else place[1] * view.grid[1] // grid[1]
            cell = place[0] * view.grid[0] // grid[0], column
            assert divmod(int(view.picture(change).argmax()), view.grid[1]) == cell
        assert int(change.argmax()) in {position for view in views for position in view.positions}


def kind_of(name: str) -> MediaType:
    return next(kind for kind in (*TYPES, *MORE_TYPES) if kind.name == name)


def given_of(name: str) -> tuple[Any, dict[str, Any]]:
    kind = kind_of(name)
    model = kind.model()
    return model, kind.inputs(model, noise(kind.sizes))


def generated(model: Any, given: dict[str, Any], **options: Any) -> Any:
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        model.generate(**given, max_new_tokens=3, do_sample=False, **options)
    return maps


@pytest.mark.parametrize("name", ["LLaVA", "Qwen2.5-VL", "PaliGemma", "Phi-4-multimodal", "Molmo2"])
def test_a_generated_answer_looks_at_the_same_patches(name: str) -> None:
    """Each step's keys have the images of the text before it, and so has the answer as a whole."""
    model, given = given_of(name)
    maps = generated(model, given)
    media = media_of(first_of_text(maps))
    assert list(dict.fromkeys((each.text, each.source) for each in media)) == [(0, 0), (0, 1), (1, 0)]
    steps = [each for each in maps if isinstance(each.keys, Tokens)]
    assert len(steps) == 6
    assert all(media_of(step) == media for step in steps)
    assert all(not step.queries.media for step in steps[2:])
    assert all(media_of(each) == media for each in maps.generation() if isinstance(each.keys, Tokens))


def test_placeholders_keep_their_names() -> None:
    """A model may look up another token in their stead, if its table has none for them."""
    model, given = given_of("PaliGemma")
    model.config.image_token_id = model.model.config.image_token_id = 64
    given["input_ids"][given["input_ids"] == 60] = 64
    keys = captured(model, given).keys
    assert isinstance(keys, Tokens)
    assert keys.texts[0].count("64") == 32
    assert len(keys.media) == 3


def test_beams_share_the_images_that_were_encoded_once() -> None:
    """Each beam of each text has its text's images."""
    model, given = given_of("LLaVA")
    media = media_of(first_of_text(generated(model, given, num_beams=2)))
    assert sorted((each.text, each.source) for each in media) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0)]


def test_the_second_turn_of_a_chat_adds_its_image() -> None:
    """Images of the text in the cache stay known, and those of the new text are counted on."""
    model, given = given_of("LLaVA")
    first = {name: given[name][1:] for name in ("input_ids", "attention_mask")}
    real = int(first["attention_mask"].sum())
    first = {name: value[:, -real:] for name, value in first.items()}
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        cache = cache_of(model(**first, pixel_values=given["pixel_values"][:1]))
        model(input_ids=first["input_ids"], pixel_values=given["pixel_values"][1:2], **with_cache(cache))
    (one, two) = media_of(maps[-1])
    assert (one.source, two.source) == (0, 1)
    assert [position + real for position in one.positions] == list(two.positions)


def test_placeholders_without_images_have_a_reason() -> None:
    """They stay plain tokens."""
    model, given = given_of("LLaVA")
    given |= {"pixel_values": None}
    keys = captured(model, given).keys
    assert isinstance(keys, Tokens)
    assert not keys.media
    assert "48 tokens stand for images that the model was not given" in repr(keys)


def test_other_numbers_than_a_family_expects_have_a_reason() -> None:
    """Where a fork merges patches in its own way, nothing is guessed."""
    model, given = given_of("LLaVA")
    model.model.config.vision_config.patch_size = 8
    assert "48 tokens stand for images, whose patches are 12" in repr(captured(model, given).keys)


def test_tiles_without_a_tokenizer() -> None:
    """Only names tell which tiles are of one image."""
    model, given = given_of("Idefics3")
    assert "capture with tokenizer=" in repr(captured(model, given).keys)


def test_queries_that_a_model_learned_are_no_patches() -> None:
    """BLIP-2's tokens of an image each attend to all of it."""
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision, former = {**size, "image_size": 16, "patch_size": 4}, {**size, "encoder_hidden_size": 32, "vocab_size": 9}
    text = transformers.OPTConfig(vocab_size=64, hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2)
    text.word_embed_proj_dim = 32
    parts: dict[str, Any] = {"vision_config": vision, "qformer_config": former, "text_config": text.to_dict()}
    config = transformers.Blip2Config(**parts, num_query_tokens=4, image_token_index=60)
    make: Any = transformers.Blip2ForConditionalGeneration
    model = make(config).eval()
    keys = captured(model, {"input_ids": torch.tensor([[60] * 4 + [2, 10]]), "pixel_values": torch.rand(1, 3, 16, 16)})
    assert "learned queries" in repr(keys.keys)


VIDEOS = ["Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE", "EXAONE 4.5", "Qwen2.5-Omni's thinker"]


@pytest.mark.parametrize("name", VIDEOS)
def test_a_frame_of_a_video_that_changes(name: str) -> None:
    """Two frames are one in time, and the column of a patch changes most at its frame, row and column."""
    model = kind_of(name).model()
    options: dict[str, Any] = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2, "do_sample_frames": False}
    size = {"shortest_edge": 64, "longest_edge": 64**2}
    process: Any = transformers.Qwen2VLVideoProcessor(**options, do_resize=False, size=size)
    frames = torch.from_numpy(np.stack(noise(((16, 24),) * 4))).permute(0, 3, 1, 2)
    changed = frames.clone()
    changed[2:, :, 8:, 16:] = 255 - changed[2:, :, 8:, 16:]
    # Qwen3-VL's text names the time before each frame.
    by_frame, whole = [2, 20, *[61] * 6, 21, 5, 20, *[61] * 6, 21, 11], [2, 20, *[61] * 12, 21, 11]
    text = by_frame if name.startswith("Qwen3-VL") else whole
    ids = torch.tensor([text])
    types = {"mm_token_type_ids": 2 * (ids == 61).long()} if IS_NEW else {}
    before, after = (
        captured(model, {"input_ids": ids, **types, **process([video], return_tensors="pt")})
        for video in (frames, changed)
    )
    (video,) = media_of(before)
    assert video.name == "video 0: 2 × 2 × 3"
    change = (after[0, :, -1] - before[0, :, -1]).abs().sum(0)
    assert int(change.argmax()) == video.at(1, 1, 2) == len(text) - 3


def test_a_frame_of_a_video_that_ends_in_a_separator() -> None:
    """LLaVA-OneVision halves the patches of each frame, and puts one token after the last."""
    model = kind_of("LLaVA-OneVision").model()
    ids = torch.tensor([[2, *[61] * 13, 11]])
    model.model.config.video_token_id = 61
    video = torch.rand(1, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = video.clone()
    changed[0, 1, :, 8:, :8] *= -1
    before, after = (captured(model, {"input_ids": ids, "pixel_values_videos": each}) for each in (video, changed))
    (found,) = media_of(before)
    assert found.name == "video 0: 3 × 2 × 2"
    assert int((after[0, :, -1] - before[0, :, -1]).abs().sum(0).argmax()) == found.at(1, 1, 0) == 1 + 6


def test_frames_with_class_tokens() -> None:
    """Video-LLaVA keeps the class token of each frame, which is no patch."""
    model = kind_of("Video-LLaVA").model()
    ids = torch.tensor([[2, *[61] * 34, 11]])
    model.model.config.video_token_index = 61
    video = torch.rand(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = video.clone()
    changed[0, 1, :, 8:12, 4:8] *= -1
    before, after = (captured(model, {"input_ids": ids, "pixel_values_videos": each}) for each in (video, changed))
    (found,) = media_of(before)
    assert found.name == "video 0: 2 × 4 × 4"
    assert int((after[0, :, -1] - before[0, :, -1]).abs().sum(0).argmax()) == found.at(1, 2, 1) == 1 + 17 + 1 + 9


def test_squares_of_patches_that_an_image_does_not_fill() -> None:
    """Molmo2's last squares have patches of padding, below and to the right."""
    model = kind_of("Molmo2").model()
    crops = {"size": {"height": 20, "width": 20}, "patch_size": 4, "max_crops": 4, "overlap_margins": [1, 1]}
    made = processed(built("Molmo2ImageProcessor")(**crops), noise(((20, 32),)))
    ids = torch.tensor([[2, *[60] * 21, 11]])
    model.model.vision_tower.positional_embedding.data = torch.zeros(25, 32)
    whole, tiles = (item.patches for item in media_of(captured(model, {"input_ids": ids, **made})))
    assert whole == Patches((3, 3), prefix=(), image_size=(24, 24), image_padding=(4, 4))
    # Three patches a tile beside the margins: 5 × 8.
    assert tiles == Patches((3, 4), prefix=(), image_size=(24, 32), image_padding=(4, 0))


def test_a_video_with_the_placeholders_of_images() -> None:
    """Molmo2 has one placeholder for both, and is given one of them."""
    model = kind_of("Molmo2").model()
    ids = torch.tensor([[2, *[60] * 4, 5, *[60] * 4, 11]])
    squares = torch.arange(32).reshape(2, 2, 2, 2, 2).transpose(2, 3).reshape(8, 4)
    given = {"input_ids": ids, "video_token_pooling": squares, "video_grids": torch.tensor([[2, 2, 2]])}
    video = torch.rand(2, 16, 48, generator=torch.Generator().manual_seed(0))
    changed = video.clone()
    changed[1, 8] = 1 - changed[1, 8]
    before, after = (captured(model, {**given, "pixel_values_videos": each}) for each in (video, changed))
    (found,) = media_of(before)
    assert (found.name, found.patches.image_size) == ("video 0: 2 × 2 × 2", (16, 16))
    assert int(moved(before[0, :, -1], after[0, :, -1]).argmax()) == found.at(1, 1, 0) == 1 + 5 + 2


def test_sounds_beside_images() -> None:
    """Phi-4-multimodal's images are known where it is given a sound as well, whose places are not."""
    model, given = given_of("Phi-4-multimodal")
    ids = given["input_ids"]
    ids[:, -1] = 62
    sound = {"audio_input_features": torch.rand(2, 8, 8), "audio_embed_sizes": torch.tensor([1, 1])}
    keys = captured(model, given | sound).keys
    assert "media unknown: how it places sounds in its text" in repr(keys)
    assert isinstance(keys, Tokens)
    assert len(keys.media) == 6


def test_the_frames_of_a_video_with_the_tokens_of_images() -> None:
    """GLM's text has no tokens of its own for a video, and they are not taken for an image."""
    if not IS_NEW:
        pytest.skip("Before transformers 5, GLM takes no video without an image.")
    model = kind_of("GLM-4V").model()
    ids = torch.tensor([[2, 20, *[60] * 4, 21, 11]])
    given = {"input_ids": ids, "pixel_values_videos": torch.rand(16, 96), "video_grid_thw": torch.tensor([[1, 4, 4]])}
    types = {"mm_token_type_ids": 2 * (ids == 60).long()} if IS_NEW else {}
    keys = captured(model, given | types).keys
    assert isinstance(keys, Tokens)
    assert not keys.media
    assert "which frames of a video" in repr(keys)


def test_sounds_whose_places_are_not_known_have_a_reason() -> None:
    """Of Qwen2.5-Omni only images and videos are known, and a sound that was given is not called missing."""
    model, given = given_of("Qwen2.5-Omni's thinker")
    ids = torch.cat([given["input_ids"], torch.full((2, 2), 62)], dim=1)
    mask = torch.ones(2, 8, dtype=torch.long)
    given |= {"input_ids": ids, "attention_mask": (ids != 1).long()}
    given |= {"input_features": torch.rand(2, 8, 8), "feature_attention_mask": mask}
    given |= {"mm_token_type_ids": (ids == 60).long() + 3 * (ids == 62).long()} if IS_NEW else {}
    keys = captured(model, given).keys
    assert "media unknown: how it places sounds in its text" in repr(keys)
    assert isinstance(keys, Tokens)
    assert len(keys.media) == 3
