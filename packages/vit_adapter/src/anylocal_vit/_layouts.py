"""How the attention classes of timm differ from softmax(q kᵀ) of shape (batch, head, query, key).

Classes are known by their names, so that copies of their source in forks are known as well.
"""

from __future__ import annotations

import re
import types
from typing import TYPE_CHECKING, Any, Final

from anylocal.adapter import Assignment, Operand, Reading, module_names, source_up_to_softmax, split_heads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

    from anylocal import Call

_CHANNELS: Final = "attention of channels with channels, which has no map of positions"
_LINEAR: Final = "linear attention, which never relates a query to a key"
_GATE: Final = "a gate, which weighs channels or positions without a query"

WITHOUT_A_MAP: Final[Mapping[str, str]] = {
    "XCA": _CHANNELS,
    "CrossCovarianceAttn": _CHANNELS,
    "ChannelAttention": _CHANNELS,
    "ChannelAttentionV2": _CHANNELS,
    "OutlookAttention": "outlook attention, whose weights are predicted from each position alone",
    "LinearSelfAttention": _LINEAR,
    "FactorAttnConvRelPosEnc": _LINEAR,
    "EfficientAdditiveAttention": _LINEAR,
    "LiteMLA": _LINEAR,
    "LambdaLayer": "a lambda layer, which summarises all positions before a query is asked",
    "HSMSSD": "a state-space layer, which has no map",
    # Its queries have no axis of positions, so that q @ kᵀ relates the images of a batch.
    "SpatialTransformerBlock": "attention of the images of a batch with each other, which has no map of positions",
    "BilinearAttnTransform": "a bilinear transform of rows and columns",
    "SplitAttn": _GATE,
    "SelectiveKernelAttn": _GATE,
    "GlobalContext": _GATE,
    "GatherExcite": _GATE,
    "ChannelAttn": _GATE,
    "LightChannelAttn": _GATE,
    "SpatialAttn": _GATE,
    "LightSpatialAttn": _GATE,
    "SpatialAttention": _GATE,
    "EcaModule": _GATE,
    "CecaModule": _GATE,
    "CoordAttn": _GATE,
}
"""What is called attention in timm and makes no map, by class."""

_DIFFERENCE: Final = Reading(
    operands={
        "query": Operand("q"),
        "key": Operand("k"),
        "attn_mask": Operand("attn_mask"),
        "is_causal": Operand("is_causal"),
    },
    weights=Assignment("attn", "softmax", "attn = softmax(…)"),
    mixed=Assignment("attn", "lambda_full", "attn = … - lambda_full * …"),
)

_SPECIAL: Final[Mapping[str, Reading]] = {
    # A positional softmax stands beside that of query and key; their gated sum is divided by its own sum.
    "GPSA.get_attention": Reading(
        operands=None,
        weights=Assignment("patch_score", "softmax", "patch_score = softmax(…)"),
        mixed=Assignment("attn", "sum", "attn /= attn.sum(…)"),
    ),
    "CascadedGroupAttention.forward": Reading(
        operands=None, weights=Assignment("attn", "softmax", "attn = softmax(…)"), head_by_head=True
    ),
    # Fused, the two maps of each head meet the values apart, and what is subtracted is no map any more.
    "DiffAttention.forward": _DIFFERENCE,
    "DiffParallelScalingBlock.forward": _DIFFERENCE,
}


def without_a_map(module: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """Give the names of modules that are called attention and make no map, and what they are instead."""
    for name, part in module_names(module):
        what = WITHOUT_A_MAP.get(type(part).__name__)
        if what is None and relates_channels(getattr(type(part), "forward", None)):
            what = _CHANNELS
        if what is not None:
            yield name, what


def special_reading(function: types.FunctionType) -> Reading | None:
    """Return how a function is read whose source does not tell."""
    reading = _SPECIAL.get(function.__qualname__)
    code = function.__code__
    if reading is None or not {*reading.locals, *(r.name for r in reading.spec.resulted)} <= {*code.co_varnames}:
        return None
    return reading


def makes_no_map(function: types.FunctionType) -> bool:
    """Say whether a function belongs to a class that makes no map, though it calls softmax."""
    return function.__qualname__.rpartition(".")[0] in WITHOUT_A_MAP or relates_channels(function)


_PATTERN: Final = re.compile(r"'([^'>]*) -> ([^'>]*)'")

_OVER_LAST: Final = re.compile(
    r"@ \w+\.(?:mT|transpose\((?:-2, -1|-1, -2|2, 3)\))"
    r"|matmul\(\w+, \w+\.(?:mT|transpose\((?:-2, -1|-1, -2|2, 3)\))"
    r"|'[^',]* (\w+), [^',]* \1 -> (?![^']*\b\1\b)[^']*'"
)
"""A product of two tensors that sums over the last axis of both."""


def relates_channels(function: object) -> bool:
    """Say whether a function, by its source, sums over positions where it multiplies query and key.

    Features stand in front of positions then, in all that it takes apart by patterns of einops.
    """
    # Timm's are known by their names.
    if not isinstance(function, types.FunctionType) or str(function.__module__).startswith(("timm.", "torch.")):
        return False
    text = source_up_to_softmax(function)
    in_front = list(_features_in_front(text))
    return bool(in_front) and all(in_front) and _OVER_LAST.search(text) is not None


def _features_in_front(source: str) -> Iterator[bool]:
    """Say of each pattern that takes heads and features apart whether the features come before the last axis."""
    for before, after in _PATTERN.findall(source):
        axes = re.findall(r"\([^)]*\)|\w+", after)
        for head, feature in re.findall(r"\((\w+) (\w+)\)", before):
            if head in re.findall(r"\w+", after) and feature in axes:
                yield axes[-2:-1] == [feature]


def four_axes(call: Call, tensor: torch.Tensor) -> torch.Tensor:
    """Return an operand as (batch, head, position, feature), or a softmax as (batch, head, query, key)."""
    layout = _LAYOUTS.get(call.function.__qualname__)
    if layout is not None:
        return layout(tensor, call.module)
    heads = _heads(call.module)
    if tensor.ndim == 5:  # noqa: PLR2004  # (image, head, window, …) or (image, window, head, …)
        return (tensor.transpose(1, 2) if tensor.shape[1] == heads else tensor).flatten(0, 1)
    if tensor.ndim == 3:  # noqa: PLR2004  # (batch × head, …) or (batch, …)
        batch = next((call.values[name] for name in BATCH if name in call.values), None)
        alone = heads == 1 or tensor.shape[0] % heads or tensor.shape[0] == batch
        return tensor.unsqueeze(1) if alone else split_heads(tensor, heads, call.function)
    return tensor


BATCH: Final = ("B", "b", "bsz", "batch_size")
"""What forks call the size of the batch, which tells whether the heads are a part of it."""


def _heads(module: Any) -> int:
    names = ("num_heads", "heads", "n_heads", "n_head", "nhead", "nheads", "num_attention_heads")
    found = next((getattr(module, name) for name in names if isinstance(getattr(module, name, None), int)), 1)
    return int(found)


def _one_head(tensor: torch.Tensor, _module: Any) -> torch.Tensor:
    return tensor if tensor.ndim == 4 else tensor.unsqueeze(1)  # noqa: PLR2004  # the number of axes


def _windows_then_heads(tensor: torch.Tensor, _module: Any) -> torch.Tensor:
    return tensor.flatten(0, 1)


def _two_maps_each(tensor: torch.Tensor, _module: Any) -> torch.Tensor:
    """Heads and the two maps of each, which the fused branch has apart."""
    return tensor.flatten(1, 2) if tensor.ndim == 5 else tensor  # noqa: PLR2004  # the number of axes


def _heads_last(tensor: torch.Tensor, module: Any) -> torch.Tensor:
    """By einsum, the softmax is (batch, query, head, key)."""
    return tensor.transpose(1, 2) if getattr(module, "einsum", True) else tensor


def _halo(tensor: torch.Tensor, module: Any) -> torch.Tensor:
    """(image × head, block, query, key)."""
    heads: torch.Tensor = tensor.unflatten(0, (-1, module.num_heads))
    return heads.transpose(1, 2).flatten(0, 1)


_LAYOUTS: Final[Mapping[str, Callable[[torch.Tensor, Any], torch.Tensor]]] = {
    "SHSA.forward": _one_head,
    "SHMA.forward": _one_head,
    "NonLocalAttn.forward": _one_head,
    "LocallyGroupedAttn.forward": _windows_then_heads,
    "DiffAttention.forward": _two_maps_each,
    "DiffParallelScalingBlock.forward": _two_maps_each,
    "MultiQueryAttention2d.forward": _heads_last,
    "MultiQueryAttentionV2.forward": _heads_last,
    "HaloAttn.forward": _halo,
}
