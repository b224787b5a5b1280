"""One layer's attention map."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any, Final, Unpack

import numpy as np
import numpy.typing as npt
import torch

from anylocal._engine import tables
from anylocal._maps.array import Elsewhere, MapArray
from anylocal._maps.explain import Explanation, explained
from anylocal._maps.indexing import Queries, query_rows
from anylocal._maps.labels import LabelOptions, Labels, with_labels
from anylocal._maps.positions import Axis
from anylocal._maps.rows import (
    LazyRows,
    Rows,
    StoredRows,
    block_rows,
    chunks,
    compact,
    float_type,
    positions,
    side_by_side,
)

_ENDS: Final = 4
"""Labels shown at each end of an axis."""


class AttentionMap(MapArray):
    """The softmax of one attention layer: shape (batch, head, query, key).

    Index it like a tensor; from a query and a key, only the rows asked for are computed. Make one with `from_weights`
    or `from_qk`. Columns, sums, the strongest weights, conversions and arithmetic are those of `MapArray`.

    Parameters
    ----------
    rows : object
        Source of the rows; `from_weights` and `from_qk` make it.
    name : str
        Name of the layer's module in ``model.named_modules()``.
    queries, keys : Axis, optional
        What the positions stand for, such as `Patches` or `Tokens`; by default an `Axis`, which only counts them.
    fused : bool
        Whether the layer ran a fused kernel, which never materialized the map.
    forward : int
        Index of the forward pass that the map belongs to.
    windows : int
        Windows in each image: the batch axis is images × windows.
    mixed : torch.Tensor or callable, optional
        What the layer computed from the map and multiplied with the values instead (talking heads, a gated or a
        difference map); a callable computes it on access.
    rank : int, optional
        Rank of the torch.distributed process in which the layer ran.

    Raises
    ------
    ShapeError
        If an axis does not fit, or the batch is not a multiple of `windows`.

    Notes
    -----
    An integer next to an array in an index keeps torch's order of axes, which differs from NumPy's.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap
    >>> q, k = torch.randn(2, 12, 197, 64), torch.randn(2, 12, 197, 64)
    >>> attention = AttentionMap.from_qk(q, k, name="blocks.3.attn", fused=True)
    >>> attention
    AttentionMap('blocks.3.attn', batch=2, heads=12, queries=197, keys=197, fused)
    >>> attention[0, 4].shape, attention[:, :, 0].shape
    (torch.Size([197, 197]), torch.Size([2, 12, 197]))
    """

    save = Elsewhere("anylocal.store.save(map, path)")

    _model: weakref.ref[torch.nn.Module] | None = None

    @with_labels
    def __init__(self, rows: Rows, **labels: Unpack[LabelOptions]) -> None:
        super().__init__(rows, Labels(**labels))

    @classmethod
    @with_labels
    def from_weights(
        cls, w: torch.Tensor | npt.NDArray[np.floating[Any]], **labels: Unpack[LabelOptions]
    ) -> AttentionMap:
        """Make a map from weights that are already computed.

        Parameters
        ----------
        w : torch.Tensor or numpy.ndarray, shape (batch, head, query, key), (head, query, key) or (query, key)
            The weights; neither copied nor converted.
        **labels
            name, queries, keys, fused, forward, windows, mixed, rank: see `AttentionMap`.

        Raises
        ------
        ShapeError, OptionError
            If `w` has another number of dimensions, or is not floating point.

        Examples
        --------
        >>> import numpy as np
        >>> from anylocal.attention import AttentionMap
        >>> AttentionMap.from_weights(np.eye(3)).shape
        (1, 1, 3, 3)
        """
        if isinstance(w, np.ndarray):
            # torch warns about read-only arrays, and refuses negative strides.
            plain = w.flags.writeable and min(w.strides, default=0) >= 0
            w = torch.from_numpy(w if plain else w.copy(order="C"))
        return cls(StoredRows(w), **labels)

    @classmethod
    @with_labels
    def from_qk(
        cls,
        q: torch.Tensor,
        k: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        scale: float | None = None,
        causal: bool = False,
        **labels: Unpack[LabelOptions],
    ) -> AttentionMap:
        """Make a map from the operands of `torch.nn.functional.scaled_dot_product_attention`.

        The map is softmax(q · kᵀ · scale + mask), computed in float32 (float64 if an operand is), also under autocast,
        and only for the rows asked for. The operands are not copied.

        Parameters
        ----------
        q : torch.Tensor, shape (batch, head, query, feature), or the last 3 or 2 of these
        k : torch.Tensor, shape (batch or 1, key head, key, feature), or the last 3 or 2 of these
            With fewer heads than q (grouped-query attention), head h uses key head h // (heads / key heads).
        mask : torch.Tensor, broadcastable to (batch, head, query, key), optional
            Bool, True where a key takes part; or floating point, added before the softmax. A fully masked row is 0,
            as in torch since 2.5.
        scale : float, optional
            1 / sqrt(features) by default.
        causal : bool
            Whether query i sees only keys 0 … i, also with more keys than queries; applied on top of any mask.
        **labels
            name, queries, keys, fused, forward, windows, mixed, rank: see `AttentionMap`.

        Raises
        ------
        ShapeError, OptionError
            If the operands do not fit each other, or have an unsupported dtype.

        Warns
        -----
        ChangedInPlaceWarning
            When the map is read after an operand was changed in place.

        Notes
        -----
        The formula is that of torch's documentation. Gradients flow to operands that require them. A lower precision
        of float32 products (`torch.set_float32_matmul_precision`) applies here too; bf16 and fp16 operands stay exact.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap
        >>> q = k = torch.tensor([[0.0], [1.0]])
        >>> AttentionMap.from_qk(q, k, causal=True)[0, 0]
        tensor([[1.0000, 0.0000],
                [0.2689, 0.7311]])
        """
        return cls(LazyRows(q, k, mask, scale, causal), **labels)

    @property
    def model(self) -> torch.nn.Module | None:
        """The captured model, while it lives: recipes prepare photographs as it does. Copies in files have none."""
        return None if self._model is None else self._model()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle holds: all but the reference to the model."""
        return {name: value for name, value in vars(self).items() if name != "_model"}

    @property
    def fused(self) -> bool:
        """Whether the layer ran a fused kernel."""
        return self.labels.fused

    @property
    def forward(self) -> int:
        """Index of the forward pass."""
        return self.labels.forward

    @property
    def rank(self) -> int | None:
        """Rank of the process in which the layer ran."""
        return self.labels.rank

    @property
    def mixed(self) -> torch.Tensor | None:
        """What the layer multiplied with the values, if not the map itself."""
        mixed = self.labels.mixed
        return mixed() if callable(mixed) else mixed

    def cpu(self) -> AttentionMap:
        """Return a copy of the map in CPU memory, without a graph, that keeps nothing else alive.

        The operands of a layer are often views of a larger tensor, which they keep alive.
        """
        mixed = self.mixed
        labels = replace(self.labels, mixed=None if mixed is None else compact(mixed))
        return AttentionMap(self.rows.cpu(), **vars(labels))

    def labelled(self, **labels: Unpack[LabelOptions]) -> AttentionMap:
        """Return the same map with other labels: name, queries, keys, fused, forward, windows, mixed or rank."""
        return AttentionMap(self.rows, **vars(replace(self.labels, **labels)))

    def head_mean(self, queries: Queries = None) -> torch.Tensor:
        """Average over heads, in blocks of rows: the whole map never exists at once.

        Parameters
        ----------
        queries : int, slice or sequence of int, optional
            All by default.

        Returns
        -------
        torch.Tensor
            Shape (batch, query, key); (batch, key) for an integer. In float32, or float64 if the map is.

        Raises
        ------
        PositionError
            If a query is out of range.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap
        >>> AttentionMap.from_weights(torch.eye(2).expand(1, 8, 2, 2)).head_mean(0)
        tensor([[1., 0.]])
        """
        pick, kept = query_rows(queries, self.shape, self.device)
        dtype = float_type(self.dtype)
        whole = slice(None)
        read, blocks = self.rows.reader(whole, whole), chunks(pick, self.shape[2], block_rows(self.shape))
        number = len(positions(pick, self.shape[2], self.device))
        return side_by_side((read(block).mean(1, dtype=dtype) for block in blocks), 1, number)[:, kept]

    def explain(self, query: object, key: object, head: int, *, sample: int | None = None) -> Explanation:
        """Tell how one weight comes about, with the real numbers; notebooks show them as bars.

        Parameters
        ----------
        query, key : int, str or tuple
            Positions, or what else their axes know: a token, a patch as (row, column), the name of a prefix token.
        head : int
        sample : int, optional
            Index in the batch (of a windowed layer: images × windows); not needed if there is one.

        Returns
        -------
        Explanation
            The product of query and key by channel, the scale, what the mask adds, and the row's softmax.

        Raises
        ------
        PositionError, NameNotFoundError
            If there is no such query, key, head or sample.
        ChoiceError
            If there are several samples and none was chosen.
        UnsupportedError
            If query and key are not known, or the map is no plain softmax of their product.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap
        >>> q = k = torch.tensor([[0.0, 1.0], [3.0, 1.0]])
        >>> print(AttentionMap.from_qk(q, k, name="layer").explain(1, 0, head=0))
        layer, head 0, 1 → 0: q · k × scale = 1 × 0.7071 = 0.7071; exp(0.7071 - 7.073) = 0.00172
        """
        return explained(self, query, key, head, sample)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, fused)" if self.fused else super().__repr__()

    def _repr_html_(self) -> str:
        first = [("batch", str(self.images)), *([("windows of each", str(self.windows))] if self.windows > 1 else [])]
        sides = [(side, _told(axis)) for side, axis in (("queries", self.queries), ("keys", self.keys))]
        return tables.markup(("axis", "positions"), [*first, ("heads", str(self.shape[1])), *sides], repr(self))


def _told(axis: Axis) -> str:
    """Return an axis, with the labels at its ends."""
    places = range(len(axis))
    if len(places) <= 2 * _ENDS:
        return f"{axis!r}: {' '.join(map(axis.label, places))}"
    first, last = (" ".join(map(axis.label, part)) for part in (places[:_ENDS], places[-_ENDS:]))
    return f"{axis!r}: {first} … {last}"
