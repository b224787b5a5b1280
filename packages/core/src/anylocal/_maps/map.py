"""One layer's attention map."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from anylocal._maps.indexing import Index, Queries, query_rows, resolve
from anylocal._maps.patches import PlacedPatches
from anylocal._maps.positions import Axis
from anylocal._maps.rows import LazyRows, Rows, StoredRows, block_rows, chunks, compact, picked
from anylocal._maps.tokens import Tokens
from anylocal.errors import ChoiceError, OptionError, ShapeError


class AttentionMap:
    """The softmax of one attention layer: shape (batch, head, query, key).

    Index it like a tensor; of a map made of query and key, only the rows asked for are computed. Build one with
    `from_weights` or `from_qk`.

    Parameters
    ----------
    rows : object
        Where the rows come from: what `from_weights` and `from_qk` put in.
    name : str
        Name of the layer's module in ``model.named_modules()``.
    queries, keys : Axis, optional
        What the positions are: `Patches`, `Tokens`; by default an `Axis` that only counts them.
    fused : bool
        Whether the layer ran a fused kernel, which never made the map.
    forward : int
        Which forward of the model the map belongs to.
    windows : int
        Windows in each image: the batch axis is images × windows.
    mixed : torch.Tensor or callable, optional
        What the layer made of the map afterwards (talking heads, a gated or a difference map); a callable computes it
        when it is asked for.
    rank : int, optional
        In which process of torch.distributed the layer ran.

    Raises
    ------
    ShapeError
        Where an axis does not fit, or the batch is no multiple of `windows`.

    Notes
    -----
    Of two array indices or more, and of arrays of several dimensions, the axes that they index are computed
    whole first. An integer next to an array keeps torch's order of axes, which is not NumPy's.

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

    def __init__(
        self,
        rows: Rows,
        *,
        name: str = "",
        queries: Axis | None = None,
        keys: Axis | None = None,
        fused: bool = False,
        forward: int = 0,
        windows: int = 1,
        mixed: torch.Tensor | Callable[[], torch.Tensor] | None = None,
        rank: int | None = None,
    ) -> None:
        self.rows = rows
        self.name = name
        self.fused = fused
        # NumPy's integers are no JSON.
        self.forward = operator.index(forward)
        self.windows = operator.index(windows)
        self._mixed = mixed
        self.rank = rank
        if windows < 1 or self.shape[0] % windows:
            msg = f"{name!r} has a batch of {self.shape[0]}, which is not images × {windows} windows."
            raise ShapeError(msg)
        self.queries = self._axis(queries, self.shape[2], "query")
        self.keys = self._axis(keys, self.shape[3], "key")

    @classmethod
    def from_weights(
        cls,
        w: torch.Tensor | npt.NDArray[np.floating[Any]],
        *,
        name: str = "",
        queries: Axis | None = None,
        keys: Axis | None = None,
        fused: bool = False,
        forward: int = 0,
        windows: int = 1,
        mixed: torch.Tensor | None = None,
        rank: int | None = None,
    ) -> AttentionMap:
        """Make a map of weights that were computed already.

        Parameters
        ----------
        w : torch.Tensor or numpy.ndarray, shape (batch, head, query, key), (head, query, key) or (query, key)
            The weights; not copied, and kept in their own precision.
        name, queries, keys, fused, forward, windows, mixed, rank
            See `AttentionMap`.

        Raises
        ------
        ShapeError, OptionError
            Where `w` has another number of dimensions, or is not floating point.

        Examples
        --------
        >>> import numpy as np
        >>> from anylocal.attention import AttentionMap
        >>> AttentionMap.from_weights(np.eye(3)).shape
        (1, 1, 3, 3)
        """
        if isinstance(w, np.ndarray):
            # torch warns of arrays that are read-only, and takes none that runs backwards.
            plain = w.flags.writeable and min(w.strides, default=0) >= 0
            w = torch.from_numpy(w if plain else w.copy(order="C"))
        return cls(
            StoredRows(w),
            name=name,
            queries=queries,
            keys=keys,
            fused=fused,
            forward=forward,
            windows=windows,
            mixed=mixed,
            rank=rank,
        )

    @classmethod
    def from_qk(
        cls,
        q: torch.Tensor,
        k: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        scale: float | None = None,
        causal: bool = False,
        name: str = "",
        queries: Axis | None = None,
        keys: Axis | None = None,
        fused: bool = False,
        forward: int = 0,
        windows: int = 1,
        mixed: torch.Tensor | None = None,
        rank: int | None = None,
    ) -> AttentionMap:
        """Make a map of the operands of `torch.nn.functional.scaled_dot_product_attention`.

        The map is softmax(q · kᵀ · scale + mask), computed in float32 (float64 where an operand is) whatever
        autocast surrounds, and only for the rows asked for. The operands are kept as they are, not copied.

        Parameters
        ----------
        q : torch.Tensor, shape (batch, head, query, feature), or the last 3 or 2 of these
        k : torch.Tensor, shape (batch or 1, key head, key, feature), or the last 3 or 2 of these
            Fewer heads than q's serve groups of neighbours: head h uses key head h // (heads / key heads).
        mask : torch.Tensor, broadcastable to (batch, head, query, key), optional
            Bool, True where a key takes part; or floating point, added before the softmax. A row without any
            key is 0, as in torch since 2.5.
        scale : float, optional
            1 / sqrt(features) by default.
        causal : bool
            Query i sees keys 0 … i, also where there are more keys than queries; besides any mask.
        name, queries, keys, fused, forward, windows, mixed, rank
            See `AttentionMap`.

        Raises
        ------
        ShapeError, OptionError
            Where the operands do not fit each other, or have a dtype that means nothing here.

        Warns
        -----
        ChangedInPlaceWarning
            When the map is read and an operand was changed in place since the map was made.

        Notes
        -----
        The formula is that of the kernel's documentation in torch. Gradients flow to operands that require them.
        Where the user allows TF32 or lower for float32 products (`torch.set_float32_matmul_precision`), it holds
        here too; bf16 and fp16 operands are exact even then.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap
        >>> q = k = torch.tensor([[0.0], [1.0]])
        >>> AttentionMap.from_qk(q, k, causal=True)[0, 0]
        tensor([[1.0000, 0.0000],
                [0.2689, 0.7311]])
        """
        return cls(
            LazyRows(q, k, mask, scale, causal),
            name=name,
            queries=queries,
            keys=keys,
            fused=fused,
            forward=forward,
            windows=windows,
            mixed=mixed,
            rank=rank,
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, head, query, key)."""
        return self.rows.shape

    @property
    def mixed(self) -> torch.Tensor | None:
        """What the layer made of the map before it met the values; None where that is the map itself."""
        return self._mixed() if callable(self._mixed) else self._mixed

    @property
    def ndim(self) -> int:
        """Number of axes: 4."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values: float32 or float64 where they are computed, that of the weights where given."""
        return self.rows.dtype

    @property
    def device(self) -> torch.device:
        """Where the operands lie and the rows are computed."""
        return self.rows.device

    @property
    def images(self) -> int:
        """Number of images (or texts): the batch without its windows."""
        return self.shape[0] // self.windows

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[sample] for sample in range(len(self)))

    def __getitem__(self, index: Index) -> torch.Tensor:
        picks, rest = resolve(index, self.shape, self.device)
        rows = self.rows.take(*picks[:3])
        return picked(rows, slice(None), slice(None), slice(None), picks[3])[rest]

    def tensor(self) -> torch.Tensor:
        """Return the whole map: a tensor of shape (batch, head, query, key)."""
        return self[...]

    def numpy(self) -> npt.NDArray[np.floating[Any]]:
        """Return the whole map as an array, in main memory; bfloat16 becomes float32."""
        whole = self.tensor().detach().cpu()
        array: npt.NDArray[np.floating[Any]] = (whole.float() if whole.dtype == torch.bfloat16 else whole).numpy()
        return array

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:  # noqa: FBT001  # as NumPy's protocol has it
        whole = self.numpy()
        if copy:
            return np.array(whole, dtype=dtype)
        array = np.asarray(whole, dtype=dtype)
        if copy is False and array is not whole:
            msg = f"A map of {whole.dtype} becomes {array.dtype} by a copy only; leave copy=False out."
            raise OptionError(msg)
        return array

    def cpu(self) -> AttentionMap:
        """Return the map with what it is made of in main memory, without a graph, and holding nothing else alive.

        The operands of a layer are often views of a larger tensor, which they hold.
        """
        return AttentionMap(
            self.rows.cpu(),
            name=self.name,
            queries=self.queries,
            keys=self.keys,
            fused=self.fused,
            forward=self.forward,
            windows=self.windows,
            mixed=None if (mixed := self.mixed) is None else compact(mixed),
            rank=self.rank,
        )

    def labelled(self, **labels: Any) -> AttentionMap:
        """Return the same map with other labels: name, queries, keys, fused, forward, windows, mixed or rank."""
        kept = {"name": self.name, "fused": self.fused, "forward": self.forward, "rank": self.rank}
        axes = {"queries": self.queries, "keys": self.keys}
        return AttentionMap(self.rows, **{**kept, **axes, "windows": self.windows, "mixed": self._mixed, **labels})

    def head_mean(self, queries: Queries = None) -> torch.Tensor:
        """Average over heads, in blocks of rows: the map itself is never there whole.

        Parameters
        ----------
        queries : int, slice or sequence of int, optional
            All by default.

        Returns
        -------
        torch.Tensor
            Shape (batch, query, key); (batch, key) for an integer. In float32, float64 if the map is.

        Raises
        ------
        PositionError
            Where there is no such query.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap
        >>> AttentionMap.from_weights(torch.eye(2).expand(1, 8, 2, 2)).head_mean(0)
        tensor([[1., 0.]])
        """
        pick, kept = query_rows(queries, self.shape, self.device)
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        whole = slice(None)
        blocks = chunks(pick, self.shape[2], block_rows(self.shape))
        means = [self.rows.take(whole, whole, block).mean(1, dtype=dtype) for block in blocks]
        return torch.cat(means, 1)[:, kept]

    def __repr__(self) -> str:
        batch, heads, queries, keys = self.shape
        fused = ", fused" if self.fused else ""
        return f"AttentionMap({self.name!r}, {batch=}, {heads=}, {queries=}, {keys=}{fused})"

    def _axis(self, axis: Axis | None, length: int, kind: str) -> Axis:
        if axis is None:
            return Axis(length)
        if len(axis) != length:
            msg = f"{self.name!r} has {length} {kind} positions, and {axis!r} has {len(axis)}."
            raise ShapeError(msg)
        if isinstance(axis, Tokens) and len(axis.texts) not in {1, self.images}:
            msg = f"{self.name!r} has a batch of {self.images}, and its {kind} tokens are {len(axis.texts)} texts."
            raise ShapeError(msg)
        if isinstance(axis, PlacedPatches) and axis.windows not in {1, self.windows, self.shape[0]}:
            msg = (
                f"{self.name!r} has a batch of {self.shape[0]} with windows={self.windows}, and its {kind} patches are"
                f" those of {axis.windows} windows."
            )
            raise ShapeError(msg)
        return axis


def maps_of(given: object, what: str) -> list[AttentionMap]:
    """Return the maps that a function was given: those of several layers, or a single one.

    Raises
    ------
    OptionError
        Where something is no map.
    ChoiceError
        Where it is those of each of several forwards.
    """
    if isinstance(given, AttentionMap):
        return [given]
    if hasattr(given, "maps"):
        msg = f"{what} takes maps and got {type(given).__name__}; give it the maps of that, which are its .maps."
        raise OptionError(msg)
    found = []
    for item in given if isinstance(given, Iterable) and not isinstance(given, str | torch.Tensor) else [given]:
        if isinstance(item, Sequence) and any(isinstance(layer, AttentionMap) for layer in item):
            msg = f"{what} takes maps and got several {type(item).__name__}; give one of them."
            raise ChoiceError(msg)
        if not isinstance(item, AttentionMap):
            msg = f"{what} takes maps and got {type(item).__name__}; make maps first, by AttentionMap.from_weights."
            raise OptionError(msg)
        found.append(item)
    return found
