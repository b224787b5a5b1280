"""Rows of torch's fused multi-head attention, computed from its input."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from anylocal._engine import tensors
from anylocal._maps.rows import LazyRows, Pick, Reader, Shape, exactly, float_type
from anylocal._readout.multihead.functions import FAST, LAYER, SWITCH
from anylocal.errors import ChangedInPlaceWarning, UnsupportedError, level_of_user

if TYPE_CHECKING:
    from anylocal._engine.calls import Call
    from anylocal._readout.multihead.weights import RecordedWeights


class ProjectedRows:
    """Rows whose query and key are projected from the layer's input when they are first read."""

    def __init__(self, call: Call, weights: RecordedWeights) -> None:
        values = call.values
        self._module = call.module
        self._name = call.name
        self._layer = values.get(LAYER)
        self._inputs: list[torch.Tensor] = [values["query"], values.get("key", values["query"])]
        self._masks: list[torch.Tensor | None] = [values["attn_mask"], values["key_padding_mask"]]
        self._is_fast = call.function is FAST
        # The conditions under which torch takes the hint for the mask.
        self._causal = bool(values.get("is_causal", False)) and not values["need_weights"] and self._masks[1] is None
        self._weights = weights.copy()
        self._versions = self._now()
        query, key = self._inputs
        # A nested tensor has no length of its own, and its samples have no rows after their ends.
        self._lengths = [len(sample) for sample in query.unbind()] if query.is_nested else None
        if self._lengths is None and not self._is_fast:
            # The slow path has the batch in the middle, or none.
            query, key = ((each if each.dim() == 3 else each[:, None]).transpose(0, 1) for each in (query, key))  # noqa: PLR2004  # the number of axes
            self._inputs = [query, key]
        lengths = [each.shape[1] if self._lengths is None else max(self._lengths, default=0) for each in (query, key)]
        self._more = int(self._module.bias_k is not None) + int(self._module.add_zero_attn)
        self.shape: Shape = (query.size(0), self._module.num_heads, lengths[0], lengths[1] + self._more)
        self.dtype = float_type(query.dtype)
        self.device = query.device

    def take(self, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        """Return the rows picked, shape (batch', head', query', key)."""
        return self._computed.take(batch, heads, queries)

    def reader(self, batch: Pick, heads: Pick) -> Reader:
        """Return a function of the queries alone."""
        return self._computed.reader(batch, heads)

    def cpu(self) -> LazyRows:
        """Return the same rows, made of copies in main memory."""
        return self._computed.cpu()

    @cached_property
    def _computed(self) -> LazyRows:
        self._warn_of_changes()
        with exactly(self.device), torch.no_grad():
            return LazyRows(*self._projected(), self._mask(), None, causal=self._causal)

    def _projected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return query and key, (batch, head, position, feature)."""
        module, (x, y) = self._module, self._inputs
        if self._lengths is not None:
            x = y = x.to_padded_tensor(0.0)
        if self._layer is not None and self._layer.norm_first:
            norm = self._layer.norm1
            scale, shift = self._weight(norm, "weight"), self._weight(norm, "bias")
            x = y = nn.functional.layer_norm(x, norm.normalized_shape, scale, shift, norm.eps)
        width, bias = module.embed_dim, self._weight(module, "in_proj_bias")
        of_q, of_k, _ = (None, None, None) if bias is None else bias.chunk(3)
        packed = self._weight(module, "in_proj_weight")
        to_q, to_k = self._weight(module, "q_proj_weight"), self._weight(module, "k_proj_weight")
        if packed is not None:
            to_q, to_k = packed[:width], packed[width : 2 * width]
        q, k = self._project(to_q, of_q, x), self._project(to_k, of_k, y)
        last = self._weight(module, "bias_k")
        if last is not None:
            k = torch.cat([k, last.expand(len(k), 1, -1)], 1)
        if module.add_zero_attn:
            k = torch.cat([k, k.new_zeros(len(k), 1, width)], 1)
        q, k = (each.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for each in (q, k))
        return q, k

    def _project(self, weight: torch.Tensor | None, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
        if weight is None or weight.shape != (self._module.embed_dim, x.shape[-1]):
            raise UnsupportedError(
                f"The weights of {self._name!r} have another layout than when it ran, and its map is computed from"
                f" them, because torch does not expose query and key. {SWITCH}."
            )
        return nn.functional.linear(x, weight, bias)

    def _mask(self) -> torch.Tensor | None:
        if self._lengths is not None:
            there = torch.tensor(self._lengths, device=self.device)[:, None]
            inside = torch.arange(self.shape[2], device=self.device) < there
            return (inside[:, :, None] & inside[:, None])[:, None]
        pairs, keys = self._masks
        batch, heads, queries, _ = self.shape
        if pairs is not None and pairs.dim() == 3:  # noqa: PLR2004  # (sample and head, query, key)
            pairs = pairs.reshape(batch, heads, queries, -1)
        if keys is not None:
            keys = keys.reshape(batch, 1, 1, -1)
        given = [mask for mask in (pairs, keys) if mask is not None and not self._causal]
        if not given:
            return None
        mask = given[0] if len(given) == 1 else given[0] + given[1]
        # In the fused kernels any number but 0 hides a key, also where an encoder layer accepts a mask to add.
        return mask == 0 if self._is_fast else nn.functional.pad(mask, (0, self._more))

    def _now(self) -> list[int | None]:
        return [tensors.version(tensor) for tensor in (*self._inputs, *self._masks)]

    def _weight(self, module: nn.Module, name: str) -> torch.Tensor | None:
        weight: torch.Tensor | None = getattr(module, name)
        # The recorded tensors may be on another device than the model.
        return None if weight is None else weight.detach().to(self.device)

    def _warn_of_changes(self) -> None:
        what = ""
        if self._weights.have_changed(self._module) or self._weights.have_changed(self._layer):
            what = f"The weights of {self._name!r} were changed"
        elif self._now() != self._versions:
            what = f"The input of {self._name!r} was changed in place"
        if what:
            message = (
                f"{what} while it was captured or after. torch does not expose query and key, so the map is computed"
                " from the present tensors, and may differ from the model's. Read maps before the weights change, and"
                f" clear the capture then. {SWITCH}."
            )
            warnings.warn(ChangedInPlaceWarning(message), stacklevel=level_of_user())
