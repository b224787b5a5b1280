"""How the attention classes of transformers differ from softmax(q kᵀ) of shape (batch, head, query, key).

Classes are known by their names, so that copies of their source in forks are known as well.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal.adapter import Assignment, Reading, module_names, split_heads
from anylocal_bert._blocks import attends_by_blocks, reading_of_blocks, whole

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator, Mapping

    from anylocal import Call

KNOWN: Final = frozenset({"attn_weights", "attention_probs", "attn_probs", "attn_prob"})
"""What modeling files call their maps, also those that leave the product of query and key to a helper."""

HINTS: Final = (
    *("attention_mask", "mask"),
    "q_length",
    "sinks",
    *("is_index_masked", "is_global_attn", "is_index_global_attn"),
)
SINK_HINTS: Final = ("key",)
"""What a function binds besides, which has sinks: it tells whether their column is still there."""

_STATE_SPACE: Final = "a state-space layer, which has no map"
_LINEAR: Final = "linear attention, which never relates a query to a key"
_RECURRENT: Final = "a recurrent layer, which has no map"

_WITHOUT_A_MAP: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\w*(Mamba2?|Bamba|SSM)(Mixer|Block|Layer)"), _STATE_SPACE),
    # Kimi's class for what is called a full attention layer bears the name of the model.
    (
        re.compile(
            r"(?!KimiLinearAttention$)\w*"
            r"(GatedDeltaNet|DeltaAttention|Linear(Self)?Attention|LightningAttention|RwkvSelfAttention)"
        ),
        _LINEAR,
    ),
    (re.compile(r"\w*(RecurrentBlock|xLSTM\w*|mLSTM\w*|RgLru)"), _RECURRENT),
    (re.compile(r"FNetBasicFourierTransform"), "a Fourier transform, which has no map"),
    (re.compile(r"PoolFormerPooling"), "pooling, which has no map"),
    (re.compile(r"\w*ShortConv"), "a gated convolution, which has no map"),
    (
        re.compile(r"\w*DeformableAttention\w*"),
        "deformable attention, whose weights are predicted from each query alone",
    ),
    (
        re.compile(r"\w*AttentionResidual"),
        "a mean of what earlier layers made of a position, which has no map of positions",
    ),
    (re.compile(r"MgpstrA3Module|PatchTSMixerGatedAttention"), "a gate, which weighs positions without a query"),
    (
        re.compile(r"NystromformerSelfAttention|MraSelfAttention|YosoSelfAttention"),
        "attention that is approximated without its map",
    ),
    (
        re.compile(r"(LSH|Local)SelfAttention"),
        "Reformer's attention within chunks, whose map is never put together",
    ),
)
"""What is called attention in transformers, or stands in its place, and makes no map, by class."""

# Behind the softmax, rows of padding and of queries that see every key are made 0 in place: that mixes nothing.
_BAND: Final = Reading(operands=None, weights=Assignment("attn_probs", "softmax", "attn_probs = softmax(…)"))

_SPECIAL: Final[Mapping[str, Reading]] = {
    "LongformerSelfAttention.forward": _BAND,
    "LEDEncoderSelfAttention.forward": _BAND,
    # Its helper makes the softmax of the scores less their largest.
    "LayoutLMv3SelfAttention.forward": Reading(
        operands=None, weights=Assignment("attention_probs", "cogview_attention", "attention_probs = softmax(…)")
    ),
    # SEW-D's, which empties rows without any key.
    "DisentangledSelfAttention.forward": Reading(
        operands=None, weights=Assignment("attention_probs", "XSoftmax", "attention_probs = softmax(…)")
    ),
    "IBertSelfAttention.forward": Reading(
        operands=None, weights=Assignment("attention_probs", "softmax", "attention_probs, … = softmax(…)")
    ),
}


def without_a_map(model: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """Give the names of modules that make no map, and what they are instead."""
    modules = dict(module_names(model))
    for name, part in modules.items():
        what = _what(type(part).__name__)
        # What is inside of such a layer is a part of it.
        if what is not None and not _what(type(modules[name.rpartition(".")[0]]).__name__):
            yield name, what


def _what(cls: str) -> str | None:
    return next((what for pattern, what in _WITHOUT_A_MAP if pattern.fullmatch(cls)), None)


def special_reading(function: types.FunctionType) -> Reading | None:
    """Return how a function is read whose source does not tell."""
    if (blocks := reading_of_blocks(function)) is not None:
        return blocks
    reading = _SPECIAL.get(function.__qualname__)
    # Another class of the same name is another matter.
    names = {*function.__code__.co_varnames, *function.__code__.co_names}
    fits = reading is not None and {name for r in reading.spec.resulted for name in (r.name, r.uses)} <= names
    return reading if fits else None


def makes_no_map(function: types.FunctionType) -> bool:
    """Say whether a function belongs to a class that makes no map, though it calls softmax."""
    return _what(function.__qualname__.rpartition(".")[0]) is not None


def four_axes(call: Call, softmax: torch.Tensor) -> torch.Tensor:
    """Return a softmax as (batch, head, query, key)."""
    layout = whole if attends_by_blocks(call.function) else _LAYOUTS.get(call.function.__qualname__)
    if layout is not None:
        return layout(call, softmax)
    key = call.values.get("key")
    if call.values.get("sinks") is not None and key is not None and softmax.shape[-1] == key.shape[-2] + 1:
        # What a row gives to the sink goes to no key.
        softmax = softmax[..., :-1]
    if softmax.ndim == 5:  # noqa: PLR2004  # (batch, head, block, query, key) or (batch, block, head, query, key)
        return (softmax.transpose(1, 2) if softmax.shape[1] == heads_of(call.module) else softmax).flatten(0, 1)
    if softmax.ndim == 3:  # noqa: PLR2004  # (batch × head, query, key)
        heads = heads_of(call.module)
        return split_heads(softmax, heads, call.function) if softmax.shape[0] % heads == 0 else softmax.unsqueeze(1)
    return softmax


def heads_of(module: Any) -> int:
    """Return how many heads a layer has, 1 where it does not tell."""
    names = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "nheads", "attention_heads")
    found = next((getattr(module, name) for name in names if isinstance(getattr(module, name, None), int)), 1)
    return int(found)


def _banded(call: Call, softmax: torch.Tensor) -> torch.Tensor:
    """Put a band, (batch, query, head, key within the window), at its place among all keys.

    In front of the band stand the keys that every query sees. The rows of the queries that see every key are another
    map; here they are 0.
    """
    reach: int = call.module.one_sided_attn_window_size
    seen_by_all, band = softmax.transpose(1, 2).split([softmax.shape[-1] - 2 * reach - 1, 2 * reach + 1], -1)
    batch, heads, length, width = band.shape
    rows = band.new_zeros(batch, heads, length, length + 2 * reach)
    places = torch.arange(length, device=band.device)[:, None] + torch.arange(width, device=band.device)
    whole: torch.Tensor = rows.scatter(3, places.expand(batch, heads, -1, -1), band)[..., reach : reach + length]
    empty = call.values["is_index_masked"]
    if call.values["is_global_attn"]:
        everywhere = call.values["is_index_global_attn"]
        for sample, flags in enumerate(everywhere):
            whole[sample, :, :, flags] += seen_by_all[sample, ..., : int(flags.sum())]
        empty = empty | everywhere
    return whole.masked_fill(empty[:, None, :, None], 0.0)


_LAYOUTS: Final[Mapping[str, Callable[[Any, torch.Tensor], torch.Tensor]]] = {
    "LongformerSelfAttention.forward": _banded,
    "LEDEncoderSelfAttention.forward": _banded,
}
