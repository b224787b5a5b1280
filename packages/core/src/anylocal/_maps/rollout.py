"""Attention rollout, from the last layer down, in blocks of rows.

The rollout of all layers is the product Â_L … Â_1. For a few queries it is a few rows of that product, which are rows
times matrices: going down from the last layer, no layer's matrix is ever needed at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from anylocal._maps.indexing import Queries, query_rows
from anylocal._maps.layers import check_chain, maps_of
from anylocal._maps.rows import Pick, block_rows, chunks, float_type, positions
from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anylocal._maps.map import AttentionMap


def rollout(
    maps: Iterable[AttentionMap],
    *,
    residual: float = 0.5,
    queries: Queries = None,
) -> torch.Tensor:
    """Follow attention through all layers, back to the input positions.

    In each layer, Â = (1 - residual) · A + residual · I, where A is the mean over heads and I stands for the
    residual connection; rows are normalised again, and the layers multiplied. A fully masked row keeps only its
    residual, and is 0 if that is 0.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The self-attention layers of one forward pass, first layer first.
    residual : float, default 0.5
        The share of the residual connection, between 0 and 1.
    queries : int, slice or sequence of int, optional
        Positions of the last layer to follow; all by default. For one position of N, memory grows as N (times a block
        of rows) instead of N × N if the maps are lazy.

    Returns
    -------
    torch.Tensor
        Shape (batch, query, key); (batch, key) for an integer. On the device of the first layer, in float32
        (float64 if a layer is).

    Raises
    ------
    ShapeError
        If a layer is not self-attention, or differs in batch or length from the last one.
    ChoiceError
        If the maps belong to several forward passes.
    UnsupportedError
        If a layer attends within windows, whose positions differ from layer to layer.
    OptionError, StateError, PositionError
        If `residual` is not between 0 and 1, there are no maps, or a query is out of range.

    Notes
    -----
    S. Abnar and W. Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3: there, the
    attention of a layer is its mean over heads, and `residual` is 0.5.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, rollout
    >>> turn = AttentionMap.from_weights(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    >>> rollout([turn, turn], queries=0)
    tensor([[0.5000, 0.5000]])
    """
    layers = maps_of(maps, "rollout")
    if not 0 <= residual <= 1:
        msg = f"residual={residual!r} is out of range; give a number between 0 and 1."
        raise OptionError(msg)
    check_chain(layers, "rollout")
    last = layers[-1]
    pick, kept = query_rows(queries, last.shape, last.device)
    batch, _, length, _ = last.shape
    dtype = float_type(*(layer.dtype for layer in layers))
    flow = torch.eye(len(positions(pick, length, last.device)), dtype=dtype, device=last.device).expand(batch, -1, -1)
    for layer in reversed(layers):
        flow, pick = _down(flow.to(layer.device), layer, pick, residual), slice(None)
    return flow[:, kept]


def _down(flow: torch.Tensor, layer: AttentionMap, pick: Pick, residual: float) -> torch.Tensor:
    """Multiply rows, shape (batch, n, m), with the m picked rows of Â: shape (batch, n, key)."""
    batch, _, _, length = layer.shape
    below = flow.new_zeros(batch, flow.shape[1], length)
    done = 0
    for part in chunks(pick, length, block_rows(layer.shape)):
        at = positions(part, length, layer.device)
        rows = layer.head_mean(part).to(flow.dtype)
        total = (1 - residual) * rows.sum(-1) + residual
        # A row without attention and residual cannot be normalised, and stays 0.
        share = flow[:, :, done : done + len(at)] / total.masked_fill(total == 0, 1.0)[:, None]
        # In place, because autocast leaves in-place products in their own type.
        below.baddbmm_(share, rows, alpha=1 - residual)
        below.index_add_(-1, at, share, alpha=residual)
        done += len(at)
    return below
