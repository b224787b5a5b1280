"""Layers of transformers that have no attention map, and models whose attention cannot be captured."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

from anylocal.adapter import module_names
from anylocal.errors import UnsupportedError
from anylocal_bert._family import LINEAR
from anylocal_bert._implementations import functions_of, implementations
from anylocal_bert.families import FAMILIES

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator, Mapping

    import torch

# By class: what many families have in common. A family's own layers are in its file.
_COMMON: Final = {
    r"\w*(Mamba2?|Bamba|FalconH1|SSM)(Mixer|Block|Layer)": "a state-space layer, which has no map",
    r"\w*(GatedDeltaNet|DeltaAttention|Linear(Self)?Attention|LightningAttention)": LINEAR,
    r"\w*ShortConv": "a gated convolution, which has no map",
    r"\w*DeformableAttention\w*": "deformable attention, whose weights are predicted from each query alone",
}


def unsupported_layers(model: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of modules that have no map, and what they are instead; not of modules inside them."""
    modules = dict(module_names(model))
    for name, module in modules.items():
        kind = _kind(type(module).__name__)
        if kind is not None and not _kind(type(modules[name.rpartition(".")[0]]).__name__):
            yield name, kind


def computes_no_map(function: types.FunctionType) -> bool:
    """Return whether a function belongs to a class that has no map, though it calls softmax."""
    return _kind(function.__qualname__.rpartition(".")[0]) is not None


@cache
def _kind(cls: str) -> str | None:
    if any(re.fullmatch(family.supported, cls) for family in FAMILIES):
        return None
    tables = (*(family.unsupported for family in FAMILIES), _COMMON)
    return next((kind for table in tables for pattern, kind in table.items() if re.fullmatch(pattern, cls)), None)


def refuse_other_kernels(
    model: torch.nn.Module, modules: Mapping[str, torch.nn.Module], is_readable: Callable[[types.FunctionType], bool]
) -> None:
    """Refuse a model for those modules whose attention runs in a function that exposes neither operands nor a map."""
    for name, kernel in implementations(modules):
        if kernel != "eager" and ("|" in kernel or not any(map(is_readable, functions_of([kernel])))):
            where = f"its {name!r}" if name else "it"
            msg = (
                f"{type(model).__qualname__} cannot be captured: {where} runs {kernel!r} attention, which exposes no"
                " map: a function registered for it is read if its first parameter is called module and it calls a"
                ' kernel that is known. Call model.set_attn_implementation("sdpa"), or load it with'
                ' attn_implementation="sdpa".'
            )
            raise UnsupportedError(msg)
