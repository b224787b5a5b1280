"""Array indexing, done before the array exists.

An index is split in three: a pick for each axis, applied to the operands of a map; the points that several arrays
select together, gathered from each block of the rows picked; and the rest, applied to what came of that. An integer,
for example, picks one position, and the rest drops the axis.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from anylocal._maps.bounds import inside
from anylocal.errors import PositionError

if TYPE_CHECKING:
    from anylocal._maps.rows import Pick

Array: TypeAlias = Sequence[int] | Sequence[bool] | npt.NDArray[Any] | torch.Tensor
Item: TypeAlias = SupportsIndex | slice | EllipsisType | Array | None
Index: TypeAlias = Item | tuple[Item, ...]

Queries: TypeAlias = int | slice | Array | None
"""Query positions; None for all."""

AXES = ("batch", "head", "query", "key")

_Parsed: TypeAlias = int | slice | torch.Tensor | bool | None


class Selection(NamedTuple):
    """What an index selects of a map.

    Attributes
    ----------
    picks : list of Pick
        For each axis, the positions that are needed.
    points : dict of int to torch.Tensor
        Where arrays select positions that depend on each other: for each of their axes, an index into its pick for each
        point, shape (n,). The points become the first of these axes, and the others have length 1.
    rest : tuple
        The index into what is selected so.
    """

    picks: list[Pick]
    points: dict[int, torch.Tensor]
    rest: tuple[_Parsed, ...]


def resolve(index: Index, shape: Sequence[int], device: torch.device) -> Selection:
    """Split an index of a map of shape (batch, head, query, key).

    The index may hold integers, slices of any step, ``...``, ``None`` and arrays, as in torch. There is a pick for each
    axis: a slice or a 1-D tensor of positions. Arrays of the rest are on `device`. An index that does not fit the shape
    raises a PositionError.
    """
    picks: list[Pick] = [slice(None)] * len(shape)
    arrays: dict[int, torch.Tensor] = {}
    rest: list[_Parsed] = []
    axis = 0
    for item in _expanded(index, len(shape)):
        if item is None or isinstance(item, bool):
            rest.append(item)
            continue
        length, name = shape[axis], AXES[axis]
        if isinstance(item, torch.Tensor):
            found = [array.to(device) for array in _positions(item, shape[axis:], name)]
            arrays |= dict(enumerate(found, axis))
            rest += [slice(None)] * len(found)
        elif isinstance(item, slice):
            picks[axis] = _slice(item, length)
            rest.append(slice(None))
        else:
            position = inside(item, length, name)
            picks[axis] = slice(position, position + 1)
            rest.append(0)
        axis += _axes(item)
    if [array.ndim for array in arrays.values()] == [1] and not any(isinstance(item, bool) for item in rest):
        return Selection([arrays.get(at, pick) for at, pick in enumerate(picks)], {}, tuple(rest))
    return Selection(picks, _points(arrays, picks, rest), tuple(rest))


def _points(arrays: dict[int, torch.Tensor], picks: list[Pick], rest: list[_Parsed]) -> dict[int, torch.Tensor]:
    """Return the points that arrays select together, and change the picks and the rest to match."""
    try:
        together = torch.broadcast_tensors(*arrays.values())
    except RuntimeError:
        shapes = ", ".join(str(tuple(array.shape)) for array in arrays.values())
        msg = f"Arrays of shapes {shapes} do not broadcast to one shape; give a position of each axis for each value."
        raise PositionError(msg) from None
    places = [place for place, item in enumerate(rest) if item is not None and not isinstance(item, bool)]
    points: dict[int, torch.Tensor] = {}
    for axis, array in zip(arrays, together, strict=True):
        picks[axis], points[axis] = array.flatten().unique(return_inverse=True)
        number = torch.arange(array.numel(), device=array.device).view(array.shape)
        rest[places[axis]] = number if len(points) == 1 else torch.zeros_like(number)
    return points


def query_rows(queries: Queries, shape: Sequence[int], device: torch.device) -> tuple[Pick, int | slice]:
    """Return the pick along the query axis, and the index into the picked rows: 0 for an integer, else all."""
    rows = slice(None) if queries is None else queries
    picks, _, rest = resolve((slice(None), slice(None), rows), shape, device)
    if not isinstance(rest[2], int | slice):
        msg = f"queries={queries!r} is neither a position nor a list of positions; give one of these."
        raise PositionError(msg)
    return picks[2], rest[2]


def _expanded(index: Index, ndim: int) -> list[_Parsed]:
    """Write out the ellipsis and the axes left unindexed."""
    given = [_parsed(item) for item in (index if isinstance(index, tuple) else (index,))]
    dots = [at for at, item in enumerate(given) if item is Ellipsis] or [len(given)]
    items = [item for item in given if not isinstance(item, EllipsisType)]
    missing = ndim - sum(_axes(item) for item in items)
    if missing < 0 or len(dots) > 1:
        msg = f"The index {index!r} is too long for a map, whose axes are {', '.join(AXES)}."
        raise PositionError(msg)
    whole: list[_Parsed] = [slice(None)] * missing
    return [*items[: dots[0]], *whole, *items[dots[0] :]]


def _parsed(item: Item) -> _Parsed | EllipsisType:
    if item is None or isinstance(item, slice | EllipsisType):
        return item
    if isinstance(item, bool | np.bool_):
        return bool(item)
    try:
        array = _array(item) if isinstance(item, Sequence | np.ndarray | torch.Tensor) else operator.index(item)
    except (TypeError, ValueError):
        msg = f"A map cannot be indexed by {item!r}; use integers, slices, ..., None, or arrays of integers or bool."
        raise PositionError(msg) from None
    if isinstance(array, int) or array.ndim:
        return array
    return bool(array) if array.dtype == torch.bool else int(array)


def _array(item: Array) -> torch.Tensor:
    if isinstance(item, torch.Tensor):
        integral = not (item.is_floating_point() or item.is_complex())
        kind, array = "b" if item.dtype == torch.bool else "i" if integral else "f", item
    else:
        # A copy in C order: torch refuses negative strides, and warns about read-only arrays.
        source = np.array(item, dtype=np.int64 if isinstance(item, Sequence) and not item else None, order="C")
        kind = source.dtype.kind
        array = torch.from_numpy(source.astype(np.int64) if kind in "iu" else source)
    if kind not in "biu":
        raise TypeError(kind)
    return array if kind == "b" else array.long()


def _axes(item: object) -> int:
    """Return the number of axes that an item indexes."""
    if item is None or isinstance(item, bool):
        return 0
    return item.ndim if isinstance(item, torch.Tensor) and item.dtype == torch.bool else 1


def _slice(item: slice, length: int) -> Pick:
    start, stop, step = item.indices(length)
    # torch has no negative steps, so these positions are written out.
    return slice(start, stop, step) if step > 0 else torch.arange(start, stop, step)


def _positions(array: torch.Tensor, shape: Sequence[int], name: str) -> Sequence[torch.Tensor]:
    """Return the positions that an array selects, counted from the start, along each of the axes that it indexes."""
    if array.dtype == torch.bool:
        if tuple(array.shape) != tuple(shape[: array.ndim]):
            msg = f"A bool index of shape {tuple(array.shape)} does not fit the {name} axis: {tuple(shape)}."
            raise PositionError(msg)
        return array.nonzero(as_tuple=True)
    for extreme in (array.min(), array.max()) if array.numel() else ():
        inside(int(extreme), shape[0], name)
    return [array % shape[0] if array.numel() else array]
