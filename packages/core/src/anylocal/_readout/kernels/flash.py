"""The functions of flash-attn (2, 3 and 4): of (batch, position, head, feature), or of packed sequences."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal._maps.banded import BandedRows, Scoring
from anylocal._maps.map import AttentionMap
from anylocal._maps.packed import Span, packed_rows
from anylocal._readout.fused import FLASH, FLASH_FUNCTIONS
from anylocal._readout.kernels.kernel import Kernel, Recorded, listed, operand_names
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MODULES: Final = (
    "flash_attn",
    "flash_attn.flash_attn_interface",
    "flash_attn_interface",
    "flash_attn.cute",
    "flash_attn.cute.interface",
)

_SCORING: Final = ("softmax_scale", "causal", "window_size", "softcap", "alibi_slopes")
_EXACT: Final = (
    *("q", "k", "kv", "qkv", "k_cache", "cache_seqlens", *_SCORING),
    *("cu_seqlens", "cu_seqlens_q", "cu_seqlens_k", "s_aux", "learnable_sink"),
)
_NEUTRAL: Final = (
    *("v", "dropout_p", "deterministic", "max_seqlen", "max_seqlen_q", "max_seqlen_k", "min_seqlen_k"),
    *("num_splits", "pack_gqa", "sm_margin", "scheduler_metadata", "disable_scheduler_metadata"),
    *("seqlen_k_per_split", "v_cache", "v_descale", "rotary_interleaved"),
    *("return_attn_probs", "return_lse", "return_softmax_lse"),
)
_REFUSED: Final = (
    *("block_table", "page_table", "attention_chunk", "qv", "q_descale", "k_descale", "num_heads_q"),
    *("rotary_cos", "rotary_sin", "cache_batch_idx", "cache_leftpad", "seqused_q", "seqused_k"),
    *("gather_kv_indices", "score_mod", "mask_mod", "block_sparse_tensors"),
)
_NEW_KEYS: Final = "k, new keys that it writes into its cache"
_NAMES: Final = operand_names(
    FLASH,
    *("q", "k", "kv", "qkv", "softmax_scale", "causal", "left", "right", "softcap", "alibi_slopes"),
    *("cu_seqlens_q", "cu_seqlens_k", "cache_seqlens", "sinks", "padding_mask", "position_ids", "dtype"),
)


def is_flash(function: Any) -> bool:
    """Return whether a function is one of flash-attn's."""
    name = getattr(function, "__name__", "")
    return name in FLASH_FUNCTIONS and any(
        function is getattr(sys.modules.get(module), name, None) for module in _MODULES
    )


def of_function(function: Any, *args: Any, **kwargs: Any) -> Recorded:
    """Return what is recorded of a call of one of flash-attn's functions, whose order of arguments is its own."""
    code = getattr(function, "__code__", None)
    names = () if code is None else code.co_varnames[: code.co_argcount]
    given = dict(zip(names, args, strict=False)) | kwargs
    if "learnable_sink" in names and any(side is not None and side < 0 for side in given.get("window_size", ())):
        # Only before flash-attn 4 is it without end.
        given["a negative window_size"] = True
    return of_arguments(given, *args[len(names) :])


def of_arguments(arguments: Mapping[str, Any], *more: Any) -> Recorded:
    """Return what is recorded of arguments, by their names.

    Beside those of flash-attn, there may be a `padding_mask`, (batch, key), by which its caller takes padding out of
    query and key, `position_ids` that begin again with each packed sequence, and the `dtype` in which both are used.
    """
    given = dict(arguments)
    if "k_cache" in given:
        given[_NEW_KEYS] = given.pop("k", None)
        given["k"] = given.pop("k_cache")
    given["left"], given["right"] = map(_end, given.pop("window_size", None) or (None, None))
    for other in ("s_aux", "learnable_sink"):
        if other in given:
            given["sinks"] = given.pop(other)
    if "cu_seqlens" in given:
        given["cu_seqlens_q"] = given["cu_seqlens_k"] = given.pop("cu_seqlens")
    if (given.get("cu_seqlens_q") is None) != (given.get("cu_seqlens_k") is None):
        given["only one of cu_seqlens_q and cu_seqlens_k"] = True
    values = [given.pop(name.rpartition(".")[2], None) for name in _NAMES[:-1]]
    unknown = {name: value for name, value in given.items() if value is not None and name not in _NEUTRAL}
    # The only one that is off if it is a number.
    if isinstance(unknown.get("attention_chunk"), int) and not unknown["attention_chunk"]:
        del unknown["attention_chunk"]
    return _NAMES, (*values, listed(unknown, more))


def _end(side: int | None) -> int | None:
    """Return an end of a window, None where it is without end."""
    return None if side is None or side < 0 else side


def _map_of(given: Mapping[str, Any], **labels: Any) -> AttentionMap:
    q, k = _query_and_key(given)
    slopes, left, right = given["alibi_slopes"], given["left"], 0 if given["causal"] else given["right"]
    scoring = Scoring(
        given["softmax_scale"],
        left,
        right,
        softcap=given["softcap"] or None,
        slopes=None if slopes is None else slopes.expand(1, -1) if slopes.ndim == 1 else slopes,
        sinks=given["sinks"],
    )
    found = _spans(given, q, k)
    spans = None if found is None else list(found)
    sizes = [(q.shape[2], k.shape[2])] if spans is None else [(len(each.queries), len(each.keys)) for each in spans]
    if any(right is not None and right >= keys and queries > keys for queries, keys in sizes):
        raise UnsupportedError(
            f"{FLASH} was called with a window_size that ends {right} keys after the aligned one, and has fewer keys"
            " than queries: versions of it differ in whether the window has an end then, so the map is not known."
        )
    return AttentionMap(BandedRows(q, k, scoring) if spans is None else packed_rows(q, k, scoring, spans), **labels)


def _query_and_key(given: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return query and key as (batch, head, position, feature)."""
    q, k = given["q"], given["k"]
    if given["qkv"] is not None:
        q, k, _ = given["qkv"].unbind(-3)
    elif given["kv"] is not None:
        k = given["kv"].select(-3, 0)
    if q.ndim == 3:  # noqa: PLR2004  # (position, head, feature)
        q, k = q[None], k[None]
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    dtype = given["dtype"]
    return (q, k) if dtype is None else (q.to(dtype), k.to(dtype))


def _spans(given: Mapping[str, Any], q: torch.Tensor, k: torch.Tensor) -> Iterator[Span] | None:
    """Return the sequences of which query and key consist; None where each sample is one."""
    if given["cu_seqlens_q"] is not None:
        return _between(given["cu_seqlens_q"], given["cu_seqlens_k"], q.device)
    if given["padding_mask"] is not None:
        return _without_padding(given["padding_mask"], q, k)
    if given["cache_seqlens"] is not None:
        return _filled(given["cache_seqlens"], q)
    places = given["position_ids"]
    if places is None or len(q) != 1 or places.shape[-1] == 1:
        return None
    first = places.min()
    if torch.equal(places.reshape(-1), first + torch.arange(places.numel(), device=places.device)):
        return None
    starts = (places.reshape(-1) == first).nonzero()[:, 0]
    bounds = torch.cat([starts, starts.new_tensor([places.numel()])])
    return _between(bounds, bounds, q.device)


def _between(bounds_q: torch.Tensor, bounds_k: torch.Tensor, device: torch.device) -> Iterator[Span]:
    pairs = (itertools.pairwise(bounds.tolist()) for bounds in (bounds_q, bounds_k))
    for queries, keys in zip(*pairs, strict=True):
        yield Span(0, torch.arange(*queries, device=device), torch.arange(*keys, device=device))


def _without_padding(mask: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> Iterator[Span]:
    """Yield what is left of each sample; the last positions of a mask are the queries'."""
    queries, length = q.shape[2], mask.shape[-1]
    for sample, there in enumerate(mask.to(q.device).bool()):
        is_step = queries == 1 and min(length, k.shape[2]) != 1
        of_queries = there[:1].new_ones(1) if is_step else there[length - queries :]
        yield Span(sample, of_queries.nonzero()[:, 0], there.nonzero()[:, 0])


def _filled(lengths: torch.Tensor | int, q: torch.Tensor) -> Iterator[Span]:
    """Yield each sample with the part of the cache that is filled."""
    numbers = [lengths] * len(q) if isinstance(lengths, int) else lengths.tolist()
    for sample, number in enumerate(numbers):
        yield Span(sample, torch.arange(q.shape[2], device=q.device), torch.arange(number, device=q.device))


OF_FLASH: Final = Kernel(
    functions=FLASH_FUNCTIONS,
    names=_NAMES,
    map=_map_of,
    exact=_EXACT,
    neutral=_NEUTRAL,
    refused=_REFUSED,
    lays_out_heads=True,
)
