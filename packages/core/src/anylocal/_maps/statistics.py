"""Statistics of each head of a map: how evenly it attends, and how much it gives to prefix tokens and sinks.

Each is a mean over queries, computed in blocks of rows: the whole map never exists at once. Padding does not count.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from anylocal._maps.patches import Patches
from anylocal._maps.placed import PlacedPatches
from anylocal._maps.rows import Pick, block_rows, chunks, float_type, side_by_side
from anylocal._maps.tokens import Tokens
from anylocal.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anylocal._maps.map import AttentionMap
    from anylocal._maps.positions import Axis

ImageAxis: TypeAlias = Patches | PlacedPatches


def entropy(attention: AttentionMap) -> torch.Tensor:
    """Compute how evenly each head spreads its attention: the mean over queries of the entropy of their weights.

    In nats: 0 if every query attends to one key, ln n if it attends to n keys equally. Padding queries do not count.

    Parameters
    ----------
    attention : AttentionMap

    Returns
    -------
    torch.Tensor
        Shape (batch, head); (image, head) if the layer attends within windows. In float32, or float64 if the map is.
        NaN if every query is padding.

    Notes
    -----
    -Σ p ln p over the keys, where 0 · ln 0 is 0: C. E. Shannon, "A Mathematical Theory of Communication", 1948,
    section 6.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, entropy
    >>> entropy(AttentionMap.from_weights(torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]])))
    tensor([[0.0000, 0.6931]])
    """
    values = by_query(attention, 0, lambda rows, _: torch.special.entr(rows).sum(-1))
    return mean_over_queries(attention, values, counted_queries(attention, 0)[:, None])


def prefix_mass(attention: AttentionMap) -> torch.Tensor:
    """Compute how much of its attention each head gives to each prefix token, such as ``cls`` and registers.

    The mean over the query patches, or over all queries if they are not patches. Padding does not count.

    Parameters
    ----------
    attention : AttentionMap
        A map whose keys are `Patches` or `PlacedPatches`.

    Returns
    -------
    torch.Tensor
        Shape (batch, head, prefix); (image, head, prefix) if the layer attends within windows. In float32, or float64
        if the map is. NaN if every query is padding.

    Raises
    ------
    ShapeError
        If the keys are not patches.

    Notes
    -----
    G. Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, call a token that takes most
    attention regardless of its meaning a sink; T. Darcet et al., "Vision Transformers Need Registers", ICLR 2024, add
    tokens for it.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches, prefix_mass
    >>> patches = Patches(grid=(1, 2))
    >>> rows = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.5, 0.25]])
    >>> prefix_mass(AttentionMap.from_weights(rows, queries=patches, keys=patches))
    tensor([[[0.3750]]])
    """
    if not isinstance(attention.keys, ImageAxis):
        raise not_patches(attention, attention.keys, "keys")
    first, count = len(getattr(attention.queries, "prefix", ())), len(attention.keys.prefix)
    values = by_query(attention, first, lambda rows, _: rows[..., :count])
    return mean_over_queries(attention, values, counted_queries(attention, first)[:, None, :, None])


def sink_mass(attention: AttentionMap) -> torch.Tensor:
    """Compute how much of its attention each head gives to the first key, the usual attention sink.

    The mean over the queries. Padding does not count: the first key is the first that is not padding.

    Parameters
    ----------
    attention : AttentionMap

    Returns
    -------
    torch.Tensor
        Shape (batch, head); (image, head) if the layer attends within windows. In float32, or float64 if the map is.
        NaN if every query is padding.

    Notes
    -----
    X. Gu et al., "When Attention Sink Emerges in Language Models: An Empirical View", ICLR 2025, equation 7, for the
    first token. Under a causal mask the first query gives it all its attention.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, sink_mass
    >>> sink_mass(AttentionMap.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]])))
    tensor([[0.7500]])
    """
    first = present(attention, attention.keys).int().argmax(1)

    def given(rows: torch.Tensor, _: Pick) -> torch.Tensor:
        """Return the weights of each sample's first key, shape (batch, head, query)."""
        return rows.take_along_dim(first[:, None, None, None], -1)[..., 0]

    return mean_over_queries(attention, by_query(attention, 0, given), counted_queries(attention, 0)[:, None])


def head_agreement(attention: AttentionMap) -> torch.Tensor:
    """Compute how similarly the heads of a layer attend: 1 if two of them always agree, 0 if they never do.

    1 minus the Jensen-Shannon divergence, in bits, of the rows of two heads; the mean over the queries. Padding queries
    do not count.

    Parameters
    ----------
    attention : AttentionMap

    Returns
    -------
    torch.Tensor
        Shape (batch, head, head); (image, head, head) if the layer attends within windows. In float32, or float64 if
        the map is. NaN if every query is padding.

    Notes
    -----
    K. Clark et al., "What Does BERT Look At? An Analysis of BERT's Attention", BlackboxNLP 2019, section 6, measures
    the distance of heads by the divergence; J. Lin, "Divergence Measures Based on the Shannon Entropy", 1991, bounds
    it by 1 bit.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, head_agreement
    >>> head_agreement(AttentionMap.from_weights(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])))
    tensor([[[1., 0.],
             [0., 1.]]])
    """

    def agreement(rows: torch.Tensor, _: Pick) -> torch.Tensor:
        """Return the agreement of each pair of heads, shape (batch, head, query, head)."""
        own = torch.special.entr(rows).sum(-1)
        divergences = [
            torch.special.entr((rows + rows[:, [head]]) / 2).sum(-1) - (own + own[:, [head]]) / 2
            for head in range(rows.shape[1])
        ]
        return 1 - torch.stack(divergences, -1).clamp(min=0) / math.log(2)

    return mean_over_queries(
        attention, by_query(attention, 0, agreement), counted_queries(attention, 0)[:, None, :, None]
    )


def by_query(
    attention: AttentionMap, first: int, function: Callable[[torch.Tensor, Pick], torch.Tensor]
) -> torch.Tensor:
    """Apply a function to the rows from the first query on, block by block: shape (batch, head, query, ...)."""
    whole, dtype, length = slice(None), float_type(attention.dtype), attention.shape[2]
    parts, read = chunks(slice(first, None), length, block_rows(attention.shape)), attention.rows.reader(whole, whole)
    return side_by_side((function(read(part).to(dtype), part) for part in parts), 2, length - min(first, length))


def mean_over_queries(attention: AttentionMap, values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Average values, shape (batch, head, query, ...), over the counted queries of all windows of an image."""
    split = (attention.images, attention.windows)
    total = values.where(counted, 0).unflatten(0, split).sum((1, 3))
    number = counted.expand_as(values).unflatten(0, split).sum((1, 3))
    return torch.div(total, number)


def counted_queries(attention: AttentionMap, first: int) -> torch.Tensor:
    """Return which queries, from the first on, are not padding: shape (batch, query)."""
    return present(attention, attention.queries)[:, first:]


def present(attention: AttentionMap, axis: Axis) -> torch.Tensor:
    """Return which positions are not padding: shape (batch, position)."""
    flags = np.ones((1, len(axis)), dtype=bool)
    if isinstance(axis, Tokens):
        texts = np.stack([~axis.is_padding(text) for text in range(len(axis.texts))])
        flags = np.repeat(texts, attention.windows, axis=0)
    elif isinstance(axis, PlacedPatches):
        flags = np.pad(axis.places >= 0, ((0, 0), (len(axis.prefix), 0)), constant_values=True)
    flags = np.tile(flags, (len(attention) // len(flags), 1))
    return torch.from_numpy(flags).to(attention.device)


def not_patches(attention: AttentionMap, axis: Axis, kind: str) -> ShapeError:
    """Return the error for queries or keys that are not patches."""
    msg = (
        f"The {kind} of {attention!r} are {axis!r}, not patches of an image; leave this layer out, or make the map with"
        f" {kind}=Patches(grid=(rows, columns), ...)."
    )
    return ShapeError(msg)
