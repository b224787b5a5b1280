"""Attention rollout, from the last layer down, in blocks of rows.

The rollout of all layers is the product Â_L … Â_1. Asked for a few queries it is a few rows of that product, and
these are rows times matrices: going down from the last layer, no layer's matrix is ever needed whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from anylocal._maps.indexing import Queries, query_rows
from anylocal._maps.map import maps_of
from anylocal._maps.positions import Axis
from anylocal._maps.rows import Pick, block_rows, chunks, positions
from anylocal.errors import ChoiceError, OptionError, ShapeError, StateError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anylocal.attention import AttentionMap


def rollout(
    maps: Iterable[AttentionMap],
    *,
    residual: float = 0.5,
    queries: Queries = None,
) -> torch.Tensor:
    """Follow attention through all layers, back to the input positions.

    In each layer, Â = (1 - residual) · A + residual · I, where A is the mean over heads and I stands for the
    residual connection; rows are normalised again, and the layers multiplied. A row without any attention
    (all its keys masked) keeps its residual alone, and is 0 if that is 0.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The self-attention layers of one forward, first layer first.
    residual : float, default 0.5
        The share of the residual connection, between 0 and 1.
    queries : int, slice or sequence of int, optional
        Positions of the last layer to follow; all by default. For one position at N tokens, memory grows
        as N (times a block of rows), never as N × N, as long as the maps are lazy.

    Returns
    -------
    torch.Tensor
        Shape (batch, query, key); (batch, key) for an integer. On the device of the first layer, in float32
        (float64 if a layer is).

    Raises
    ------
    ShapeError
        Where a layer is no self-attention, or differs in batch or length from the last one.
    ChoiceError
        Where the maps belong to several forwards.
    UnsupportedError
        Where a layer attends within windows, whose positions are not the same from layer to layer.
    OptionError, StateError, PositionError
        Where `residual` is not within 0 and 1, there is no map, or no such query.

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
        msg = f"residual={residual!r} is no share; give a number between 0 and 1."
        raise OptionError(msg)
    check_layers(layers, "rollout")
    last = layers[-1]
    pick, kept = query_rows(queries, last.shape, last.device)
    batch, _, length, _ = last.shape
    dtype = torch.float64 if any(layer.dtype == torch.float64 for layer in layers) else torch.float32
    flow = torch.eye(len(positions(pick, length, last.device)), dtype=dtype, device=last.device).expand(batch, -1, -1)
    for layer in reversed(layers):
        flow, pick = _down(flow.to(layer.device), layer, pick, residual), slice(None)
    return flow[:, kept]


def _down(flow: torch.Tensor, layer: AttentionMap, pick: Pick, residual: float) -> torch.Tensor:
    """Multiply rows, shape (batch, n, m), with the m rows of Â that are picked: shape (batch, n, key)."""
    batch, _, _, length = layer.shape
    below = flow.new_zeros(batch, flow.shape[1], length)
    done = 0
    for part in chunks(pick, length, block_rows(layer.shape)):
        at = positions(part, length, layer.device)
        rows = layer.head_mean(part).to(flow.dtype)
        total = (1 - residual) * rows.sum(-1) + residual
        # Without attention and without residual there is nothing to normalise: the row stays 0.
        share = flow[:, :, done : done + len(at)] / total.masked_fill(total == 0, 1.0)[:, None]
        # In place, because autocast then leaves the product alone.
        below.baddbmm_(share, rows, alpha=1 - residual)
        below.index_add_(-1, at, share, alpha=residual)
        done += len(at)
    return below


def check_layers(layers: Sequence[AttentionMap], what: str) -> None:
    """Raise where layers cannot be followed one after the other."""
    check_forward(layers, what)
    for layer in layers:
        _check_layer(layer, layers[-1], what)


def check_forward(layers: Sequence[AttentionMap], what: str) -> None:
    """Raise where there is no layer, or layers belong to several forwards."""
    if not layers:
        msg = f"{what} needs at least one map and there is none; run the model inside the capture first."
        raise StateError(msg)
    if len({(layer.rank, layer.forward) for layer in layers}) > 1:
        msg = f"{what} follows one forward and the maps belong to several; choose one of maps.forwards."
        raise ChoiceError(msg)


def _check_layer(layer: AttentionMap, last: AttentionMap, what: str) -> None:
    if layer.windows != 1:
        msg = f"{layer!r} attends within windows, and {what} needs the same positions in every layer."
        raise UnsupportedError(msg)
    known = type(layer.queries) is not Axis and type(layer.keys) is not Axis
    if layer.shape[2] != layer.shape[3] or (known and layer.queries != layer.keys):
        msg = f"{layer!r} is no self-attention, and {what} needs it; leave the layer out."
        raise ShapeError(msg)
    if (layer.shape[0], layer.shape[2]) != (last.shape[0], last.shape[2]):
        msg = f"{layer!r} and {last!r} differ in batch or length, and {what} multiplies them; choose layers that fit."
        raise ShapeError(msg)
