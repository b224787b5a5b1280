"""Statistics of attention over a data set, as torchmetrics metrics.

Each is updated with the maps of one forward pass at a time and keeps only sums: a million images need no more memory
than one. They add up over the ranks of torch.distributed, and work wherever torchmetrics does, such as in Lightning.
Rows are read in blocks: the map of a batch never exists at once.

Needs the extra ``anylocal[metrics]``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from anylocal.errors import DependencyError, ShapeError

try:
    import torch

    from anylocal._maps import statistics
    from anylocal._maps.distance import distance
    from anylocal._maps.map import AttentionMap
    from anylocal._maps.maps import AttentionMaps
    from anylocal._maps.rows import block_rows, chunks
    from anylocal._maps.sums import Measured, Sums
except ModuleNotFoundError as error:
    if error.name not in {"numpy", "torch", "torchmetrics"}:
        raise
    msg = f'anylocal.metrics needs {error.name}, which is not installed: pip install "anylocal[metrics]".'
    raise DependencyError(msg, name=error.name) from error

__all__ = ["AttentionDistance", "AttentionEntropy", "HeadAgreement", "MeanMap", "PrefixMass", "SinkMass"]


def __dir__() -> list[str]:
    return __all__


class _Statistic(Sums):
    """The mean over samples of a statistic of each head."""

    _of: ClassVar[Any]

    def compute(self) -> torch.Tensor:
        """Return the means over all samples.

        Returns
        -------
        torch.Tensor
            Shape (layer, head, ...); NaN where a layer has fewer heads than another, or nothing to measure. A single
            number is a scalar, as torchmetrics returns it.

        Raises
        ------
        StateError
            If there were no maps.
        ShapeError
            If the statistic is not defined for any layer.
        """
        means = self.means()
        if all(layer.lacks for layer in self.layers):
            raise ShapeError(self.layers[0].lacks)
        shape = [max(sizes) for sizes in zip(*(mean.shape for mean in means), strict=True)]
        padded = torch.full((len(means), *shape), torch.nan, device=self.sums.device)
        for row, mean in zip(padded, means, strict=True):
            row[tuple(map(slice, mean.shape))] = mean
        return padded

    def _measured(self, attention: AttentionMap) -> Measured:
        lacks = ""
        try:
            values = type(self)._of(attention)  # noqa: SLF001  # its own class
        except ShapeError as error:
            # A layer without the statistic, such as class attention without a distance, is NaN in the result. If no
            # layer has it, compute() raises instead: a survey asks for all statistics, and goes on with the others.
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

    _of = staticmethod(distance)


class PrefixMass(_Statistic):
    """How much attention patches give to prefix tokens: the mean over samples of `anylocal.attention.prefix_mass`.

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
                f"The keys of {attention!r} are {attention.keys!r}, without prefix tokens; use a model with a class"
                " token or registers."
            )
            raise ShapeError(msg)
        return statistics.prefix_mass(attention)

    _rest = (0,)


class SinkMass(_Statistic):
    """How much attention the first key gets: the mean over samples of `anylocal.attention.sink_mass`.

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
    """How similarly the heads of a layer attend: the mean over samples of `anylocal.attention.head_agreement`.

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


class MeanMap(Sums):
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
            Each of shape (1, head, query, key), with the axes of its layer if all samples share them.

        Raises
        ------
        StateError
            If there were no maps.
        """
        return AttentionMaps(
            AttentionMap.from_weights(mean[None], name=layer.name, queries=layer.queries, keys=layer.keys)
            for mean, layer in zip(self.means(), self.layers, strict=True)
        )

    def _measured(self, attention: AttentionMap) -> Measured:
        whole = slice(None)
        blocks = chunks(whole, attention.shape[2], block_rows(attention.shape))
        sums = torch.cat([attention.rows.take(whole, whole, block).sum(0, dtype=torch.float64) for block in blocks], 1)
        return sums, torch.full_like(sums, attention.shape[0]), ""
