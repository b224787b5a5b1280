"""Numbers that describe a map, head by head: how wide it looks, how far, and how much it spends on prefix tokens.

Each is a mean over queries, of which rows are read in blocks: the map itself is never there whole. What is padding
asks for nothing, and does not count.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from anylocal._maps.patches import Patches, PlacedPatches
from anylocal._maps.rows import Pick, block_rows, chunks, positions
from anylocal._maps.tokens import Tokens
from anylocal.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anylocal._maps.map import AttentionMap
    from anylocal._maps.positions import Axis

_Lying: TypeAlias = Patches | PlacedPatches


def entropy(attention: AttentionMap) -> torch.Tensor:
    """Compute how evenly each head spreads its attention: the mean over queries of the entropy of their weights.

    In nats: 0 where every query attends to one key, ln n where it attends to n keys alike. Queries that are padding
    do not count.

    Parameters
    ----------
    attention : AttentionMap

    Returns
    -------
    torch.Tensor
        Shape (batch, head); (image, head) where a layer attends within windows. In float32, float64 if the map is.
        NaN where every query is padding.

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
    values = _by_query(attention, 0, lambda rows, _: torch.special.entr(rows).sum(-1))
    return _mean(attention, values, _counted(attention, 0)[:, None])


def distance(attention: AttentionMap) -> torch.Tensor:
    """Compute how far each head looks: the mean distance between a query patch and what it attends to.

    For each query patch, the mean of its distances to the key patches, from centre to centre, weighted by the
    attention it gives them; then the mean over the query patches. Prefix tokens and padding lie nowhere: they are left
    out, and the weights of the patches made to sum to 1 again. A query that gives patches nothing does not count.

    Parameters
    ----------
    attention : AttentionMap
        Its queries and its keys must be `Patches` or `PlacedPatches` of one image, in grids that may differ.

    Returns
    -------
    torch.Tensor
        Shape (batch, head); (image, head) where a layer attends within windows. In pixels; where the axes do not know
        their image's size, in patches of the queries' grid. In float32, float64 if the map is. NaN where no query
        counts.

    Raises
    ------
    ShapeError
        Where the queries or the keys are no patches, as in class attention, do not say where their windows lie, or are
        patches of images of different sizes.

    Notes
    -----
    A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021,
    appendix D.7 and figure 7.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches, distance
    >>> patches = Patches(grid=(1, 2), prefix=(), image_size=(16, 32))
    >>> distance(AttentionMap.from_weights(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), queries=patches, keys=patches))
    tensor([[4.]])
    """
    queries, keys = (_lying(attention, axis, kind) for axis, kind in _axes(attention))
    first, ignored = len(queries.prefix), len(keys.prefix)
    windows = max(len(_places(axis)) for axis in (queries, keys))
    extent = _extent(attention, queries, keys)
    start, end = (_centres(axis, windows, extent, attention) for axis in (queries, keys))
    nowhere = torch.from_numpy(_places(keys) < 0).to(attention.device)

    def reach(rows: torch.Tensor, part: Pick) -> torch.Tensor:
        """Return the sum of weighted distances and that of weights, shape (batch, head, query, 2)."""
        here = start[:, positions(part, attention.shape[2], attention.device) - first]
        apart = torch.hypot(*(here[:, :, None] - end[:, None]).unbind(-1))
        patches = rows[..., ignored:].unflatten(0, (-1, windows))
        patches = patches.masked_fill(nowhere[:, None, None], 0)
        return torch.stack([(patches * apart[:, None]).sum(-1), patches.sum(-1)], -1).flatten(0, 1)

    total, mass = _by_query(attention, first, reach).unbind(-1)
    counted = _counted(attention, first)[:, None] & (mass != 0)
    # By 1, not by 0, or the gradient would be NaN although nothing of the quotient is kept.
    return _mean(attention, total / mass.where(mass != 0, 1), counted)


def prefix_mass(attention: AttentionMap) -> torch.Tensor:
    """Compute how much of its attention each head gives to each prefix token, such as ``cls`` and registers.

    The mean over the query patches; over all queries where these are no patches. Padding does not count.

    Parameters
    ----------
    attention : AttentionMap
        Its keys must be `Patches` or `PlacedPatches`.

    Returns
    -------
    torch.Tensor
        Shape (batch, head, prefix); (image, head, prefix) where a layer attends within windows. In float32, float64 if
        the map is. NaN where every query is padding.

    Raises
    ------
    ShapeError
        Where the keys are no patches.

    Notes
    -----
    G. Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, call a token that takes most
    attention, whatever it means, a sink; T. Darcet et al., "Vision Transformers Need Registers", ICLR 2024, give it
    tokens of its own.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches, prefix_mass
    >>> patches = Patches(grid=(1, 2))
    >>> rows = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.5, 0.25]])
    >>> prefix_mass(AttentionMap.from_weights(rows, queries=patches, keys=patches))
    tensor([[[0.3750]]])
    """
    if not isinstance(attention.keys, _Lying):
        raise ShapeError(_no_patches(attention, attention.keys, "keys"))
    first, count = _prefix(attention.queries), len(attention.keys.prefix)
    values = _by_query(attention, first, lambda rows, _: rows[..., :count])
    return _mean(attention, values, _counted(attention, first)[:, None, :, None])


def sink_mass(attention: AttentionMap) -> torch.Tensor:
    """Compute how much of its attention each head gives to the first key, as attention sinks take it.

    The mean over the queries. Padding does not count: the first key is the first that is none.

    Parameters
    ----------
    attention : AttentionMap

    Returns
    -------
    torch.Tensor
        Shape (batch, head); (image, head) where a layer attends within windows. In float32, float64 if the map is. NaN
        where every query is padding.

    Notes
    -----
    X. Gu et al., "When Attention Sink Emerges in Language Models: An Empirical View", ICLR 2025, equation 7, for the
    first token. Under a causal mask the first query gives it all it has.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, sink_mass
    >>> sink_mass(AttentionMap.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]])))
    tensor([[0.7500]])
    """
    first = _present(attention, attention.keys).int().argmax(1)

    def given(rows: torch.Tensor, _: Pick) -> torch.Tensor:
        """Return the weights of each sample's first key, shape (batch, head, query)."""
        return rows.take_along_dim(first[:, None, None, None], -1)[..., 0]

    return _mean(attention, _by_query(attention, 0, given), _counted(attention, 0)[:, None])


def head_agreement(attention: AttentionMap) -> torch.Tensor:
    """Compute how alike the heads of a layer attend: 1 where two of them always do the same, 0 where never.

    1 less the Jensen-Shannon divergence, in bits, of what two heads give to the keys; the mean over the queries.
    Queries that are padding do not count.

    Parameters
    ----------
    attention : AttentionMap

    Returns
    -------
    torch.Tensor
        Shape (batch, head, head); (image, head, head) where a layer attends within windows. In float32, float64 if the
        map is. NaN where every query is padding.

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

    return _mean(attention, _by_query(attention, 0, agreement), _counted(attention, 0)[:, None, :, None])


def _by_query(attention: AttentionMap, first: int, of: Callable[[torch.Tensor, Pick], torch.Tensor]) -> torch.Tensor:
    """Compute something of the rows from a query on, a block at a time: shape (batch, head, query, ...)."""
    whole, dtype = slice(None), _dtype(attention)
    parts = chunks(slice(first, None), attention.shape[2], block_rows(attention.shape))
    return torch.cat([of(attention.rows.take(whole, whole, part).to(dtype), part) for part in parts], 2)


def _mean(attention: AttentionMap, values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Average values, shape (batch, head, query, ...), over the queries that count in all windows of an image."""
    split = (attention.images, attention.windows)
    total = values.where(counted, 0).unflatten(0, split).sum((1, 3))
    number = counted.expand_as(values).unflatten(0, split).sum((1, 3))
    return torch.div(total, number)


def _dtype(attention: AttentionMap) -> torch.dtype:
    return torch.float64 if attention.dtype == torch.float64 else torch.float32


def _counted(attention: AttentionMap, first: int) -> torch.Tensor:
    """Tell which queries, from one on, are no padding: shape (batch, query)."""
    return _present(attention, attention.queries)[:, first:]


def _present(attention: AttentionMap, axis: Axis) -> torch.Tensor:
    """Tell which positions are no padding: shape (batch, position)."""
    batch = attention.shape[0]
    flags = np.ones((1, len(axis)), dtype=bool)
    if isinstance(axis, Tokens):
        texts = np.stack([~axis.is_padding(text) for text in range(len(axis.texts))])
        flags = np.repeat(texts, attention.windows, axis=0)
    elif isinstance(axis, PlacedPatches):
        flags = np.pad(axis.places >= 0, ((0, 0), (len(axis.prefix), 0)), constant_values=True)
    flags = np.tile(flags, (batch // len(flags), 1))
    return torch.from_numpy(flags).to(attention.device)


def _prefix(axis: Axis) -> int:
    return len(axis.prefix) if isinstance(axis, _Lying) else 0


def _axes(attention: AttentionMap) -> tuple[tuple[Axis, str], tuple[Axis, str]]:
    return (attention.queries, "queries"), (attention.keys, "keys")


def _lying(attention: AttentionMap, axis: Axis, kind: str) -> _Lying:
    if isinstance(axis, PlacedPatches) or (isinstance(axis, Patches) and attention.windows == 1):
        return axis
    if isinstance(axis, Patches):
        msg = (
            f"{attention!r} attends within windows, and its {kind} do not say where these lie; make the map with "
            f"{kind}=PlacedPatches(grid=(rows, columns), places=...)."
        )
        raise ShapeError(msg)
    raise ShapeError(_no_patches(attention, axis, kind))


def _no_patches(attention: AttentionMap, axis: Axis, kind: str) -> str:
    return (
        f"The {kind} of {attention!r} are {axis!r}, no patches of an image; leave this layer out, or make the map with "
        f"{kind}=Patches(grid=(rows, columns), ...)."
    )


def _extent(attention: AttentionMap, queries: _Lying, keys: _Lying) -> tuple[int, int]:
    """Return height and width of the image, in the unit of distances."""
    sizes = {axis.image_size for axis in (queries, keys)} - {None}
    if len(sizes) > 1:
        msg = (
            f"The queries of {attention!r} lie in an image of {queries.image_size} and its keys in one of "
            f"{keys.image_size}, with no distance from one to the other; give both the image_size of one image."
        )
        raise ShapeError(msg)
    return next((size for size in sizes if size is not None), queries.grid)


def _centres(axis: _Lying, windows: int, extent: tuple[int, int], attention: AttentionMap) -> torch.Tensor:
    """Return the y and the x of each patch of each window, shape (windows, patches, 2); anything for padding."""
    places = _places(axis)
    cells = np.stack(np.divmod(np.tile(places, (windows // len(places), 1)), axis.grid[1]), -1)
    centres = (cells + 0.5) * (np.array(extent) / np.array(axis.grid))
    # Made narrow first: not every device has float64.
    return torch.from_numpy(centres).to(_dtype(attention)).to(attention.device)


def _places(axis: _Lying) -> npt.NDArray[np.int64]:
    """Return where each patch of each window lies, shape (windows, patches): -1 for padding."""
    if isinstance(axis, PlacedPatches):
        return axis.places
    return np.arange(math.prod(axis.grid))[None]
