"""Statistics of attention over a data set, as metrics of torchmetrics.

Each takes the maps of one forward after the other and keeps sums, so that they need no more memory for a million images
than for one, add up over the ranks of torch.distributed, and work wherever torchmetrics do, Lightning among them. Rows
are read in blocks: the map of a batch is never there whole.

Needs the extra ``anylocal[metrics]``.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from anylocal.errors import DependencyError, OptionError, ShapeError, StateError

try:
    import torch
    from torchmetrics import Metric
    from torchmetrics.utilities.distributed import gather_all_tensors

    from anylocal._maps import statistics
    from anylocal._maps.map import maps_of
    from anylocal._maps.rollout import check_forward
    from anylocal._maps.rows import block_rows, chunks
    from anylocal.attention import AttentionMap, AttentionMaps, Axis, Named, Patches
except ModuleNotFoundError as error:
    if error.name not in {"torch", "torchmetrics"}:
        raise
    msg = f'anylocal.metrics needs {error.name}, which is not installed: pip install "anylocal[metrics]".'
    raise DependencyError(msg, name=error.name) from error

__all__ = ["AttentionDistance", "AttentionEntropy", "HeadAgreement", "MeanMap", "PrefixMass", "SinkMass"]


@dataclass(frozen=True)
class _Layer:
    """What is kept of a layer: all of it JSON, but for the axes.

    Attributes
    ----------
    name : str
    shape : tuple of int
        That of its sums.
    queries, keys : Axis or None
        None where samples differ in what their positions are.
    lacks : str
        Why it has nothing to measure, where no sample had.
    """

    name: str
    shape: tuple[int, ...]
    queries: Axis | None = None
    keys: Axis | None = None
    lacks: str = ""


class _Sums(Metric, ABC):
    """Sums over samples, of all layers in one vector: layers of different shapes, and an empty rank, need no more."""

    is_differentiable = False
    higher_is_better = None
    # Sums of batches are sums of samples.
    full_state_update = False

    sums: torch.Tensor
    counts: torch.Tensor
    # The layers too are a state, which torchmetrics can only be told as a tensor: whatever keeps, copies, shares, saves
    # or loads the sums does so with what they are of.
    described: torch.Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._read: tuple[torch.Tensor, tuple[_Layer, ...]] | None = None
        self.add_state("described", torch.zeros(0, dtype=torch.uint8), dist_reduce_fx=_first)
        # Of no dimension, until the first maps tell how many: it adds to sums of any length.
        for name in ("sums", "counts"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def layers(self) -> tuple[_Layer, ...]:
        """What the sums are of, in their order; nothing before the first maps."""
        # Read once only: on an accelerator, to read is to wait for all that it was given to do.
        if self._read is None or self._read[0] is not self.described:
            self._read = (self.described, _decoded(self.described))
        return self._read[1]

    def update(self, maps: AttentionMap | Iterable[AttentionMap]) -> None:
        """Add the maps of one forward: those of the same layers each time.

        Parameters
        ----------
        maps : AttentionMaps, AttentionMap or iterable of AttentionMap
            The layers of one forward, of any number of samples.

        Raises
        ------
        OptionError
            Where something is no map.
        ShapeError
            Where the layers are others than before.
        StateError, ChoiceError
            Where there is no map, or they belong to several forwards.
        """
        found = maps_of(maps, type(self).__name__)
        check_forward(found, type(self).__name__)
        with torch.no_grad():
            measured = [self._measured(attention) for attention in found]
        self._add(
            [
                _Layer(attention.name, tuple(sums.shape), *_axes(attention), lacks)
                for attention, (sums, _, lacks) in zip(found, measured, strict=True)
            ],
            torch.cat([sums.flatten().to(self.sums) for sums, _, _ in measured]),
            torch.cat([counts.flatten().to(self.counts) for _, counts, _ in measured]),
        )

    def forward(self, maps: AttentionMap | Iterable[AttentionMap]) -> Any:
        """Add the maps of one forward, and return what `compute` returns of them alone.

        Parameters
        ----------
        maps : AttentionMaps, AttentionMap or iterable of AttentionMap
            The layers of one forward, of any number of samples.

        Raises
        ------
        OptionError
            Where something is no map.
        ShapeError
            Where the layers are others than before, or none has what is measured.
        StateError, ChoiceError
            Where there is no map, or they belong to several forwards.
        """
        # torchmetrics puts all that there was aside, and what is refused in the meantime would leave it there. To put
        # the old tensors back is enough: nothing writes into one.
        kept = dict(self.__dict__)
        try:
            return super().forward(maps)
        except BaseException:
            self.__dict__.update(kept)
            raise

    def merge_state(self, incoming_state: Mapping[str, Any] | Metric) -> None:
        """Add what another metric of the same kind has summed up.

        Parameters
        ----------
        incoming_state : Metric or mapping
            The other metric, or its `metric_state`.

        Raises
        ------
        OptionError
            Where it is no metric of this kind, and no state of one.
        ShapeError
            Where its layers are others.
        """
        # Not torchmetrics' own: old versions have none, and that of new ones still gives the result computed before.
        given: Any = vars(incoming_state) if isinstance(incoming_state, type(self)) else incoming_state
        missing = [name for name in self._defaults if not isinstance(given, Mapping) or name not in given]
        if missing:
            msg = (
                f"merge_state() of {type(self).__name__} takes another one, or the metric_state of one, and got"
                f" {type(incoming_state).__name__} without {', '.join(missing)}."
            )
            raise OptionError(msg)
        layers = _decoded(given["described"])
        if layers:
            self._add(layers, given["sums"], given["counts"])
            self._update_count += max(1, given.get("_update_count", 1))
            self._computed = None

    def add(self, layers: Iterable[tuple[str, Sequence[int]]], sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Add what another metric of the same kind has summed up: its layers' names and shapes, its sums and counts."""
        self._add([_Layer(name, tuple(shape)) for name, shape in layers], sums, counts)

    @abstractmethod
    def _measured(self, attention: AttentionMap) -> tuple[torch.Tensor, torch.Tensor, str]:
        """Return the sum over samples, how many went into each of its numbers, and why there is nothing to measure."""

    def means(self) -> list[torch.Tensor]:
        """Return the means of each layer, in the shape that they have there."""
        if not self.layers:
            msg = f"{type(self).__name__} was given no maps; call update(maps) with those of a forward first."
            raise StateError(msg)
        means = (self.sums / self.counts).split(_lengths(self.layers))
        return [mean.reshape(layer.shape).float() for mean, layer in zip(means, self.layers, strict=True)]

    def _add(self, layers: Sequence[_Layer], sums: torch.Tensor, counts: torch.Tensor) -> None:
        merged = _merged(self.layers, layers)
        length = sum(_lengths(merged))
        if (length,) != tuple(sums.shape) or sums.shape != counts.shape:
            shapes = " and ".join(str(tuple(given.shape)) for given in (sums, counts))
            msg = f"The layers have {length} numbers, sums and counts are of shape {shapes}: they are of other layers."
            raise ShapeError(msg)
        sums, counts = self.sums + sums.to(self.sums), self.counts + counts.to(self.counts)
        if merged != self.layers:
            self._describe(merged)
        self.sums, self.counts = sums, counts

    def _describe(self, layers: tuple[_Layer, ...]) -> None:
        # With the kind: a MetricCollection updates but one of those that look equal after the first batch.
        described = json.dumps([type(self).__name__, [asdict(layer) for layer in layers]])
        # As numbers of the old one's type, which set_dtype() may have changed; ASCII survives in all of them.
        self.described = torch.tensor(list(described.encode())).to(self.described)
        self._read = (self.described, layers)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Put a batch, of which a call has returned the result, behind all that there was before."""
        layers, sums, counts = self.layers, self.sums, self.counts
        self.described, self.sums, self.counts = (incoming_state[name] for name in ("described", "sums", "counts"))
        self._add(layers, sums, counts)

    def _sync_dist(self, dist_sync_fn: Any = gather_all_tensors, process_group: Any = None) -> None:
        """Add up the sums of all ranks; also of ranks that were given no maps."""
        layers: tuple[_Layer, ...] = ()
        for described in dist_sync_fn(self.described, group=process_group or self.process_group):
            layers = _merged(layers, _decoded(described) or layers)
        if layers:
            # An empty rank's are of no dimension, and only what is of one shape can be gathered.
            length = sum(_lengths(layers))
            self.sums, self.counts = self.sums.expand(length), self.counts.expand(length)
            self._describe(layers)
        super()._sync_dist(dist_sync_fn, process_group)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        before = self.described
        super()._load_from_state_dict(*arguments, **options)
        if self.described is not before:
            self._computed = None
            # Or torchmetrics warns that there is nothing to compute.
            self._update_count = int(bool(self.layers))


class _Statistic(_Sums):
    """The mean over samples of a statistic of each head."""

    _of: ClassVar[Any]

    def compute(self) -> torch.Tensor:
        """Return the means over all samples.

        Returns
        -------
        torch.Tensor
            Shape (layer, head, ...); NaN where a layer has fewer heads than another, or nothing to measure. Of a single
            number, of no dimension, as torchmetrics return it.

        Raises
        ------
        StateError
            Where there were no maps.
        ShapeError
            Where no layer has what is measured.
        """
        means = self.means()
        if all(layer.lacks for layer in self.layers):
            raise ShapeError(self.layers[0].lacks)
        shape = [max(sizes) for sizes in zip(*(mean.shape for mean in means), strict=True)]
        padded = torch.full((len(means), *shape), torch.nan, device=self.sums.device)
        for row, mean in zip(padded, means, strict=True):
            row[tuple(map(slice, mean.shape))] = mean
        return padded

    def _measured(self, attention: AttentionMap) -> tuple[torch.Tensor, torch.Tensor, str]:
        lacks = ""
        try:
            values = type(self)._of(attention)  # noqa: SLF001  # of its own class
        except ShapeError as error:
            # A layer that has no such thing, as class attention has no distance, has none in the result. That no layer
            # has it is not said here but by compute(): a survey asks for all statistics, and goes on with the others.
            lacks = str(error)
            values = torch.full((1, attention.shape[1], *self._rest), torch.nan)
        counted = ~values.isnan()
        return values.double().where(counted, 0).sum(0), counted.sum(0), lacks

    _rest: ClassVar[tuple[int, ...]] = ()


class AttentionEntropy(_Statistic):
    """How evenly each head spreads its attention, in nats: the mean over samples of `anylocal.attention.entropy`.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap
    >>> from anylocal.metrics import AttentionEntropy
    >>> metric = AttentionEntropy()
    >>> for weights in (torch.eye(2), torch.full((2, 2), 0.5)):
    ...     metric.update([AttentionMap.from_weights(weights)] * 2)
    >>> metric.compute()
    tensor([[0.3466],
            [0.3466]])
    """

    _of = staticmethod(statistics.entropy)


class AttentionDistance(_Statistic):
    """How far each head looks: the mean over samples of `anylocal.attention.distance`; for patches of images.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches
    >>> from anylocal.metrics import AttentionDistance
    >>> patches = Patches(grid=(1, 2), prefix=(), image_size=(16, 32))
    >>> metric = AttentionDistance()
    >>> metric.update([AttentionMap.from_weights(torch.full((3, 2, 2), 0.5), queries=patches, keys=patches)])
    >>> metric.compute()
    tensor([[8., 8., 8.]])
    """

    _of = staticmethod(statistics.distance)


class PrefixMass(_Statistic):
    """What prefix tokens get of the patches' attention: the mean over samples of `anylocal.attention.prefix_mass`.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches
    >>> from anylocal.metrics import PrefixMass
    >>> patches = Patches(grid=(1, 2), prefix=("cls", "register"))
    >>> metric = PrefixMass()
    >>> metric.update([AttentionMap.from_weights(torch.full((4, 4), 0.25), queries=patches, keys=patches)])
    >>> metric.compute()
    tensor([[[0.2500, 0.2500]]])
    """

    @staticmethod
    def _of(attention: AttentionMap) -> torch.Tensor:
        if getattr(attention.keys, "prefix", None) == ():
            msg = (
                f"The keys of {attention!r} are {attention.keys!r}, without prefix tokens; give the layers of a model"
                " with a class token or registers."
            )
            raise ShapeError(msg)
        return statistics.prefix_mass(attention)

    _rest = (0,)


class SinkMass(_Statistic):
    """What the first key gets of all attention: the mean over samples of `anylocal.attention.sink_mass`.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap
    >>> from anylocal.metrics import SinkMass
    >>> metric = SinkMass()
    >>> metric.update([AttentionMap.from_weights(torch.full((2, 4, 4), 0.25))])
    >>> metric.compute()
    tensor([[0.2500, 0.2500]])
    """

    _of = staticmethod(statistics.sink_mass)


class HeadAgreement(_Statistic):
    """How alike the heads of a layer attend: the mean over samples of `anylocal.attention.head_agreement`.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap
    >>> from anylocal.metrics import HeadAgreement
    >>> metric = HeadAgreement()
    >>> metric.update([AttentionMap.from_weights(torch.full((2, 3, 3), 1 / 3))])
    >>> metric.compute()
    tensor([[[1., 1.],
             [1., 1.]]])
    """

    _of = staticmethod(statistics.head_agreement)


class MeanMap(_Sums):
    """The mean map of each layer, over samples (and over the windows of a windowed layer).

    For maps of one shape: images of one size, texts padded to one length.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap
    >>> from anylocal.metrics import MeanMap
    >>> metric = MeanMap()
    >>> for weights in (torch.eye(2), torch.full((2, 2), 0.5)):
    ...     metric.update([AttentionMap.from_weights(weights, name="layer")])
    >>> metric.compute()["layer"][0, 0]
    tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]])
    """

    def compute(self) -> AttentionMaps:
        """Return the mean maps.

        Returns
        -------
        AttentionMaps
            Each of shape (1, head, query, key), with the axes of its layer where every sample has the same.

        Raises
        ------
        StateError
            Where there were no maps.
        """
        return AttentionMaps(
            AttentionMap.from_weights(mean[None], name=layer.name, queries=layer.queries, keys=layer.keys)
            for mean, layer in zip(self.means(), self.layers, strict=True)
        )

    def _measured(self, attention: AttentionMap) -> tuple[torch.Tensor, torch.Tensor, str]:
        whole = slice(None)
        blocks = chunks(whole, attention.shape[2], block_rows(attention.shape))
        sums = torch.cat([attention.rows.take(whole, whole, block).sum(0, dtype=torch.float64) for block in blocks], 1)
        return sums, torch.full_like(sums, attention.shape[0]), ""


def _axes(attention: AttentionMap) -> tuple[Axis | None, Axis | None]:
    """Return the axes, None where samples may differ in what their positions are."""
    queries, keys = (
        axis if isinstance(axis, Patches | Named) else None for axis in (attention.queries, attention.keys)
    )
    return queries, keys


def _lengths(layers: Iterable[_Layer]) -> list[int]:
    return [torch.Size(layer.shape).numel() for layer in layers]


def _first(of_ranks: torch.Tensor) -> torch.Tensor:
    return of_ranks[0]


def _decoded(described: torch.Tensor) -> tuple[_Layer, ...]:
    text = bytes(described.to(torch.uint8).tolist()).decode()
    _, layers = json.loads(text) if text else ("", [])
    return tuple(
        _Layer(name, tuple(shape), _axis(queries), _axis(keys), lacks)
        for name, shape, queries, keys, lacks in map(dict.values, layers)
    )


def _axis(given: dict[str, Any] | None) -> Axis | None:
    if given is None:
        return None
    return Named(**given) if "names" in given else Patches(**given)


def _merged(before: Sequence[_Layer], now: Sequence[_Layer]) -> tuple[_Layer, ...]:
    """Return the layers of all samples: with the axes that all have, and lacking what none has."""
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


def _check_same(before: Sequence[_Layer], now: Sequence[_Layer]) -> None:
    old, new = ([(layer.name, layer.shape) for layer in layers] for layers in (before, now))
    if old != new:
        differing = next(
            ((a, b) for a, b in zip(old, new, strict=False) if a != b), (f"{len(old)} layers", f"{len(new)}")
        )
        msg = (
            f"The maps are of other layers or shapes than before: {differing[0]}, then {differing[1]}. One metric is"
            " for one model and one shape of what is measured; make another one, or call reset()."
        )
        raise ShapeError(msg)
