"""Attention layers that compute no map of queries and keys."""

from __future__ import annotations

import re
import types
from typing import TYPE_CHECKING, Final

from anylocal.adapter import module_names, source_up_to_softmax
from anylocal_vit._family import CHANNELS
from anylocal_vit.families import entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


def unsupported_layers(model: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of attention layers that compute no map, and what they are instead."""
    for name, module in module_names(model):
        cls = type(module)
        kinds = entries("unsupported", cls.__name__)
        if kinds:
            yield name, kinds[0]
        elif relates_channels(getattr(cls, "forward", None)):
            yield name, CHANNELS


def computes_no_map(function: types.FunctionType) -> bool:
    """Return whether a function belongs to a class that computes no map, though it calls softmax."""
    return bool(entries("unsupported", function.__qualname__.rpartition(".")[0])) or relates_channels(function)


_PATTERN: Final = re.compile(r"'([^'>]*) -> ([^'>]*)'")

_SUM_OVER_LAST: Final = re.compile(
    r"@ \w+\.(?:mT|transpose\((?:-2, -1|-1, -2|2, 3)\))"
    r"|matmul\(\w+, \w+\.(?:mT|transpose\((?:-2, -1|-1, -2|2, 3)\))"
    r"|'[^',]* (\w+), [^',]* \1 -> (?![^']*\b\1\b)[^']*'"
)
"""A product of two tensors that sums over the last axis of both."""


def relates_channels(function: object) -> bool:
    """Return whether the source of a function multiplies query and key by summing over positions.

    It does where all einops patterns that separate heads and features put features before positions.
    """
    # timm's own are known by name.
    if not isinstance(function, types.FunctionType) or str(function.__module__).startswith(("timm.", "torch.")):
        return False
    text = source_up_to_softmax(function)
    before_positions = list(_features_before_positions(text))
    return bool(before_positions) and all(before_positions) and _SUM_OVER_LAST.search(text) is not None


def _features_before_positions(source: str) -> Iterator[bool]:
    """Yield, for each pattern that separates heads and features, whether features come just before the last axis."""
    for before, after in _PATTERN.findall(source):
        axes = re.findall(r"\([^)]*\)|\w+", after)
        for head, feature in re.findall(r"\((\w+) (\w+)\)", before):
            if head in re.findall(r"\w+", after) and feature in axes:
                yield axes[-2:-1] == [feature]
