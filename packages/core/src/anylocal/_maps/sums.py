"""Sums over samples, as the state of a torchmetrics metric."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from anylocal._maps.codec import decode, encode
from anylocal._maps.layers import check_forward, maps_of
from anylocal._maps.patches import Patches
from anylocal._maps.positions import Axis, Named
from anylocal.errors import OptionError, ShapeError, StateError

if TYPE_CHECKING:
    from anylocal._maps.map import AttentionMap

Measured: TypeAlias = tuple[torch.Tensor, torch.Tensor, str]
"""The sum over samples, the number of samples in each entry, and the reason if there is nothing to measure."""


@dataclass(frozen=True)
class Layer:
    """A layer whose samples are summed.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Shape of its sums.
    queries, keys : Axis or None
        None if the axes may differ between samples.
    lacks : str
        The reason if no sample had anything to measure.
    """

    name: str
    shape: tuple[int, ...]
    queries: Axis | None = None
    keys: Axis | None = None
    lacks: str = ""


class Sums(Metric, ABC):
    """Sums over samples, of all layers in one vector, which also fits layers of different shapes and an empty rank."""

    is_differentiable = False
    higher_is_better = None
    # Batches only add to the sums, which torchmetrics may therefore merge itself.
    full_state_update = False

    sums: torch.Tensor
    counts: torch.Tensor
    # The layers as bytes, because a state of torchmetrics is a tensor: it is copied, synchronized, saved and loaded
    # together with the sums.
    described: torch.Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._read: tuple[torch.Tensor, tuple[Layer, ...]] | None = None
        self.add_state("described", torch.zeros(0, dtype=torch.uint8), dist_reduce_fx=itemgetter(0))
        # A scalar until the first maps: it adds to sums of any length.
        for name in ("sums", "counts"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order of their sums; empty before the first maps."""
        # Cached, because reading from an accelerator waits for all its pending work.
        if self._read is None or self._read[0] is not self.described:
            self._read = (self.described, _decoded(self.described))
        return self._read[1]

    def update(self, maps: AttentionMap | Iterable[AttentionMap]) -> None:
        """Add the maps of one forward pass, with the same layers each time.

        Parameters
        ----------
        maps : AttentionMaps, AttentionMap or iterable of AttentionMap
            The layers of one forward pass, of any number of samples.

        Raises
        ------
        OptionError
            If something is not a map.
        ShapeError
            If the layers differ from those before.
        StateError, ChoiceError
            If there are no maps, or they belong to several forward passes.
        """
        found = maps_of(maps, type(self).__name__)
        check_forward(found, type(self).__name__)
        with torch.no_grad():
            measured = [self._measured(attention) for attention in found]
        self._add(
            [
                Layer(attention.name, tuple(sums.shape), _common(attention.queries), _common(attention.keys), lacks)
                for attention, (sums, _, lacks) in zip(found, measured, strict=True)
            ],
            torch.cat([sums.flatten().to(self.sums) for sums, _, _ in measured]),
            torch.cat([counts.flatten().to(self.counts) for _, counts, _ in measured]),
        )

    def forward(self, maps: AttentionMap | Iterable[AttentionMap]) -> Any:
        """Add the maps of one forward pass, as `update` does, and return the result of `compute` for them alone."""
        # torchmetrics sets the state aside meanwhile, and would lose it if the maps are refused. It is enough to put
        # the old tensors back: they are never changed in place.
        kept = dict(self.__dict__)
        try:
            return super().forward(maps)
        except BaseException:
            self.__dict__.update(kept)
            raise

    def merge_state(self, incoming_state: Mapping[str, Any] | Metric) -> None:
        """Add the sums of another metric of the same kind.

        Parameters
        ----------
        incoming_state : Metric or mapping
            The other metric, or its `metric_state`.

        Raises
        ------
        OptionError
            If it is neither a metric of this kind nor the state of one.
        ShapeError
            If its layers differ.
        """
        # Not torchmetrics' own: old versions have none, and new ones keep the result computed before the merge.
        given: Any = vars(incoming_state) if isinstance(incoming_state, type(self)) else incoming_state
        missing = [name for name in self._defaults if not isinstance(given, Mapping) or name not in given]
        if missing:
            msg = (
                f"{type(self).__name__}.merge_state takes a metric of the same kind, or its metric_state, and got"
                f" {type(incoming_state).__name__} without {', '.join(missing)}."
            )
            raise OptionError(msg)
        layers = _decoded(given["described"])
        if layers:
            self._add(layers, given["sums"], given["counts"])
            self._update_count += max(1, given.get("_update_count", 1))
            self._computed = None

    def add(self, layers: Iterable[tuple[str, Sequence[int]]], sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Add the sums of another metric of the same kind, given its layers' names and shapes, sums and counts."""
        self._add([Layer(name, tuple(shape)) for name, shape in layers], sums, counts)

    @abstractmethod
    def _measured(self, attention: AttentionMap) -> Measured:
        """Measure one map."""

    def means(self) -> list[torch.Tensor]:
        """Return the means of each layer, in the layer's shape."""
        if not self.layers:
            msg = f"{type(self).__name__} was given no maps; call update(maps) with those of a forward pass first."
            raise StateError(msg)
        means = (self.sums / self.counts).split(_lengths(self.layers))
        return [mean.reshape(layer.shape).float() for mean, layer in zip(means, self.layers, strict=True)]

    def _add(self, layers: Sequence[Layer], sums: torch.Tensor, counts: torch.Tensor) -> None:
        merged = _merged(self.layers, layers)
        length = sum(_lengths(merged))
        if (length,) != tuple(sums.shape) or sums.shape != counts.shape:
            shapes = " and ".join(str(tuple(given.shape)) for given in (sums, counts))
            msg = f"The layers have {length} numbers, but sums and counts have shapes {shapes}; they must fit."
            raise ShapeError(msg)
        sums, counts = self.sums + sums.to(self.sums), self.counts + counts.to(self.counts)
        if merged != self.layers:
            self._describe(merged)
        self.sums, self.counts = sums, counts

    def _describe(self, layers: tuple[Layer, ...]) -> None:
        # With the kind of the metric, because a MetricCollection updates only one of several with equal states.
        described = json.dumps([type(self).__name__, [_encoded(layer) for layer in layers]])
        # In the old tensor's type, which set_dtype() may have changed; every type can hold ASCII.
        self.described = torch.tensor(list(described.encode())).to(self.described)
        self._read = (self.described, layers)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Merge the state from before a batch into that of the batch."""
        layers, sums, counts = self.layers, self.sums, self.counts
        self.described, self.sums, self.counts = (incoming_state[name] for name in ("described", "sums", "counts"))
        self._add(layers, sums, counts)

    def _sync_dist(self, dist_sync_fn: Any = gather_all_tensors, process_group: Any = None) -> None:
        """Add up the sums of all ranks, including ranks without maps."""
        layers: tuple[Layer, ...] = ()
        for described in dist_sync_fn(self.described, group=process_group or self.process_group):
            layers = _merged(layers, _decoded(described) or layers)
        if layers:
            # An empty rank's are scalars, and only tensors of the same shape can be gathered.
            length = sum(_lengths(layers))
            self.sums, self.counts = self.sums.expand(length), self.counts.expand(length)
            self._describe(layers)
        super()._sync_dist(dist_sync_fn, process_group)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        before = self.described
        super()._load_from_state_dict(*arguments, **options)
        if self.described is not before:
            self._computed = None
            # Otherwise torchmetrics warns that there is nothing to compute.
            self._update_count = int(bool(self.layers))


def _common(axis: Axis) -> Axis | None:
    """Return the axis, None if it may differ between samples."""
    return axis if isinstance(axis, Patches | Named) else None


def _lengths(layers: Iterable[Layer]) -> list[int]:
    return [torch.Size(layer.shape).numel() for layer in layers]


def _encoded(layer: Layer) -> dict[str, Any]:
    axes = {"queries": layer.queries, "keys": layer.keys}
    return {**vars(layer), **{name: None if axis is None else encode(axis) for name, axis in axes.items()}}


def _decoded(described: torch.Tensor) -> tuple[Layer, ...]:
    text = bytes(described.to(torch.uint8).tolist()).decode()
    _, layers = json.loads(text) if text else ("", [])
    return tuple(
        Layer(name, tuple(shape), _axis(queries), _axis(keys), lacks)
        for name, shape, queries, keys, lacks in map(dict.values, layers)
    )


def _axis(described: dict[str, Any] | None) -> Axis | None:
    return None if described is None else decode(described)


def _merged(before: Sequence[Layer], now: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers with the axes that all samples share, and `lacks` only if no sample had anything to measure."""
    if not before:
        return tuple(now)
    _check_same(before, now)
    return tuple(
        replace(
            old,
            queries=old.queries if old.queries == new.queries else None,
            keys=old.keys if old.keys == new.keys else None,
            lacks=old.lacks if new.lacks else "",
        )
        for old, new in zip(before, now, strict=True)
    )


def _check_same(before: Sequence[Layer], now: Sequence[Layer]) -> None:
    old, new = ([(layer.name, layer.shape) for layer in layers] for layers in (before, now))
    if old != new:
        first, then = next(pair for pair in zip_longest(old, new, fillvalue="no layer") if pair[0] != pair[1])
        msg = (
            f"The maps have other layers or shapes than before: {first}, then {then}. Make another metric for another"
            " model or shape, or call reset()."
        )
        raise ShapeError(msg)
