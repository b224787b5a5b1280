"""Padding in pictures of several heads: it is grey, whatever number stands there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")

import torch
from matplotlib import colormaps
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from anylocal import plot
from anylocal.attention import AttentionMap, Tokens

REAL = 3
GREY = to_rgba("0.6")


def padded(real: int = REAL, padding: int = 2) -> AttentionMap:
    """Return the map of a text with padding, whose rows give their attention to the first key."""
    number = real + padding
    axis = Tokens(
        [f"t{position}" for position in range(number)], padding=[position >= real for position in range(number)]
    )
    weights = torch.rand(1, 2, number, number, generator=torch.Generator().manual_seed(0))
    weights[..., real:] = 0
    weights = weights / weights.sum(-1, keepdim=True)
    weights[:, :, real:] = torch.eye(number)[0]
    return AttentionMap.from_weights(weights, queries=axis, keys=axis)


@pytest.fixture(
    params=[plot.heads, lambda attention, **options: plot.model([attention], **options)], ids=["heads", "model"]
)
def recipe(request: pytest.FixtureRequest) -> Any:
    return request.param


def image_of(recipe: Any, attention: AttentionMap, **options: Any) -> Any:
    return recipe(attention, figure=Figure((6, 6)), **options).axes[0].images[0]


def test_padding_is_grey(recipe: Any) -> None:
    """Rows and columns of padding have the grey that no weight has, and all others keep their weights."""
    image = image_of(recipe, padded())
    array = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_array_equal(array[:REAL, :REAL], padded()[0, 0, :REAL, :REAL].numpy())
    assert np.isnan(array[REAL:]).all()
    assert np.isnan(array[:, REAL:]).all()
    assert tuple(image.get_cmap().get_bad()) == GREY


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_blocks_of_a_long_text(recipe: Any, reduce: Any) -> None:
    """Blocks of words are those of the text without padding, and blocks of padding are grey."""
    image = image_of(recipe, padded(300, 301), reduce=reduce)
    array = np.ma.filled(image.get_array(), np.nan)
    there = ~np.isnan(array)
    rows, columns = there.any(1).sum(), there.any(0).sum()
    assert there[:rows, :columns].all()
    assert there.sum() == rows * columns
    assert 0.4 < rows / len(array) < 0.6


def test_a_colormap_with_a_colour_of_its_own(recipe: Any) -> None:
    """A colormap that has a colour for missing values keeps it."""
    given = colormaps["viridis"].with_extremes(bad="white")
    assert tuple(image_of(recipe, padded(), cmap=given).get_cmap().get_bad()) == to_rgba("white")
