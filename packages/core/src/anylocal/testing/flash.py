"""A stand-in for flash-attn, which runs on no CPU."""

from __future__ import annotations

import math
import types
from itertools import pairwise
from typing import Any

import torch

_NO_WINDOW = (-1, -1)


def flash_attn_stand_in(name: str = "flash_attn") -> types.ModuleType:
    """Return a module with functions of flash-attn 2, by its signatures, that compute in float64.

    Each sequence is computed by itself and each score alone, as the documentation of flash-attn defines it. The weights
    that a call made are appended to the module's `maps`, a list with one (head, query, key) tensor for each sequence.

    Parameters
    ----------
    name : str
        The module's name, for `sys.modules`.

    Returns
    -------
    types.ModuleType
        The module. Its functions also take attention sinks, `s_aux`, as builds of flash-attn 3 do.

    Examples
    --------
    >>> import torch
    >>> from anylocal.testing import flash_attn_stand_in
    >>> flash_attn = flash_attn_stand_in()
    >>> q, k, v = torch.ones(3, 1, 2, 4, 8)  # (batch, position, head, feature)
    >>> flash_attn.flash_attn_func(q, k, v, causal=True).shape
    torch.Size([1, 2, 4, 8])
    >>> flash_attn.maps[0][0][0]
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]], dtype=torch.float64)
    """
    module = types.ModuleType(name)
    module.maps = []  # type: ignore[attr-defined]  # its own

    def ran(sequences: list[tuple[Any, Any, Any]], *options: Any) -> list[Any]:
        made = [_attention(*each, number, *options) for number, each in enumerate(sequences)]
        module.maps.append([weights for _, weights in made])
        return [output for output, _ in made]

    for function in _functions(ran):
        function.__module__ = name
        setattr(module, function.__name__, function)
    return module


def _functions(ran: Any) -> tuple[Any, ...]:
    def flash_attn_func(
        q: Any,
        k: Any,
        v: Any,
        dropout_p: float = 0.0,
        softmax_scale: Any = None,
        causal: bool = False,
        window_size: Any = _NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: Any = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        s_aux: Any = None,
    ) -> Any:
        options = softmax_scale, causal, window_size, softcap, alibi_slopes, s_aux
        return torch.stack(ran(list(zip(q, k, v, strict=True)), *options)).to(q.dtype)

    def flash_attn_kvpacked_func(
        q: Any,
        kv: Any,
        dropout_p: float = 0.0,
        softmax_scale: Any = None,
        causal: bool = False,
        window_size: Any = _NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: Any = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Any:
        options = dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes
        k, v = kv.unbind(-3)
        return flash_attn_func(q, k, v, *options)

    def flash_attn_qkvpacked_func(
        qkv: Any,
        dropout_p: float = 0.0,
        softmax_scale: Any = None,
        causal: bool = False,
        window_size: Any = _NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: Any = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Any:
        options = dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes
        q, k, v = qkv.unbind(-3)
        return flash_attn_func(q, k, v, *options)

    def flash_attn_varlen_func(
        q: Any,
        k: Any,
        v: Any,
        cu_seqlens_q: Any,
        cu_seqlens_k: Any,
        max_seqlen_q: Any,
        max_seqlen_k: Any,
        dropout_p: float = 0.0,
        softmax_scale: Any = None,
        causal: bool = False,
        window_size: Any = _NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: Any = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        block_table: Any = None,
        s_aux: Any = None,
    ) -> Any:
        parts = [
            (q[a:b], k[c:d], v[c:d])
            for (a, b), (c, d) in zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True)
        ]
        options = softmax_scale, causal, window_size, softcap, alibi_slopes, s_aux
        return torch.cat(ran(parts, *options)).to(q.dtype)

    def flash_attn_varlen_kvpacked_func(
        q: Any,
        kv: Any,
        cu_seqlens_q: Any,
        cu_seqlens_k: Any,
        max_seqlen_q: Any,
        max_seqlen_k: Any,
        dropout_p: float = 0.0,
        softmax_scale: Any = None,
        causal: bool = False,
        window_size: Any = _NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: Any = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Any:
        options = dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes
        k, v = kv.unbind(-3)
        return flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, *options)

    def flash_attn_varlen_qkvpacked_func(
        qkv: Any,
        cu_seqlens: Any,
        max_seqlen: Any,
        dropout_p: float = 0.0,
        softmax_scale: Any = None,
        causal: bool = False,
        window_size: Any = _NO_WINDOW,
        softcap: float = 0.0,
        alibi_slopes: Any = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Any:
        options = dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes
        q, k, v = qkv.unbind(-3)
        return flash_attn_varlen_func(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, *options)

    def flash_attn_with_kvcache(
        q: Any,
        k_cache: Any,
        v_cache: Any,
        k: Any = None,
        v: Any = None,
        rotary_cos: Any = None,
        rotary_sin: Any = None,
        cache_seqlens: Any = None,
        cache_batch_idx: Any = None,
        cache_leftpad: Any = None,
        block_table: Any = None,
        softmax_scale: Any = None,
        causal: bool = False,
        window_size: Any = _NO_WINDOW,
        softcap: float = 0.0,
        rotary_interleaved: bool = True,
        alibi_slopes: Any = None,
        num_splits: int = 0,
        return_softmax_lse: bool = False,
    ) -> Any:
        filled = [len(each) for each in k_cache] if cache_seqlens is None else cache_seqlens
        filled = [filled] * len(q) if isinstance(filled, int) else [int(each) for each in filled]
        parts = [(q[i], k_cache[i][:n], v_cache[i][:n]) for i, n in enumerate(filled)]
        return torch.stack(ran(parts, softmax_scale, causal, window_size, softcap, alibi_slopes, None)).to(q.dtype)

    return (
        *(flash_attn_func, flash_attn_kvpacked_func, flash_attn_qkvpacked_func, flash_attn_varlen_func),
        *(flash_attn_varlen_kvpacked_func, flash_attn_varlen_qkvpacked_func, flash_attn_with_kvcache),
    )


def _attention(
    q: Any, k: Any, v: Any, number: int, scale: Any, causal: bool, window: Any, softcap: float, slopes: Any, sinks: Any
) -> tuple[Any, Any]:
    """Return the output and the weights, (head, query, key), of one sequence: (position, head, feature)."""
    q, k, v = (each.double() for each in (q, k, v))
    group = q.shape[1] // k.shape[1]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    left, right = window
    weights = torch.zeros(q.shape[1], len(q), len(k), dtype=torch.float64)
    for head in range(q.shape[1]):
        slope = 0.0 if slopes is None else float(slopes[number, head] if slopes.ndim > 1 else slopes[head])
        sink = 0.0 if sinks is None else math.exp(float(sinks[head]))
        for i, query in enumerate(q[:, head]):
            at = i + len(k) - len(q)
            parts = {}
            for j, key in enumerate(k[:, head // group]):
                if (causal and j > at) or (left >= 0 and j < at - left) or (right >= 0 and j > at + right):
                    continue
                score = float(query @ key) * scale
                score = softcap * math.tanh(score / softcap) if softcap else score
                parts[j] = math.exp(score - slope * abs(at - j))
            for j, part in parts.items():
                weights[head, i, j] = part / (sum(parts.values()) + sink)
    values = v.repeat_interleave(group, 1)
    return torch.einsum("hqk,khd->qhd", weights, values), weights
