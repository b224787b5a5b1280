"""The towers of Qwen2-VL and others like it, which see images, frames and windows one after the other."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import anylocal_bert
from anylocal.attention import AttentionMap, AttentionMaps, PlacedPatches

from .media_types import TYPES, MediaType, processed
from .more_media_types import MORE_TYPES

_NAMES = r"Qwen.*|GLM.*|EXAONE.*"
TOWERS = [kind for kind in (*TYPES, *MORE_TYPES) if re.fullmatch(_NAMES, kind.name)]
PADDLE = next(kind for kind in MORE_TYPES if kind.name == "PaddleOCR-VL")


def images() -> list[Any]:
    """Return images of 4 × 6, 8 × 4 and 4 × 4 patches."""
    make = np.random.default_rng(0)
    return [make.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((16, 24), (32, 16), (16, 16))]


def tower_of(model: Any) -> Any:
    return next(module for name, module in model.named_modules() if name.rpartition(".")[2] == "visual")


def captured(model: Any, *args: Any, **given: Any) -> list[AttentionMap]:
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        model(*args, **given)
    return within_tower(maps)


def within_tower(maps: AttentionMaps) -> list[AttentionMap]:
    return [each for each in maps if re.search(r"(blocks\.\d+\.attn|visual\..*layers\.\d+\.self_attn)$", each.name)]


def given_to(kind: MediaType, given: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the patches of images as their processor packs them, and their grids."""
    name, options = kind.processor
    made = processed(getattr(transformers, name)(**options), given)
    return made["pixel_values"], made["image_grid_thw"]


def check(before: list[AttentionMap], after: list[AttentionMap], place: tuple[int, int]) -> None:
    """Check that in each layer one map changes, most in the column of a patch of the second image."""
    found = {}
    for first, second in zip(before, after, strict=True):
        scores = second[0, :, 0].log() - first[0, :, 0].log()
        change = (scores - scores.median(-1, keepdim=True).values).abs().sum(0)
        if change.max() > 1e-3:
            assert isinstance(first.keys, PlacedPatches)
            assert first.queries == first.keys == second.keys
            assert (first.keys.grid, first.keys.image_size) == ((8, 4), (32, 16))
            assert first.name not in found
            found[first.name] = int(change.argmax()), first.keys.find(*place)[1]
    assert len(found) == len({each.name for each in before}) == 2
    assert all(column == known for column, known in found.values())


@pytest.mark.parametrize("kind", TOWERS, ids=lambda kind: kind.name)
def test_patches_in_the_order_of_a_tower(kind: MediaType) -> None:
    """A tower alone has the grid of each image before patches are merged, in the order in which it sees them."""
    model = kind.model()
    given = images()
    pixels, grids = given_to(kind, given)
    given[1][20:24, 4:8] ^= 255
    changed, _ = given_to(kind, given)
    tower = tower_of(model)
    before, after = (captured(tower, each, grid_thw=grids) for each in (pixels, changed))
    check(before, after, (5, 1))


@pytest.mark.parametrize("kind", [*TOWERS[:2], PADDLE], ids=lambda kind: kind.name)
def test_towers_within_a_model(kind: MediaType) -> None:
    """Also where the whole model is captured, and in a second forward pass."""
    model = kind.model()
    given = images()
    inputs = kind.inputs(model, given)
    given[1][20:24, 4:8] ^= 255
    changed = kind.inputs(model, given)
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        model(**inputs)
        model(**changed)
    passes = maps.forwards
    before, after = (within_tower(one) for one in passes)
    check(before, after, (5, 1))


def test_frames_of_a_video_one_after_the_other() -> None:
    """Each frame of a video has a map of its own, with the patches of that frame."""
    kind = TOWERS[0]
    attention = captured(tower_of(kind.model()), torch.rand(2 * 8, 96), grid_thw=torch.tensor([[2, 2, 4]]))
    assert [len(each.keys) for each in attention] == [8] * 4
    expected = PlacedPatches((2, 4), [[0, 1, 4, 5, 2, 3, 6, 7]], image_size=(8, 16))
    assert all(each.keys == expected for each in attention)
