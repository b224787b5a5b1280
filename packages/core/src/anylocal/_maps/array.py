"""What a map can do as an array: indexing, conversion, reduction and arithmetic, of which only the results exist."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from numbers import Real
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from anylocal._engine.containers import Copy
from anylocal._engine.tensors import to_numpy
from anylocal._maps import reductions
from anylocal._maps.blocks import select
from anylocal._maps.combined import CombinedRows
from anylocal._maps.indexing import Index, resolve
from anylocal._maps.labels import Labels
from anylocal._maps.reductions import AxisIndex, TopK
from anylocal._maps.rows import Rows, float_type
from anylocal.errors import OptionError, ShapeError

Binary: TypeAlias = "Callable[[MapArray, MapArray | float], MapArray]"


def _both_ways(function: Callable[..., Any]) -> tuple[Binary, Binary]:
    """Return the methods of an operator: for a map on its left, and on its right."""

    def combined(one: Any, other: Any) -> Any:
        if not all(isinstance(each, MapArray | Real) for each in (one, other)):
            # Tensors and arrays take it from here, with all of the map.
            return NotImplemented
        return _combined(function, one, other)

    return combined, lambda own, other: combined(other, own)


def _reduced(reduce: Callable[[Any], torch.Tensor], axis: AxisIndex, dim: AxisIndex, *, keepdim: bool) -> torch.Tensor:
    """Reduce along an axis, which torch calls `dim`, and keep it with length 1 if that is asked for."""
    if axis is not None and dim is not None:
        raise OptionError(f"axis={axis!r} and dim={dim!r} are two names of one argument; give one.")
    along = dim if axis is None else axis
    made = reduce(along)
    for each in reductions.axes_of(along) if keepdim else ():
        made = made.unsqueeze(each)
    return made


class MapArray:
    """Values of shape (batch, head, query, key), computed when they are read: a map, or what arithmetic makes of maps.

    ``maps[3] - other[3]``, ``2 * maps[3]`` and ``maps[3] > 0.1`` are such arrays; ``==`` compares identity. Indexing
    computes only the rows needed and keeps only what was asked for. Reductions and columns go through the rows in
    blocks, so that they need little memory for maps of any length. Everything that wants the whole map computes it:
    `tensor`, `numpy`, ``np.asarray``, ``torch.as_tensor`` (without a graph) and the functions of torch, such as
    ``torch.stack(list(maps))``.

    Parameters
    ----------
    rows : object
        Source of the rows; arithmetic makes it.
    labels : object
        What the map knows about itself; arithmetic keeps what all operands have in common.

    Notes
    -----
    Padding counts in reductions; in the statistics, such as `entropy`, it does not.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap
    >>> before, after = (AttentionMap.from_weights(w, name="layer.0") for w in (torch.full((2, 2), 0.5), torch.eye(2)))
    >>> change = after - before
    >>> change
    MapArray('layer.0', batch=1, heads=1, queries=2, keys=2)
    >>> change[0, 0, :, 1], abs(change).max()
    (tensor([-0.5000,  0.5000]), tensor(0.5000))
    """

    def __init__(self, rows: Rows, labels: Labels) -> None:
        self.rows = rows
        self.labels = labels
        self.queries, self.keys = labels.axes(self.shape)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, head, query, key)."""
        return self.rows.shape

    @property
    def ndim(self) -> int:
        """Number of axes: 4."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values: that of given weights, float32 or float64 for computed ones, bool for comparisons."""
        return self.rows.dtype

    @property
    def device(self) -> torch.device:
        """Device of the operands, on which the rows are computed."""
        return self.rows.device

    @property
    def name(self) -> str:
        """Name of the layer's module in ``model.named_modules()``."""
        return self.labels.name

    @property
    def windows(self) -> int:
        """Number of windows in each image."""
        return self.labels.windows

    @property
    def images(self) -> int:
        """Number of images (or texts): the batch without its windows."""
        return self.shape[0] // self.windows

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        if self.dtype == torch.bool:
            msg = f"A comparison of maps has {math.prod(self.shape)} values; .max() is whether any holds, .min() all."
            raise ShapeError(msg)
        return len(self) > 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[sample] for sample in range(len(self)))

    def __getitem__(self, index: Index) -> torch.Tensor:
        return select(self.rows, resolve(index, self.shape, self.device))

    def tensor(self) -> torch.Tensor:
        """Return the whole map: a tensor of shape (batch, head, query, key)."""
        return self[...]

    def numpy(self) -> npt.NDArray[Any]:
        """Return the whole map as an array in CPU memory; bfloat16 becomes float32."""
        array: npt.NDArray[Any] = to_numpy(self.tensor())
        return array

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:  # noqa: FBT001  # NumPy's protocol
        whole = self.numpy()
        if copy:
            return np.array(whole, dtype=dtype)
        array = np.asarray(whole, dtype=dtype)
        if copy is False and array is not whole:
            msg = f"Converting a map of {whole.dtype} to {array.dtype} needs a copy; leave copy=False out."
            raise OptionError(msg)
        return array

    # `torch.as_tensor` and `from_dlpack` ask for these.

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor().detach().__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return torch.empty(0, device=self.device).__dlpack_device__()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], _types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        whole = Copy(operator.methodcaller("tensor"), (MapArray,), whole=True)
        return func(*whole.of(args), **whole.of(kwargs or {}))

    def cpu(self) -> MapArray:
        """Return a copy in CPU memory, without a graph, that keeps nothing else alive."""
        return MapArray(self.rows.cpu(), self.labels)

    def sum(self, axis: AxisIndex = None, *, dim: AxisIndex = None, keepdim: bool = False) -> torch.Tensor:
        """Return the sum along an axis, several, or all: ``maps[3].sum(-2)`` is what each key receives.

        Parameters
        ----------
        axis : int or sequence of int, optional
            0 is the batch, 1 the heads, 2 or -2 the queries, 3 or -1 the keys; all of them by default. As in torch,
            ``dim=`` is the same, and ``keepdim=True`` keeps these axes with length 1; also in other reductions.

        Returns
        -------
        torch.Tensor
            Without these axes. Added up in float64, and returned in float32, or float64 if the map is; of comparisons,
            the number that hold.

        Raises
        ------
        PositionError, OptionError
            If there is no such axis, or none is given.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap
        >>> AttentionMap.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).sum(-2)
        tensor([[[1.5000, 0.5000]]])
        """
        total = _reduced(partial(reductions.total, self.rows), axis, dim, keepdim=keepdim)
        return total if self.dtype == torch.bool else total.to(float_type(self.dtype))

    def mean(self, axis: AxisIndex = None, *, dim: AxisIndex = None, keepdim: bool = False) -> torch.Tensor:
        """Return the mean along an axis, several, or all, as `sum` does; of comparisons, the share that holds.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap
        >>> attention = AttentionMap.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        >>> attention.mean((-2, -1)), (attention > 0.4).mean()
        (tensor([[0.5000]]), tensor(0.7500))
        """
        total = _reduced(partial(reductions.total, self.rows), axis, dim, keepdim=keepdim)
        count = math.prod(self.shape[each] for each in reductions.axes_of(dim if axis is None else axis))
        return (total / count).to(float_type(self.dtype))

    def max(self, axis: AxisIndex = None, *, dim: AxisIndex = None, keepdim: bool = False) -> torch.Tensor:
        """Return the maximum along an axis, several, or all, as `sum` does; `argmax` is where it is.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap
        >>> AttentionMap.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).max(-1)
        tensor([[[1.0000, 0.5000]]])
        """
        largest = partial(reductions.extreme, self.rows, reduce=torch.amax, combine=torch.maximum)
        return _reduced(largest, axis, dim, keepdim=keepdim)

    def min(self, axis: AxisIndex = None, *, dim: AxisIndex = None, keepdim: bool = False) -> torch.Tensor:
        """Return the minimum along an axis, several, or all, as `sum` does.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap
        >>> AttentionMap.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).min()
        tensor(0.)
        """
        smallest = partial(reductions.extreme, self.rows, reduce=torch.amin, combine=torch.minimum)
        return _reduced(smallest, axis, dim, keepdim=keepdim)

    def argmax(self, axis: int | None = None, *, dim: int | None = None, keepdim: bool = False) -> torch.Tensor:
        """Return the position of the maximum along an axis, the first of equal ones; by default in the flattened map.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap
        >>> AttentionMap.from_weights(torch.tensor([[1.0, 0.0], [0.2, 0.8]])).argmax(-1)
        tensor([[[0, 1]]])
        """
        return _reduced(partial(reductions.place_of_largest, self.rows), axis, dim, keepdim=keepdim)

    def topk(self, k: int, axis: int | Sequence[int] = -1) -> TopK:
        """Return the k largest values along an axis, largest first, and their positions, as `torch.topk` does.

        Parameters
        ----------
        k : int
        axis : int or (-2, -1)
            By default along the keys of each query; -2 for the queries of each key. With (-2, -1), the largest values
            of each head are found among all pairs of query and key.

        Returns
        -------
        TopK
            A named tuple. Its `values` have length k along the axis (last, for pairs); `indices` are of the same shape,
            or of shape (batch, head, k, 2), query and key, for pairs.

        Raises
        ------
        OptionError, PositionError
            If there are fewer than k values along the axis, or there is no such axis.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap
        >>> attention = AttentionMap.from_weights(torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
        >>> values, indices = attention.topk(2, (-2, -1))
        >>> values.tolist(), indices.tolist()
        ([[[0.8999..., 0.8000...]]], [[[[0, 0], [1, 1]]]])
        """
        return reductions.strongest(self.rows, k, axis)

    def __repr__(self) -> str:
        batch, heads, queries, keys = self.shape
        first = f"{batch=}" if self.windows == 1 else f"images={self.images}, windows={self.windows}"
        return f"{type(self).__name__}({self.name!r}, {first}, {heads=}, {queries=}, {keys=})"

    def abs(self) -> MapArray:
        """Return the absolute values; computed when they are read."""
        return _combined(operator.abs, self)

    def __abs__(self) -> MapArray:
        return self.abs()

    def __neg__(self) -> MapArray:
        return _combined(operator.neg, self)

    __add__, __radd__ = _both_ways(operator.add)
    __sub__, __rsub__ = _both_ways(operator.sub)
    __mul__, __rmul__ = _both_ways(operator.mul)
    __truediv__, __rtruediv__ = _both_ways(operator.truediv)
    __lt__, _ = _both_ways(operator.lt)
    __le__, _ = _both_ways(operator.le)
    __gt__, _ = _both_ways(operator.gt)
    __ge__, _ = _both_ways(operator.ge)


class Elsewhere:
    """An attribute that many look for, and that only names the function which does it."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __set_name__(self, kind: type, name: str) -> None:
        self._name = name

    def __get__(self, owner: object, kind: type) -> NoReturn:
        msg = f"{kind.__name__} has no attribute {self._name!r}; {self._what} does it."
        raise AttributeError(msg)


def _combined(function: Callable[..., Any], *operands: MapArray | float) -> MapArray:
    """Return the function of maps and numbers."""
    maps = [each for each in operands if isinstance(each, MapArray)]
    first, last = maps[0], maps[-1]
    if first.shape != last.shape:
        msg = (
            f"{first!r} and {last!r} differ in shape; index both to tensors of shapes that fit, such as"
            " one[0] - other[0]."
        )
        raise ShapeError(msg)
    rows = [each.rows if isinstance(each, MapArray) else float(each) for each in operands]
    return MapArray(CombinedRows(function, *rows), _common(first, last))


def _common(one: MapArray, other: MapArray) -> Labels:
    """Return the labels that two maps have in common."""
    if one.windows != other.windows:
        return Labels()
    return Labels(
        name=one.name if one.name == other.name else "",
        queries=one.queries if one.queries == other.queries else None,
        keys=one.keys if one.keys == other.keys else None,
        windows=one.windows,
    )
