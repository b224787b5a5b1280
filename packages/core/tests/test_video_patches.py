"""Positions that are patches of a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from anylocal import plot, store  # noqa: E402  # after the check for torch
from anylocal.attention import AttentionMap, AttentionMaps, VideoPatches  # noqa: E402  # as above
from anylocal.errors import NameNotFoundError, PositionError, ShapeError  # noqa: E402  # as above

PATCHES = VideoPatches(grid=(2, 3, 4), prefix=("cls",), image_size=(24, 32))


def test_positions_go_through_frames_rows_and_columns() -> None:
    """Each has the name of its place, and is found by it."""
    assert len(PATCHES) == 25
    assert (PATCHES.label(0), PATCHES.label(1), PATCHES.label(-1)) == ("cls", "(0, 0, 0)", "(1, 2, 3)")
    assert all(PATCHES.position(PATCHES.cell(place)) == place for place in range(1, 25))
    assert (PATCHES.position("cls"), PATCHES.index(-1, 0, 0), PATCHES.cell(0)) == (0, 13, None)


@pytest.mark.parametrize("values", [np.arange(50.0).reshape(2, 25), torch.arange(50.0).reshape(2, 25)])
def test_values_are_split_into_pictures(values: Any) -> None:
    """One for each frame."""
    prefix, pictures = PATCHES.split(values)
    assert prefix.tolist() == [[0.0], [25.0]]
    assert tuple(pictures.shape) == (2, 2, 3, 4)
    assert float(pictures[1, 1, 2, 3]) == 49.0
    with pytest.raises(ShapeError, match="do not end in the 25 positions"):
        PATCHES.split(values[:, 1:])


@pytest.mark.parametrize("grid", [(2, 3), (0, 3, 4), "abc", (1.5, 2, 3)])
def test_other_grids_are_refused(grid: Any) -> None:
    """A video has three sides."""
    with pytest.raises(ShapeError, match="three positive integers"):
        VideoPatches(grid=grid)


def test_places_outside_are_refused() -> None:
    """The message names the side, or the prefix tokens."""
    with pytest.raises(PositionError, match="Frame index 2"):
        PATCHES.position((2, 0, 0))
    with pytest.raises(NameNotFoundError, match="cls"):
        PATCHES.position("clss")


def test_maps_of_videos_are_stored_and_drawn(tmp_path: Path) -> None:
    """A file keeps the axis, and a matrix has its names."""
    attention = AttentionMap.from_weights(torch.eye(25)[None, None], queries=PATCHES, keys=PATCHES, name="layer")
    store.save(AttentionMaps([attention]), tmp_path / "maps.safetensors")
    loaded: Any = store.load(tmp_path / "maps.safetensors")
    assert loaded[0].keys == PATCHES
    assert plot.heatmap(attention).get_xlabel()
