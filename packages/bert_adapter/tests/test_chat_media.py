"""A chat about images: which words of its answer look where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import transformers

import anylocal_bert
from anylocal_bert import plot

from .media_types import IS_NEW, PADDING, PLACEHOLDER, TYPES, Image
from .test_media import noise

NEW = 10
SIZES = (((16, 24), (32, 16)), ((24, 24), (16, 16)))
"""Of the image of each turn, for each text."""
QUESTIONS = (((2, 10), (11, 12, 13)), ((2,), (14,)))


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def chat() -> tuple[Any, dict[str, Any], list[list[Image]]]:
    """Return a model, a batch of two texts of two turns, padded on the left, and the images of each text."""
    kind = next(kind for kind in TYPES if kind.name == "Qwen2.5-VL")
    model = kind.model()
    images = [noise(sizes) for sizes in SIZES]
    name, options = kind.processor
    process = getattr(transformers, name)(**options)
    made = dict(process([i for own in images for i in own], return_tensors="pt", input_data_format="channels_last"))
    texts = []
    for sizes, questions in zip(SIZES, QUESTIONS, strict=True):
        text: list[int] = []
        for (high, wide), question in zip(sizes, questions, strict=True):
            # A turn: an image, a question, and what was answered to the first.
            text += [20, *[PLACEHOLDER] * (high // 8 * (wide // 8)), 21, *question, *([30, 31] if not text else [])]
        texts.append(text)
    longest = max(map(len, texts))
    ids = torch.tensor([[PADDING] * (longest - len(text)) + text for text in texts])
    made |= {"input_ids": ids, "attention_mask": (ids != PADDING).long()}
    if IS_NEW:
        made["mm_token_type_ids"] = (ids == PLACEHOLDER).long()
    return model, made, images


def eager_rows(model: Any, given: dict[str, Any], ids: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the mean map over layers and heads of a text read at once, by the model's own eager attention."""
    make: Any = transformers.AutoModelForImageTextToText.from_config
    eager = make(model.config, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    new = ids.shape[1] - given["input_ids"].shape[1]
    whole = dict(
        given, input_ids=ids, attention_mask=torch.nn.functional.pad(given["attention_mask"], (0, new), value=1)
    )
    if IS_NEW:
        whole["mm_token_type_ids"] = (ids == PLACEHOLDER).long()
    with torch.no_grad():
        maps = eager(**whole, output_attentions=True).attentions
    return torch.stack(maps).double().mean((0, 2)).numpy()


def test_the_words_of_an_answer_over_each_image_of_a_chat() -> None:
    """Ten tokens that two texts are continued by, over the image of each turn, are those of eager attention."""
    model, given, images = chat()
    with anylocal_bert.capture_attention(model) as maps, torch.no_grad():
        ids = model.generate(**given, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    read = ids[:, :-1]
    rows, start = eager_rows(model, given, read), given["input_ids"].shape[1]
    for text, source in np.ndindex(2, 2):
        figure = plot.over_words(maps, images[text][source], sample=text, source=source)
        assert f"image {source}" in " ".join(text.get_text() for text in figure.texts)
        panels = [ax for ax in figure.axes if len(ax.images) > 1]
        assert [ax.get_title() for ax in panels] == [str(token) for token in read[text, start:].tolist()]
        places = (read[text] == PLACEHOLDER).nonzero().flatten()
        high, wide = (side // 8 for side in SIZES[text][source])
        first = 0 if not source else len(places) - high * wide
        for position, ax in enumerate(panels, start):
            expected = rows[text, position, places[first : first + high * wide]].reshape(high, wide)
            np.testing.assert_allclose(np.asarray(ax.images[1].get_array()), expected, atol=1e-5)
