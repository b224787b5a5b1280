"""Patches of videos, feature maps and images of several sizes, which vision models attend to."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers

import anylocal_bert
from anylocal.attention import AttentionMap, Axis, Named, Patches, Tokens

from .media_types import built
from .vision_types import SIZES, VISION_TYPES, VisionType


def captured(model: Any, pattern: str, **given: Any) -> AttentionMap:
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        model(**given)
    return next(each for each in maps if re.match(pattern, each.name))


@pytest.mark.parametrize("kind", VISION_TYPES, ids=lambda kind: kind.name)
def test_the_column_of_a_part_that_changes_changes_most(kind: VisionType) -> None:
    """In the row of a query elsewhere, it is the key at that place."""
    model = kind.model()
    given = torch.rand(kind.shape, generator=torch.Generator().manual_seed(0))
    changed = given.clone()
    part: Any = kind.part if len(kind.part) == 2 else (kind.part[0], slice(None), *kind.part[1:])
    changed[(..., *part)] = 1 - changed[(..., *part)]
    before, after = (captured(model, kind.layer, **{kind.argument: each}, **kind.more) for each in (given, changed))
    assert repr(before.queries) == kind.queries
    assert repr(before.keys) == kind.keys
    scores = after[0, :, 0].log() - before[0, :, 0].log()
    # Of the keys that are as they were, the scores are those from before, but for a constant.
    change = (scores - scores.median(-1, keepdim=True).values).abs().sum(0)
    assert int(change.argmax()) == before.keys.position(kind.place)


def test_frames_of_one_patch() -> None:
    """TimeSformer attends in time within each patch, and in space within each frame."""
    sizes = {**SIZES, "image_size": 16, "num_frames": 4, "patch_size": 8}
    make: Any = transformers.TimesformerModel
    model = make(built("TimesformerConfig")(**sizes)).eval()
    attention = captured(model, r".*temporal", pixel_values=torch.rand(2, 4, 3, 16, 16))
    assert attention.keys == Named(("frame 0", "frame 1", "frame 2", "frame 3"))
    assert (attention.images, attention.windows) == (2, 4)


def test_what_an_image_attends_to() -> None:
    """In SAM's decoder, a patch that changes attends to the prompt otherwise than before."""
    kind = next(each for each in VISION_TYPES if each.name == "SAM, decoder")
    model, given = kind.model(), torch.rand(kind.shape)
    changed = given.clone()
    part: Any = (..., *kind.part)
    changed[part] = 1 - changed[part]
    name = r".*layers\.0\.cross_attn_image_to_token"
    before, after = (captured(model, name, pixel_values=each, **kind.more) for each in (given, changed))
    rows = (after[0] - before[0]).abs().sum((0, 2))
    assert (repr(before.queries), before.keys) == (kind.keys, Axis(7))
    assert int(rows.argmax()) == before.queries.position(kind.place)


def test_several_prompts_for_an_image() -> None:
    """The batch of SAM's decoder has all prompts of an image, one after the other."""
    kind = next(each for each in VISION_TYPES if each.name == "SAM, decoder")
    points = torch.rand(2, 3, 1, 2, generator=torch.Generator().manual_seed(0)) * 40
    attention = captured(kind.model(), r".*token_to_image", pixel_values=torch.rand(2, 3, 48, 48), input_points=points)
    assert (attention.shape[0], attention.images, attention.windows) == (6, 2, 3)


def test_an_image_that_was_encoded_before() -> None:
    """SAM's decoder has the grid of an embedding, though nothing tells the size of the image."""
    kind = next(each for each in VISION_TYPES if each.name == "SAM, decoder")
    attention = captured(kind.model(), r".*token_to_image", image_embeddings=torch.rand(1, 32, 6, 6), **kind.more)
    assert attention.keys == Patches((6, 6), prefix=())


def test_a_text_beside_an_image() -> None:
    """OWL-ViT's text tower has the tokens of its text, with padding."""
    kind = next(each for each in VISION_TYPES if each.name == "OWL-ViT, vision tower")
    ids, mask = torch.tensor([[1, 5, 2, 0]]), torch.tensor([[1, 1, 1, 0]])
    image = torch.rand(kind.shape)
    attention = captured(kind.model(), r"text_model", pixel_values=image, input_ids=ids, attention_mask=mask)
    assert isinstance(attention.keys, Tokens)
    assert attention.keys.labels() == ["1", "5", "2", "0"]
    assert attention.keys.is_padding(0).tolist() == [False, False, False, True]


def naflex() -> tuple[Any, dict[str, Any]]:
    """Return a model, and images of 3 × 4 and of 2 × 4 patches."""
    if not hasattr(transformers, "Siglip2VisionModel"):
        pytest.skip("This version of transformers has no SigLIP 2.")
    torch.manual_seed(0)
    make: Any = transformers.Siglip2VisionModel
    model = make(built("Siglip2VisionConfig")(patch_size=4, num_patches=16, **SIZES)).eval()
    mask = torch.tensor([[1] * 12, [1] * 8 + [0] * 4])
    return model, {"pixel_attention_mask": mask, "spatial_shapes": torch.tensor([[3, 4], [2, 4]])}


def test_images_of_several_sizes() -> None:
    """SigLIP 2's patches have the grid of their own image, and what is behind them is padding."""
    model, given = naflex()
    pixels = torch.rand(2, 12, 48)
    changed = pixels.clone()
    changed[1, 4 + 2] *= -1
    before, after = (captured(model, r".*layers\.0", pixel_values=each, **given) for each in (pixels, changed))
    assert isinstance(before.keys, Tokens)
    assert [item.name for item in before.keys.media] == ["image 0: 3 × 4", "image 0 of text 1: 2 × 4"]
    assert before.keys.is_padding(1).tolist() == [False] * 8 + [True] * 4
    found = int((after[1, :, 0] - before[1, :, 0]).abs().sum(0).argmax())
    assert found == before.keys.position("(1, 2)", 1) == before.keys.media[1].at(1, 2)
    assert not (after[0] - before[0]).any()


def test_patches_that_a_model_leaves_out() -> None:
    """VideoMAE's encoder sees some patches of a video only, and they are counted."""
    make: Any = transformers.VideoMAEModel
    model = make(built("VideoMAEConfig")(**SIZES, image_size=16, num_frames=4, patch_size=8, tubelet_size=2)).eval()
    mask = torch.tensor([[True, False] * 4])
    attention = captured(model, r"encoder", pixel_values=torch.rand(1, 4, 3, 16, 16), bool_masked_pos=mask)
    assert attention.keys == Axis(4)
