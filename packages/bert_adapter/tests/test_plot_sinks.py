"""Pictures in which patches that any text attends to stand back: relative ones, and without sinks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from anylocal.attention import AttentionMap, Media, Patches, Tokens
from anylocal.errors import ShapeError
from anylocal_bert import plot

from .test_plot_media import IMAGE, axis_of, drawn, made


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def neutral(seed: int = 5) -> AttentionMap:
    """Return the map of another text about the same image, which ends in padding."""
    image = Media("image", range(6), Patches((2, 3), prefix=(), image_size=(32, 48)))
    axis = Tokens([*["<img>"] * 6, "describe", "it", "<pad>"], padding=[*[False] * 8, True], media=[image])
    weights = torch.rand(1, 2, 9, 9, generator=torch.Generator().manual_seed(seed))
    return AttentionMap.from_weights(weights / weights.sum(-1, keepdim=True), queries=axis, keys=axis, name="layers.0")


def test_weights_relative_to_a_neutral_prompt() -> None:
    """They are divided by those of its last token, patch by patch."""
    rows = [
        attention.tensor()[0, :, position, patches].mean(0).reshape(2, 3)
        for attention, position, patches in ((made(), 12, slice(1, 7)), (neutral(), 7, slice(6)))
    ]
    ax = plot.over_image(made(), IMAGE, query="dog", relative_to=neutral())
    np.testing.assert_allclose(drawn(ax), rows[0] / rows[1], rtol=1e-5)
    labels = [each.get_ylabel().replace("\n", " ") for each in ax.child_axes]
    assert "times the attention of the neutral prompt" in labels
    figure = plot.over_words(made(), IMAGE, relative_to=[neutral()], share="all")
    np.testing.assert_allclose(drawn(figure.axes[4]), rows[0] / rows[1], rtol=1e-5)
    assert any("times the attention" in each.get_ylabel().replace("\n", " ") for each in figure.axes)


def test_other_patches_and_other_layers_are_refused() -> None:
    """They cannot be divided."""
    image = Media("image", range(1, 7), Patches((3, 2), prefix=(), image_size=(48, 32)))
    with pytest.raises(ShapeError, match="image 0: 3 × 2, and the map 1 layers with image 0: 2 × 3"):
        plot.over_image(made(), IMAGE, query="dog", relative_to=made(axis_of(image)))
    with pytest.raises(ShapeError, match="2 layers"):
        plot.over_image(made(), IMAGE, query="dog", relative_to=[neutral(), neutral(6)])


def with_sink() -> AttentionMap:
    """Return a map whose words all attend to one patch above all."""
    weights: Any = made().tensor().clone()
    weights[..., 4] = 30
    axis = axis_of()
    return AttentionMap.from_weights(weights / weights.sum(-1, keepdim=True), queries=axis, keys=axis)


def test_sinks_are_told_and_left_out() -> None:
    """A patch that all words attend to, not one that a word attends to."""
    attention = with_sink()
    held = float(attention.tensor()[0, :, 12, 4].mean())
    ax = plot.over_image(attention, IMAGE, query="dog")
    assert f"{held:.2g} on 1 sink".removeprefix("0") in ax.get_title()
    assert not np.isnan(drawn(ax)).any()
    ax = plot.over_image(attention, IMAGE, query="dog", sinks=False)
    assert np.argwhere(np.ma.getmaskarray(np.ma.masked_invalid(drawn(ax)))).tolist() == [[1, 0]]
    assert "left out" in ax.get_title()
    figure = plot.over_words(attention, IMAGE, sinks=False)
    assert any("1 sink left out" in text.get_text() for text in figure.texts)
    assert np.isnan(np.ma.filled(drawn(figure.axes[0]), np.nan)).sum() == 1


def test_what_one_word_attends_to_is_no_sink() -> None:
    """Nothing is told of sinks where there are none."""
    weights: Any = made().tensor().clone()
    weights[..., 12, 4] = 5
    axis = axis_of()
    attention = AttentionMap.from_weights(weights / weights.sum(-1, keepdim=True), queries=axis, keys=axis)
    ax = plot.over_image(attention, IMAGE, query="dog", sinks=False)
    assert "sink" not in ax.get_title()
    assert not np.isnan(np.asarray(drawn(ax), dtype=float)).any()


def test_a_number_in_a_title_is_not_broken() -> None:
    """In narrow axes the title has more lines, and what is on the image stays in one."""
    _, panels = plt.subplots(1, 4, layout="constrained")
    title = plot.over_image(made(), IMAGE, query="dog", ax=panels[0]).get_title()
    assert any(re.search(r", \.\d+ of its weight on the image$", line) for line in title.split("\n"))
