"""Rows of weights over the image: keys of a window, or in any order, are put in the places of their patches.

Patches outside a window are NaN. In a windowed layer, the samples of a batch are the windows of the images, one image
after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anylocal.attention import AttentionMap, Axis, PlacedPatches
from anylocal.drawing import inside, rows_of
from anylocal.errors import ChoiceError, PositionError, ShapeError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anylocal.drawing import Weights


def asked(attention: AttentionMap, queries: Sequence[Any], image: int) -> dict[int, list[int]]:
    """Return the positions of queries, by sample of the batch.

    Raises
    ------
    ChoiceError
        If a layer attends within windows, and a query is not a (row, column) pair, which determines the window.
    PositionError, NameNotFoundError
        If no such query exists.
    """
    found: dict[int, list[int]] = {}
    for query in queries:
        window, position = _place(attention, query, image)
        found.setdefault(image * attention.windows + window, []).append(position)
    return found


def _place(attention: AttentionMap, query: Any, image: int) -> tuple[int, int]:
    axis = attention.queries
    if attention.windows == 1:
        return 0, axis.position(query, image)
    if not isinstance(axis, PlacedPatches) or not is_cell(query):
        msg = (
            f"{attention!r} attends within windows, and the query {query!r} does not say in which; give a patch of the"
            " image as (row, column), or draw that query of every window by windows(…, query=…)."
        )
        raise ChoiceError(msg)
    return of_image(axis, image, attention.windows).find(*query)


def mean_row(attention: AttentionMap, rows: Mapping[int, Sequence[int]], head: int | None) -> Weights:
    """Return the mean of rows over the image, prefix tokens first: NaN where none of them has a key."""
    sums = np.stack(
        [spread(attention.keys, rows_of(attention, at, head, some).sum(0), at) for at, some in rows.items()]
    )
    mean: Weights = np.nansum(sums, axis=0) / sum(map(len, rows.values()))
    return np.where(np.isnan(sums).all(0), np.nan, mean)


def spread(keys: Axis, row: Weights, sample: int) -> Weights:
    """Put one row of weights in the places of its keys in the image, prefix tokens first."""
    if not isinstance(keys, PlacedPatches):
        return row
    picture = of_image(keys, sample, 1).picture(row[None])
    return np.concatenate([row[: len(keys.prefix)], picture.ravel()])


def stitched(attention: AttentionMap, image: int, position: int | None, head: int | None) -> Weights:
    """Return a row for the image from one row of each window: that of a query, or the mean over its patches.

    If the query is padding in a window, the patches of that window are NaN. Prefix tokens get the mean over windows.

    Raises
    ------
    PositionError
        If the query is padding in every window.
    """
    keys = of_image(attention.keys, image, attention.windows)
    rows: dict[int, Weights] = {}
    for window in range(attention.windows):
        sample = image * attention.windows + window
        asking = _asking(attention.queries, position, sample)
        if asking:
            rows[window] = rows_of(attention, sample, head, asking).mean(0)
    if not rows:
        msg = f"Query {position} is padding in every window of {attention!r}; give another."
        raise PositionError(msg)
    there = PlacedPatches(keys.grid, keys.places[list(rows)], prefix=keys.prefix)
    values = np.stack(list(rows.values()))
    return np.concatenate([values[:, : len(keys.prefix)].mean(0), there.picture(values).ravel()])


def check_windowed(attention: AttentionMap) -> None:
    """Raise if a layer does not attend within windows."""
    if attention.windows == 1:
        msg = f"{attention!r} attends to the whole image, not within windows; draw it by query."
        raise UnsupportedError(msg)


def of_image(axis: Axis, image: int, windows: int) -> PlacedPatches:
    """Return the windows of one image."""
    assert isinstance(axis, PlacedPatches), "`seen` has checked it"
    chosen = (image * windows + np.arange(windows)) % axis.windows
    return PlacedPatches(axis.grid, axis.places[chosen], prefix=axis.prefix)


def within(axis: Axis, query: Any) -> tuple[int, str]:
    """Return the position of a query in every window, and its name; a pair is row and column within the window.

    Raises
    ------
    ShapeError
        If a pair is given and the windows are not made of rows and columns.
    PositionError, NameNotFoundError
        If no such query exists.
    """
    if not isinstance(axis, PlacedPatches) or not is_cell(query):
        position = axis.position(query)
        return position, query if isinstance(query, str) else str(position)
    rows, columns = _window_shape(axis)
    row = inside(query[0], rows, "window row", of=axis)
    column = inside(query[1], columns, "window column", of=axis)
    return len(axis.prefix) + row * columns + column, str((row, column))


def regions(axis: PlacedPatches, *windows: int) -> npt.NDArray[np.int64]:
    """Return the window of each patch, counted from 1, and 0 outside all: shape (rows + 2, columns + 2).

    Lines are drawn wherever neighbours differ. The margin around the image is 0 for chosen windows, which get lines
    there; for all windows it repeats the edge.
    """
    found = np.zeros(axis.grid[0] * axis.grid[1], dtype=np.int64)
    for number, window in enumerate(windows or range(axis.windows), start=1):
        places = axis.places[window]
        found[places[places >= 0]] = number
    return np.pad(found.reshape(axis.grid), 1, mode="constant" if windows else "edge")


def scattered(numbers: npt.NDArray[np.int64]) -> bool:
    """Return whether, by `regions`, no patch has a neighbour in its own window."""
    inside = numbers[1:-1, 1:-1]
    return bool((inside[1:] != inside[:-1]).all() and (inside[:, 1:] != inside[:, :-1]).all())


def is_cell(query: Any) -> bool:
    """Return whether a query is a patch given as (row, column), not a list of queries."""
    return (
        not isinstance(query, str)
        and hasattr(query, "__len__")
        and len(query) == 2  # noqa: PLR2004  # row and column
        and all(hasattr(part, "__index__") and not np.ndim(part) for part in query)
    )


def _asking(axis: Axis, position: int | None, sample: int) -> list[int]:
    """Return the position as a list, empty if it is padding in the window; without one, all patches."""
    if not isinstance(axis, PlacedPatches):
        return list(range(len(axis))) if position is None else [position]
    first = len(axis.prefix)
    patches: list[int] = (first + np.flatnonzero(axis.places[sample % axis.windows] >= 0)).tolist()
    if position is None:
        return patches
    return [position] if position < first or position in patches else []


def _window_shape(axis: PlacedPatches) -> tuple[int, int]:
    """Return the rows and columns of a window, in which a column of the image recurs in the next row."""
    length = axis.places.shape[1]
    width = length
    for places in axis.places:
        real = np.flatnonzero(places >= 0)
        columns = places[real] % axis.grid[1]
        again = real[columns == columns[0]] if len(real) else real
        width = min([width, *np.diff(again).tolist()])
    if length % width:
        msg = f"The windows of {axis!r} are not made of rows and columns; give the query's position in its window."
        raise ShapeError(msg)
    return length // width, width
