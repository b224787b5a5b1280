"""Pictures of what a word, or a patch, attends to in a video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from anylocal.attention import AttentionMap, Media, Patches, Tokens, VideoPatches
from anylocal.errors import ShapeError, StateError
from anylocal_bert import plot

VIDEO = np.random.default_rng(0).integers(0, 256, (6, 16, 24, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def made() -> AttentionMap:
    """Return the map of a text with a video of 3 frames of 2 × 3 patches."""
    media = Media("video", range(1, 19), Patches((2, 3), prefix=(), image_size=(16, 24)), frames=3)
    axis = Tokens(["<s>", *["<video>"] * 18, "a", "dog"], media=[media])
    weights = torch.rand(1, 2, 21, 21, generator=torch.Generator().manual_seed(0))
    return AttentionMap.from_weights(weights / weights.sum(-1, keepdim=True), queries=axis, keys=axis, name="layer")


def frames(figure: Any) -> list[Any]:
    return [ax for ax in figure.axes if len(ax.images) > 1]


def test_a_panel_for_each_frame() -> None:
    """Its weights are those of the frame's patches, over the first of the images that the model has merged."""
    attention = made()
    panels = frames(plot.over_frames(attention, VIDEO, query="dog"))
    assert [ax.get_title() for ax in panels] == ["frame 0", "frame 2", "frame 4"]
    expected = attention.tensor()[0, :, 20, 1:19].mean(0).reshape(3, 2, 3)
    for number, ax in enumerate(panels):
        np.testing.assert_allclose(np.asarray(ax.images[1].get_array()), expected[number], rtol=1e-5)
    shown = np.asarray(panels[1].images[0].get_array())
    others = np.asarray(frames(plot.over_frames(attention, VIDEO[[2, 2, 2]], query="dog"))[1].images[0].get_array())
    np.testing.assert_array_equal(shown, others)


def test_frames_share_a_scale() -> None:
    """Unless each is to have its own."""
    limits = [ax.images[1].norm.vmax for ax in frames(plot.over_frames(made(), VIDEO, query="dog"))]
    assert len(set(limits)) == 1
    limits = [ax.images[1].norm.vmax for ax in frames(plot.over_frames(made(), VIDEO, query="dog", share="head"))]
    assert len(set(limits)) == 3


def test_a_patch_of_a_video_model() -> None:
    """Its maps have patches of the video on both sides, and a prefix token is left out."""
    patches = VideoPatches((2, 1, 2), prefix=("cls",))
    weights = torch.rand(1, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    attention = AttentionMap.from_weights(weights / weights.sum(-1, keepdim=True), queries=patches, keys=patches)
    panels = frames(plot.over_frames(attention, VIDEO, query=(1, 0, 0), head=1))
    expected = attention.tensor()[0, 1, 3, 1:].reshape(2, 1, 2)
    np.testing.assert_allclose([np.asarray(ax.images[1].get_array()) for ax in panels], expected, rtol=1e-5)


def test_videos_that_do_not_fit() -> None:
    """Another number of frames, another crop, and maps without a video."""
    with pytest.raises(ShapeError, match="has 5 frames and the model 3"):
        plot.over_frames(made(), VIDEO[:5], query="dog")
    with pytest.raises(ShapeError, match="24 × 16 pixels, and the model saw 16 × 24"):
        plot.over_frames(made(), VIDEO.transpose(0, 2, 1, 3), query="dog")
    with pytest.raises(StateError, match="No map has a video"):
        plot.over_frames(AttentionMap.from_weights(torch.eye(2)[None, None]), VIDEO, query=0)
