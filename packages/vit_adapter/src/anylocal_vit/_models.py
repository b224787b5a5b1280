"""Modules that take images: their patches, and their prefix tokens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal_vit._family import Grid, pair

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_COLOURS: Final = 4
"""The input of a convolution with more channels is features, or a volume."""

_REARRANGED: Final = re.compile(r"\(h (\w+)\) \(w (\w+)\)")
"""An einops pattern that cuts an image into patches: the names of their height and width."""

_VOLUME: Final = re.compile(
    r"^\s*\w+ \w+ \((\w+) (\w+)\) \((\w+) (\w+)\) \((\w+) (\w+)\)\s*->\s*\w+ (?:\(\1 \3 \5\)|\1 \3 \5) "
)
"""An einops pattern that cuts a video or a volume into patches, which stay in the order of its axes."""

_CONFIGS: Final = ("pretrained_cfg", "default_cfg")
_MARKS: Final = ("patch_embed", "embeds", *_CONFIGS)


def is_model(module: torch.nn.Module) -> bool:
    """Return whether a module takes an image: a model that timm built, or a module that embeds patches."""
    # Scripted and traced modules have no `_modules` of their own.
    if _has(module, _MARKS) or any(name in vars(module).get("_modules", {}) for name in _MARKS):
        return True
    return not is_of_torch(module) and not is_of_timm(module) and any(True for _ in patch_sizes(module))


def is_of_timm(module: torch.nn.Module) -> bool:
    """Return whether a module's class is timm's, or the module is a model that timm or a fork of it built."""
    return _has(module, _CONFIGS) or any(base.__module__.startswith("timm.") for base in type(module).__mro__)


def is_of_torch(module: torch.nn.Module) -> bool:
    """Return whether a module's class is torch's own, such as a list of layers."""
    return type(module).__module__.startswith("torch.")


def _has(module: torch.nn.Module, names: tuple[str, ...]) -> bool:
    # `hasattr` of a module is slow where the attribute is missing.
    return any(name in vars(module) or hasattr(type(module), name) for name in names)


def patch_sizes(module: torch.nn.Module) -> Iterator[Grid]:
    """Yield the sizes of the patches into which a module, a child, or a layer of a sequential child cuts an image.

    Examples
    --------
    >>> list(patch_sizes(torch.nn.Sequential(torch.nn.Conv2d(3, 24, 16, stride=16))))
    [(16, 16)]
    """
    lists = [part for part in module.children() if isinstance(part, torch.nn.Sequential)]
    for part in (module, *module.children(), *(inner for each in lists for inner in each)):
        if isinstance(part, torch.nn.Conv2d):
            if part.kernel_size == part.stride != (1, 1) and part.in_channels <= _MOST_COLOURS:
                yield pair(part.kernel_size)
        # The layer that einops makes of `rearrange` keeps its pattern.
        elif isinstance(lengths := getattr(part, "axes_lengths", None), dict):
            found = _REARRANGED.search(str(getattr(part, "pattern", "")))
            if found is not None and set(found.groups()) <= set(lengths):
                yield pair([lengths[name] for name in found.groups()])


def volume_patch(module: torch.nn.Module) -> tuple[int, int, int] | None:
    """Return the size of the patches into which a module itself cuts a video or a volume, None where it does not.

    Examples
    --------
    >>> volume_patch(torch.nn.Conv3d(1, 24, (2, 8, 8), stride=(2, 8, 8)))
    (2, 8, 8)
    """
    sizes: Any = None
    if isinstance(module, torch.nn.Conv3d):
        if module.kernel_size == module.stride != (1, 1, 1) and module.padding in {(0, 0, 0), "valid"}:
            sizes = module.kernel_size
    # Of all modules of a model: `getattr` is slow where an attribute is missing.
    elif isinstance(lengths := vars(module).get("axes_lengths"), dict):
        found = _VOLUME.search(str(getattr(module, "pattern", "")))
        names = () if found is None else found.groups()[1::2]
        sizes = [lengths[name] for name in names] if names and set(names) <= set(lengths) else None
    return None if sizes is None else (int(sizes[0]), int(sizes[1]), int(sizes[2]))


def prefix_names(model: Any) -> tuple[str, ...]:
    """Return the names of the tokens in front of the patches, in timm's order."""
    holder = getattr(model, "embeds", model)
    tokens = ("cls_token", "cls_token_0", "class_token", "class_embedding")
    names = ["cls"] if any(getattr(holder, name, None) is not None for name in tokens) else []
    if getattr(holder, "dist_token", None) is not None:
        names.append("dist")
    registers = next((r for n in ("reg_token", "register_tokens") if (r := getattr(holder, n, None)) is not None), None)
    names += [f"reg{i}" for i in range(1, 1 + (0 if registers is None else registers.shape[1]))]
    expected = getattr(model, "num_prefix_tokens", len(names))
    return (*names, *(f"prefix{i}" for i in range(len(names), expected)))[:expected]
