"""The places of patches in windows, for small grids, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anylocal.attention import Axis, Named, Patches
from anylocal_vit._family import grid_of, tiles
from anylocal_vit._models import prefix_names
from anylocal_vit.families.byoanet import overlapping


def test_windows_are_cut_row_by_row() -> None:
    """The windows of a grid, and the patches of each, come row by row."""
    assert tiles((2, 4), (2, 2)).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_a_grid_is_padded_below_and_to_the_right() -> None:
    """Positions of a window beyond the grid are padding."""
    assert tiles((1, 3), (2, 2)).tolist() == [[0, 1, -1, -1], [2, -1, -1, -1]]


def test_a_shifted_grid_is_rolled() -> None:
    """The last window of a shifted grid holds what was rolled over its edge."""
    assert tiles((1, 4), (1, 2), shift=(0, 1)).tolist() == [[1, 2], [3, 0]]


def test_strided_windows_take_from_all_over() -> None:
    """A strided window takes every other patch."""
    assert tiles((1, 4), (1, 2), strided=True).tolist() == [[0, 2], [1, 3]]


def test_overlapping_blocks_have_a_halo() -> None:
    """Each block also holds its neighbours, and padding at the edge."""
    assert overlapping((1, 4), 1, 1)[1].tolist() == [-1, -1, -1, 0, 1, 2, -1, -1, -1]


@pytest.mark.parametrize(
    ("patches", "size", "grid"),
    [
        (196, (224, 224), (14, 14)),
        (16, (224, 224), (4, 4)),
        (12, (96, 128), (3, 4)),
        (27, (224, 112), None),
        (729, (224, 224), (27, 27)),
        (50, (224, 224), None),
        (6, (60, 90), (2, 3)),
    ],
)
def test_a_grid_has_the_shape_of_the_image(patches: int, size: tuple[int, int], grid: Any) -> None:
    """The rows and columns of a number of patches fit the shape of the image, or are None."""
    assert grid_of(patches, size) == grid


class Holder:
    """A model with these tokens."""

    def __init__(self, **tokens: Any) -> None:
        vars(self).update(tokens)


@pytest.mark.parametrize(
    ("tokens", "names"),
    [
        ({}, ()),
        ({"cls_token": 1}, ("cls",)),
        ({"cls_token": 1, "dist_token": 1}, ("cls", "dist")),
        ({"cls_token": 1, "reg_token": torch.zeros(1, 2, 4)}, ("cls", "reg1", "reg2")),
        ({"reg_token": torch.zeros(1, 1, 4), "num_prefix_tokens": 1}, ("reg1",)),
        ({"num_prefix_tokens": 2}, ("prefix0", "prefix1")),
        ({"embeds": Holder(cls_token=1), "num_prefix_tokens": 1}, ("cls",)),
    ],
)
def test_prefix_tokens_have_names(tokens: dict[str, Any], names: tuple[str, ...]) -> None:
    """Prefix tokens are named after the parameters that hold them, or numbered."""
    assert prefix_names(Holder(**tokens)) == names


def test_axes_of_other_kinds_differ() -> None:
    """Named positions equal neither counted positions nor patches."""
    axes: list[object] = [Named(("cls",)), Axis(1), Patches((1, 1), prefix=())]
    assert all(one != other for one in axes for other in axes if one is not other)
