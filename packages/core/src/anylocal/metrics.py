"""Statistics of attention over a data set, as metrics of torchmetrics.

Each takes the maps of one forward after the other and keeps sums, so that they need no more memory for a million images
than for one, add up over the ranks of torch.distributed, and work wherever torchmetrics do, Lightning among them. Rows
are read in blocks: the map of a batch is never there whole.

Needs the extra ``anylocal[metrics]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from anylocal.errors import DependencyError, ShapeError, StateError

try:
    import torch
    from torch import distributed
    from torchmetrics import Metric

    from anylocal import _statistics
    from anylocal._map import maps_of
    from anylocal._rollout import check_forward
    from anylocal._softmax import block_rows, chunks
    from anylocal.attention import AttentionMap, AttentionMaps, Axis
except ModuleNotFoundError as error:
    if error.name not in {"torch", "torchmetrics"}:
        raise
    msg = f'anylocal.metrics needs {error.name}, which is not installed: pip install "anylocal[metrics]".'
    raise DependencyError(msg, name=error.name) from error

__all__ = ["AttentionDistance", "AttentionEntropy", "HeadAgreement", "MeanMap", "PrefixMass", "SinkMass"]


@dataclass(frozen=True)
class _Layer:
    """What is kept of a layer: its name, the shape of its sums, and its axes, where every sample has the same."""

    name: str
    shape: tuple[int, ...]
    queries: Axis
    keys: Axis


class _Sums(Metric, ABC):
    """Sums over samples, of all layers in one vector: layers of different shapes, and an empty rank, need no more."""

    is_differentiable = False
    higher_is_better = None
    # Sums of batches are sums of samples.
    full_state_update = False

    sums: torch.Tensor
    counts: torch.Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Of no dimension, until the first maps tell how many: it adds to sums of any length.
        for name in ("sums", "counts"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.layers: tuple[_Layer, ...] = ()

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
            Where the layers are others than before, or none has what is measured.
        StateError, ChoiceError
            Where there is no map, or they belong to several forwards.
        """
        found = maps_of(maps, type(self).__name__)
        check_forward(found, type(self).__name__)
        with torch.no_grad():
            measured = [self._measured(attention) for attention in found]
        layers = [
            _Layer(attention.name, tuple(sums.shape), *_axes(attention))
            for attention, (sums, _) in zip(found, measured, strict=True)
        ]
        self._add(
            layers,
            torch.cat([sums.flatten().to(self.sums) for sums, _ in measured]),
            torch.cat([counts.flatten().to(self.counts) for _, counts in measured]),
        )

    def add(self, layers: Iterable[tuple[str, Sequence[int]]], sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Add what another metric of the same kind has summed up: its layers' names and shapes, its sums and counts."""
        known = [_Layer(name, tuple(shape), Axis(0), Axis(0)) for name, shape in layers]
        self._add(known, sums.to(self.sums), counts.to(self.counts))

    def sync(self, *arguments: Any, **options: Any) -> None:
        """Add up the sums of all ranks; also of ranks that were given no maps."""
        if distributed.is_available() and distributed.is_initialized():
            layers: list[tuple[_Layer, ...]] = [()] * distributed.get_world_size()
            distributed.all_gather_object(layers, self.layers)
            known = next((some for some in layers if some), ())
            for some in layers:
                if some:
                    _check_same(known, some)
            if not self.layers and known:
                self.layers = known
                length = sum(torch.Size(layer.shape).numel() for layer in known)
                self.sums = self.sums.new_zeros(length)
                self.counts = self.counts.new_zeros(length)
        super().sync(*arguments, **options)

    def reset(self) -> None:
        """Forget all maps."""
        super().reset()
        self.layers = ()

    @abstractmethod
    def _measured(self, attention: AttentionMap) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum over samples, and how many went into each of its numbers."""

    def means(self) -> list[torch.Tensor]:
        """Return the means of each layer, in the shape that they have there."""
        if not self.layers:
            msg = f"{type(self).__name__} was given no maps; call update(maps) with those of a forward first."
            raise StateError(msg)
        lengths = [torch.Size(layer.shape).numel() for layer in self.layers]
        means = (self.sums / self.counts).split(lengths)
        return [mean.reshape(layer.shape).float() for mean, layer in zip(means, self.layers, strict=True)]

    def _add(self, layers: Sequence[_Layer], sums: torch.Tensor, counts: torch.Tensor) -> None:
        if self.layers:
            _check_same(self.layers, layers)
        else:
            self.layers = tuple(layers)
        self.sums = self.sums + sums
        self.counts = self.counts + counts


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
        """
        means = self.means()
        shape = [max(sizes) for sizes in zip(*(mean.shape for mean in means), strict=True)]
        padded = torch.full((len(means), *shape), torch.nan, device=self.sums.device)
        for row, mean in zip(padded, means, strict=True):
            row[tuple(map(slice, mean.shape))] = mean
        return padded

    def _measured(self, attention: AttentionMap) -> tuple[torch.Tensor, torch.Tensor]:
        try:
            values = type(self)._of(attention)  # noqa: SLF001  # of its own class
        except ShapeError:
            # A layer that has no such thing, as class attention has no distance, has none in the result.
            values = torch.full((1, attention.shape[1], *self._rest), torch.nan)
        counted = ~values.isnan()
        return values.double().where(counted, 0).sum(0), counted.sum(0)

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

    _of = staticmethod(_statistics.entropy)


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

    _of = staticmethod(_statistics.distance)


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

    _of = staticmethod(_statistics.prefix_mass)
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

    _of = staticmethod(_statistics.sink_mass)


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

    _of = staticmethod(_statistics.head_agreement)


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

    def _measured(self, attention: AttentionMap) -> tuple[torch.Tensor, torch.Tensor]:
        whole = slice(None)
        blocks = chunks(whole, attention.shape[2], block_rows(attention.shape))
        sums = torch.cat([attention.rows.take(whole, whole, block).sum(0, dtype=torch.float64) for block in blocks], 1)
        return sums, torch.full_like(sums, attention.shape[0])


def _axes(attention: AttentionMap) -> tuple[Axis, Axis]:
    """Return the axes, or plain ones where samples differ in what their positions are."""
    from anylocal.attention import Named, Patches

    queries, keys = (
        axis if isinstance(axis, Patches | Named) else Axis(len(axis)) for axis in (attention.queries, attention.keys)
    )
    return queries, keys


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
