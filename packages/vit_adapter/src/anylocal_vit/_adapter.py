"""Where attention lives in timm, and how the axes are read off its models and their input."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import timm.layers
import timm.models.deit
import timm.models.vision_transformer as vit

from anylocal.adapter import Adapter, Axes, Scene, attention_functions
from anylocal.attention import Axis, Patches

if TYPE_CHECKING:
    import torch

    from anylocal import Call

# The classes of the ViT and DeiT families that compute a map; older timm defines some of them elsewhere, or not yet.
_CLASSES = ("Attention", "AttentionRope", "ParallelScalingBlock", "AttentionPoolLatent")


class TimmAdapter(Adapter):
    """Captures the attention of timm's vision transformers, and of forks of their source."""

    distribution: ClassVar[str] = "anylocal-vit"
    zoo: ClassVar[str] = "timm"

    def functions(self) -> Iterator[types.FunctionType]:
        """Give the forwards of the attention classes of the ViT and DeiT families."""
        classes = (getattr(vit, name, None) or getattr(timm.layers, name, None) for name in _CLASSES)
        yield from attention_functions(*classes)

    def also(self, model: torch.nn.Module) -> Iterable[tuple[types.FunctionType, tuple[str, ...]]]:
        """Ask the patch embedding for the height and width of the image."""
        for module in model.modules():
            embedding = getattr(module, "patch_embed", None)
            forward = getattr(type(embedding), "forward", None)
            if isinstance(forward, types.FunctionType) and {"H", "W"} <= set(forward.__code__.co_varnames):
                yield forward, ("H", "W")

    def axes(self, call: Call, shape: tuple[int, ...], scene: Scene) -> Axes:
        """Return the patches of the image that was given, with the prefix tokens of the model."""
        name, transformer = _transformer_of(call.name, scene.model)
        size = scene.seen.get(f"{name}.patch_embed" if name else "patch_embed", {})
        patches = _patches(transformer, size)
        return Axes(*(_fitting(patches, length) for length in shape[2:]))


def _transformer_of(name: str, model: torch.nn.Module) -> tuple[str, Any]:
    """Return the innermost module around a layer that embeds patches: models may lie in others."""
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        prefix = ".".join(parts[:length])
        module = model.get_submodule(prefix)
        if hasattr(module, "patch_embed"):
            return prefix, module
    return "", model


def _patches(transformer: Any, size: Mapping[str, int]) -> Patches | None:
    embedding: Any = getattr(transformer, "patch_embed", None)
    # Without the actual size, which forks of old source do not name, the one that the model was made for.
    image_size = (size["H"], size["W"]) if "H" in size else _pair(getattr(embedding, "img_size", None))
    if image_size is None:
        return None
    if hasattr(embedding, "dynamic_feat_size"):
        grid = embedding.dynamic_feat_size(image_size)
    elif hasattr(embedding, "patch_size"):
        height, width = _pair(embedding.patch_size) or (1, 1)
        grid = image_size[0] // height, image_size[1] // width
    else:
        return None
    return Patches(grid=grid, prefix=prefix_names(transformer), image_size=image_size)


def _pair(value: Any) -> tuple[int, int] | None:
    """Return height and width, which old source gives as one number."""
    return (value, value) if isinstance(value, int) else value


def prefix_names(transformer: Any) -> tuple[str, ...]:
    """Return the names of the tokens in front of the patches, in timm's order."""
    names = ["cls"] if getattr(transformer, "cls_token", None) is not None else []
    if getattr(transformer, "dist_token", None) is not None:
        names.append("dist")
    registers = getattr(transformer, "reg_token", None)
    names += [f"reg{i}" for i in range(1, 1 + (0 if registers is None else registers.shape[1]))]
    expected = getattr(transformer, "num_prefix_tokens", len(names))
    return (*names, *(f"prefix{i}" for i in range(len(names), expected)))[:expected]


def _fitting(patches: Patches | None, length: int) -> Axis:
    """Return the patches where they are what a map has, else positions that are only counted.

    Patch dropout leaves some patches out, attention pools have queries of their own.
    """
    if patches is None:
        return Axis(length)
    bare = Patches(grid=patches.grid, prefix=(), image_size=patches.image_size)
    return next((axis for axis in (patches, bare) if len(axis) == length), Axis(length))


adapter = TimmAdapter()
