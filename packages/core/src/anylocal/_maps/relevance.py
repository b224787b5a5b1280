"""Relevance: attention weighted by its gradient, followed through the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from anylocal._maps.layers import check_chain, maps_of
from anylocal._maps.rows import StoredRows
from anylocal.errors import StateError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anylocal._maps.map import AttentionMap


def relevance(maps: Iterable[AttentionMap], output: torch.Tensor) -> torch.Tensor:
    """Compute how much each input position contributed to an output, from attention and its gradient.

    In each layer, Ā is the mean over heads of (∇A ⊙ A)⁺, where ∇A is the gradient of the output with respect to the
    map A; then R ← R + Ā·R, starting from the identity at the first layer.

    Parameters
    ----------
    maps : iterable of AttentionMap
        The self-attention layers of one forward pass, first layer first, captured with ``keep="graph"`` from a model
        without fused kernels.
    output : torch.Tensor
        The output to explain, such as the logits of one class: a scalar, or one number for each sample. Its graph is
        retained.

    Returns
    -------
    torch.Tensor
        Shape (batch, query, key): a row for each position of the last layer, such as the class token's.

    Raises
    ------
    UnsupportedError
        If a layer ran a fused kernel, which never materializes the map and so gives it no gradient, or the model was
        compiled as a whole.
    StateError
        If a map, or the output, has no graph.
    ShapeError, ChoiceError
        If the maps do not belong together, as in `rollout`.

    Notes
    -----
    H. Chefer, S. Gur and L. Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers", ICCV 2021, equations 5 and 6.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, relevance
    >>> weights = torch.tensor([[[[0.9, 0.1], [0.5, 0.5]]]], requires_grad=True)
    >>> output = (weights[0, 0] @ torch.tensor([1.0, 2.0]))[0]
    >>> relevance([AttentionMap.from_weights(weights)], output)
    tensor([[[1.9000, 0.2000],
             [0.0000, 1.0000]]])
    """
    layers = maps_of(maps, "relevance")
    check_chain(layers, "relevance")
    weights = [_with_graph(layer) for layer in layers]
    if not output.requires_grad:
        msg = "The output has no graph; run the model with gradients enabled, and do not detach its output."
        raise StateError(msg)
    try:
        gradients = torch.autograd.grad(output.sum(), weights, retain_graph=True)
    except RuntimeError as error:
        if "appears to not have been used" not in str(error):
            raise
        msg = (
            "The output does not depend on some of the captured maps: they belong to another forward pass, or the model"
            " was compiled as a whole, so that values inside it have no gradient. Run it eagerly, or with"
            ' backend="eager".'
        )
        raise UnsupportedError(msg) from error
    batch, _, length, _ = layers[-1].shape
    flow = torch.eye(length, dtype=torch.float32, device=layers[-1].device).expand(batch, -1, -1)
    for layer, weight, gradient in zip(layers, weights, gradients, strict=True):
        product = (weight.detach() * gradient).clamp(min=0).reshape(layer.shape)
        flow = flow + product.mean(1, dtype=torch.float32).to(flow.device) @ flow
    return flow


def _with_graph(layer: AttentionMap) -> torch.Tensor:
    if layer.fused or not isinstance(layer.rows, StoredRows):
        msg = (
            f"{layer!r} ran a fused kernel, which never materializes the map and so gives it no gradient. Turn fused"
            " kernels off: timm.layers.set_fused_attn(False) before the model is built, or"
            ' attn_implementation="eager" when it is loaded from transformers.'
        )
        raise UnsupportedError(msg)
    if not layer.rows.given.requires_grad:
        msg = f'{layer!r} has no graph; capture it with keep="graph", and run the model with gradients enabled.'
        raise StateError(msg)
    return layer.rows.given
