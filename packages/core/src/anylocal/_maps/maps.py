"""The attention maps of a model's layers."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from anylocal._engine import tables
from anylocal._maps.map import AttentionMap, maps_of
from anylocal._maps.relevance import relevance
from anylocal._maps.rollout import rollout
from anylocal.errors import ChoiceError, NameNotFoundError, PositionError, StateError

if TYPE_CHECKING:
    import torch

    from anylocal._maps.indexing import Queries


class AttentionMaps(Sequence[AttentionMap]):
    """The maps of a model's layers, in the order in which the layers ran.

    Take one by position, several by slice, or one by the name of its module.

    Parameters
    ----------
    maps : iterable of AttentionMap, or callable
        A callable takes nothing and returns the maps that there are by now; it is called at every access, so
        it should keep what it has made.
    unsupported : mapping of str to str
        By the names of modules, what else the model has that is called attention, and has no map.

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

    def __init__(
        self,
        maps: Iterable[AttentionMap] | Callable[[], Sequence[AttentionMap]],
        *,
        unsupported: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._read = maps if callable(maps) else None
        self._maps = () if callable(maps) else tuple(maps_of(maps, "AttentionMaps"))
        self.unsupported = unsupported

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the maps that there are: a copy does not grow, and does not hold the scope."""
        return _again, (list(self), dict(self.unsupported))

    @property
    def names(self) -> list[str]:
        """Names of the modules, each once, in the order in which they first ran."""
        return list(dict.fromkeys(item.name for item in self))

    @property
    def forwards(self) -> list[AttentionMaps]:
        """The maps of each forward (of each rank), in order: one `AttentionMaps` each."""
        of: dict[tuple[int, int], list[AttentionMap]] = {}
        for item in self:
            of.setdefault((item.rank or 0, item.forward), []).append(item)
        return [AttentionMaps(of[key]) for key in sorted(of)]

    def gather(self, dst: int = 0) -> AttentionMaps | None:
        """Bring the maps of all ranks to one, by torch.distributed.

        Every rank must call it. Maps travel as what they are made of: of a fused layer, that is q, k and the mask.

        Parameters
        ----------
        dst : int, default 0
            The rank that gets them.

        Returns
        -------
        AttentionMaps or None
            On that rank, the maps of rank 0, then those of rank 1, and so on, in main memory; on the others None.
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
            msg = (
                "There are no other ranks: torch.distributed is not initialized. One process has all its maps already."
            )
            raise StateError(msg)
        here = distributed.get_rank() == dst
        everything: list[list[AttentionMap]] | None = (
            [[] for _ in range(distributed.get_world_size())] if here else None
        )
        distributed.gather_object([item.cpu() for item in self], everything, dst)
        return None if everything is None else AttentionMaps(item for maps in everything for item in maps)

    def rollout(self, *, residual: float = 0.5, queries: Queries = None) -> torch.Tensor:
        """Follow attention through all layers, back to the input positions; see `rollout`."""
        return rollout(self, residual=residual, queries=queries)

    def relevance(self, output: torch.Tensor) -> torch.Tensor:
        """Say how much each input position contributed to an output; see `relevance`."""
        return relevance(self, output)

    def __len__(self) -> int:
        return len(self._now())

    def __iter__(self) -> Iterator[AttentionMap]:
        # Sequence's own would read the source once for each map.
        return iter(self._now())

    def __contains__(self, item: object) -> bool:
        return any(item in (found, found.name) for found in self)

    @overload
    def __getitem__(self, index: SupportsIndex | str) -> AttentionMap: ...
    @overload
    def __getitem__(self, index: slice) -> AttentionMaps: ...
    def __getitem__(self, index: slice | SupportsIndex | str) -> AttentionMap | AttentionMaps:
        maps = self._now()
        if isinstance(index, slice):
            return AttentionMaps(maps[index])
        if isinstance(index, str):
            return _named(index, maps)
        try:
            position = operator.index(index)
        except TypeError:
            position = len(maps)
        if -len(maps) <= position < len(maps):
            return maps[position]
        if not maps:
            raise PositionError(_none_at_all(index))
        msg = f"There is no map {index!r}: there are {len(maps)}, by their positions from 0 or the names of modules."
        raise PositionError(msg)

    def __repr__(self) -> str:
        rows = _rows(self._now())
        if not rows:
            return "AttentionMaps: none"
        more = [f"and {count} without a map: {what}" for what, count in Counter(self.unsupported.values()).items()]
        return tables.text("AttentionMaps", rows, more)

    def _repr_html_(self) -> str:
        return tables.markup(_TITLES, _rows(self._now()))

    def _now(self) -> Sequence[AttentionMap]:
        return self._maps if self._read is None else self._read()


_TITLES = ("", "module", "forward", "batch × heads × queries × keys", "")


def _again(maps: list[AttentionMap], unsupported: dict[str, str]) -> AttentionMaps:
    return AttentionMaps(maps, unsupported=unsupported)


def _rows(maps: Sequence[AttentionMap]) -> list[tables.Row]:
    return [
        (str(position), item.name, str(item.forward), " × ".join(map(str, item.shape)), "fused" if item.fused else "")
        for position, item in enumerate(maps)
    ]


def _none_at_all(wanted: object) -> str:
    return f"There is no map {wanted!r}, because there is none at all; run the model inside the capture first."


def _named(name: str, maps: Sequence[AttentionMap]) -> AttentionMap:
    if not maps:
        raise StateError(_none_at_all(name))
    found = [position for position, item in enumerate(maps) if item.name == name]
    if not found:
        raise NameNotFoundError(name, "AttentionMaps", (item.name for item in maps), kind="module")
    if len({(item.rank, item.forward) for item in maps}) > 1:
        msg = f"The maps of {name!r} belong to several forwards; choose one of maps.forwards first."
        raise ChoiceError(msg)
    if len(found) > 1:
        msg = f"{name!r} ran more than once in this forward: its maps are {found}; take one by position."
        raise ChoiceError(msg)
    return maps[found[0]]
