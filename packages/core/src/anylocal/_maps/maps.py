"""The attention maps of a model's layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import torch

from anylocal._engine import tables
from anylocal._maps.array import Elsewhere
from anylocal._maps.bounds import inside
from anylocal._maps.generation import generation
from anylocal._maps.layers import maps_of
from anylocal._maps.map import AttentionMap
from anylocal._maps.relevance import relevance
from anylocal._maps.rollout import rollout
from anylocal.errors import ChoiceError, NameNotFoundError, PositionError, ShapeError, StateError

if TYPE_CHECKING:
    from anylocal._maps.indexing import Queries


class AttentionMaps(Sequence[AttentionMap]):
    """The maps of a model's layers, in the order in which the layers ran.

    Index it by position, slice or module name. What follows in the index is that of each layer, as in an array with a
    first axis of layers: ``maps[:, 0, :, -1]`` are the last rows of all of them in one tensor.

    Parameters
    ----------
    maps : iterable of AttentionMap, or callable
        A callable takes no arguments and returns the maps so far; it is called at every access, so it should cache.
    unsupported : mapping of str to str
        Attention layers of the model that give no map: by module name, the reason.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, AttentionMaps
    >>> layers = [AttentionMap.from_weights(torch.eye(2), name=f"blocks.{i}.attn") for i in range(3)]
    >>> maps = AttentionMaps(layers)
    >>> maps["blocks.1.attn"] is maps[1]
    True
    >>> maps[1:].names
    ['blocks.1.attn', 'blocks.2.attn']
    """

    save = Elsewhere("anylocal.store.save(maps, path)")

    def __init__(
        self,
        maps: Iterable[AttentionMap] | Callable[[], Sequence[AttentionMap]],
        *,
        unsupported: Mapping[str, str] = MappingProxyType({}),
        reduced: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    ) -> None:
        self._read = maps if callable(maps) else None
        self._maps = () if callable(maps) else tuple(maps_of(maps, "AttentionMaps"))
        self.unsupported = unsupported
        self._reduced = reduced

    @property
    def reduced(self) -> dict[str, list[Any]]:
        """What ``reduce=`` made of the maps: by module name, one value for each map, in order.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import capture_attention
        >>> model = torch.nn.TransformerEncoderLayer(4, 2).eval()
        >>> with capture_attention(model, reduce=lambda item: item[:, :, 0]) as maps, torch.no_grad():
        ...     for batch in torch.ones(3, 5, 1, 4):
        ...         output = model(batch)
        >>> first_rows = torch.cat(maps.reduced["self_attn"])
        >>> first_rows.shape, len(maps)
        (torch.Size([3, 2, 5]), 0)
        """
        self._now()
        return {name: list(values) for name, values in self._reduced.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Reduce to the maps so far: a copy does not grow, and does not keep the capture alive."""
        return _restored, (list(self), dict(self.unsupported))

    @property
    def names(self) -> list[str]:
        """Names of the modules, without duplicates, in the order in which they first ran."""
        return list(dict.fromkeys(item.name for item in self))

    @property
    def forwards(self) -> list[AttentionMaps]:
        """One `AttentionMaps` for each forward pass (of each rank), in order."""
        grouped: dict[tuple[int, int], list[AttentionMap]] = {}
        for item in self:
            grouped.setdefault((item.rank or 0, item.forward), []).append(item)
        return [AttentionMaps(grouped[key]) for key in sorted(grouped)]

    def generation(self) -> AttentionMaps:
        """Join the steps of a text's generation: one map for each layer, over the tokens of prompt and answer.

        A row is that of the step which read its token last, computed when it is read; keys that the step could not see
        weigh 0. Guesses that were taken back and free places of a static cache are left out. Layers that ran in one
        forward pass only, such as those of an encoder or a vision tower, are as they were.

        Returns
        -------
        AttentionMaps
            Their queries and keys are the tokens that were read: all but the last of the answer. Where the cache held a
            text before, the queries start after it. In cross-attention the keys are those of the other text.

        Raises
        ------
        ChoiceError
            If the maps are of several generations or ranks.
        UnsupportedError
            If the steps do not continue each other's texts, because beams changed places or steps are missing, or that
            is not known: for several samples, keys must be tokens.
        StateError
            If there are no maps.

        Examples
        --------
        >>> import torch
        >>> from anylocal.attention import AttentionMap, AttentionMaps, Tokens
        >>> read = Tokens(["the", "cat"])
        >>> prompt = AttentionMap.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), queries=read, keys=read)
        >>> step = AttentionMap.from_weights(
        ...     torch.tensor([[0.25, 0.25, 0.5]]),
        ...     queries=Tokens(["sat"], start=2), keys=Tokens(["the", "cat", "sat"]), forward=1,
        ... )
        >>> whole = AttentionMaps([prompt, step]).generation()[0]
        >>> whole[0, 0]
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.2500, 0.2500, 0.5000]])
        >>> whole.queries.labels()
        ['the', 'cat', 'sat']
        """
        return AttentionMaps(generation(list(self)), unsupported=self.unsupported)

    def gather(self, dst: int = 0) -> AttentionMaps | None:
        """Gather the maps of all ranks on one, through torch.distributed.

        Every rank must call it. A fused layer's map is sent as its q, k and mask.

        Parameters
        ----------
        dst : int, default 0
            The rank that receives the maps.

        Returns
        -------
        AttentionMaps or None
            On that rank, the maps of rank 0, then those of rank 1, and so on, in CPU memory; None on the others.
            `forwards` keeps ranks apart.

        Raises
        ------
        StateError
            If torch.distributed is not initialized.

        Examples
        --------
        >>> everything = maps.gather()                      # doctest: +SKIP
        >>> [maps.names for maps in everything.forwards]    # doctest: +SKIP
        """
        from torch import distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            msg = "No other ranks: torch.distributed is not initialized. A single process has all its maps already."
            raise StateError(msg)
        here = distributed.get_rank() == dst
        ranks: list[list[AttentionMap]] | None = [[] for _ in range(distributed.get_world_size())] if here else None
        distributed.gather_object([item.cpu() for item in self], ranks, dst)
        return None if ranks is None else AttentionMaps(item for maps in ranks for item in maps)

    def rollout(self, *, residual: float = 0.5, queries: Queries = None) -> torch.Tensor:
        """Follow attention through all layers, back to the input positions; see `rollout`."""
        return rollout(self, residual=residual, queries=queries)

    def relevance(self, output: torch.Tensor) -> torch.Tensor:
        """Compute how much each input position contributed to an output; see `relevance`."""
        return relevance(self, output)

    def __len__(self) -> int:
        return len(self._now())

    def __iter__(self) -> Iterator[AttentionMap]:
        # Sequence's own method would call the source once for each map.
        return iter(self._now())

    def __contains__(self, item: object) -> bool:
        return any(item in (found, found.name) for found in self)

    @overload
    def __getitem__(self, index: SupportsIndex | str) -> AttentionMap: ...
    @overload
    def __getitem__(self, index: slice) -> AttentionMaps: ...
    @overload
    def __getitem__(self, index: tuple[Any, ...]) -> torch.Tensor: ...
    def __getitem__(
        self, index: slice | SupportsIndex | str | tuple[Any, ...]
    ) -> AttentionMap | AttentionMaps | torch.Tensor:
        if isinstance(index, tuple):
            return self._across(*index)
        maps = self._now()
        if isinstance(index, slice):
            return AttentionMaps(maps[index])
        if not maps:
            kind = StateError if isinstance(index, str) else PositionError
            why = "nothing was captured; run the model inside the capture first."
            if self._reduced:
                why = "reduce= was given, and what it made of the maps is in .reduced."
            raise kind(f"No attention map {index!r}: {why}")
        return _named(index, maps) if isinstance(index, str) else maps[inside(index, len(maps), "map")]

    def _across(self, layers: Any = ..., *index: Any) -> torch.Tensor:
        """Return what an index selects of each of some layers, in one tensor."""
        if layers is Ellipsis:
            layers, index = slice(None), (..., *index)
        chosen = self[layers]
        if isinstance(chosen, AttentionMap):
            return chosen[index]
        found = [layer[index] for layer in chosen]
        shapes = sorted({tuple(each.shape) for each in found})
        if len(shapes) != 1:
            msg = (
                f"The index {index!r} selects {shapes or 'nothing'} of the layers, which make no one tensor; choose"
                " layers of one shape."
            )
            raise ShapeError(msg)
        return torch.stack(found)

    def __repr__(self) -> str:
        rows = _rows(self._now())
        if not rows:
            kept = tables.counted(len(self._reduced), "module")
            return f"AttentionMaps: none{f'; reduce= kept values of {kept} in .reduced' if self._reduced else ''}"
        more = [f"and {count} without a map: {what}" for what, count in Counter(self.unsupported.values()).items()]
        return tables.text("AttentionMaps", rows, more)

    def _repr_html_(self) -> str:
        return tables.markup(_TITLES, _rows(self._now()))

    def _now(self) -> Sequence[AttentionMap]:
        return self._maps if self._read is None else self._read()


_TITLES = ("", "module", "forward", "batch × heads × queries × keys", "")


def _restored(maps: list[AttentionMap], unsupported: dict[str, str]) -> AttentionMaps:
    return AttentionMaps(maps, unsupported=unsupported)


def _rows(maps: Sequence[AttentionMap]) -> list[tables.Row]:
    return [
        (str(position), item.name, str(item.forward), _sizes(item), "fused" if item.fused else "")
        for position, item in enumerate(maps)
    ]


def _sizes(item: AttentionMap) -> str:
    batch, *others = item.shape
    first = f"{batch}" if item.windows == 1 else f"{item.images} × {item.windows} windows"
    return " × ".join([first, *map(str, others)])


def _named(name: str, maps: Sequence[AttentionMap]) -> AttentionMap:
    found = [position for position, item in enumerate(maps) if item.name == name]
    if not found:
        raise NameNotFoundError(name, "AttentionMaps", (item.name for item in maps), kind="module")
    if len({(item.rank, item.forward) for item in maps}) > 1:
        msg = f"The maps of {name!r} belong to several forward passes; choose one of maps.forwards first."
        raise ChoiceError(msg)
    if len(found) > 1:
        msg = f"{name!r} ran more than once in this forward pass: its maps are {found}; take one by position."
        raise ChoiceError(msg)
    return maps[found[0]]
