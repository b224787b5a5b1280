"""The adapter of timm: where attention is computed, and what the axes of its maps are."""

from __future__ import annotations

import sys
import types
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import timm.layers
import timm.models

from anylocal.adapter import Adapter, InputContext, MapAxes, Observation, Reading, argument_names, functions_in
from anylocal_vit._axes import INPUTS, SIZES, LayerAxes, seen_shape, windows_of
from anylocal_vit._layout import BATCH, four_axes
from anylocal_vit._models import is_model, volume_patch
from anylocal_vit._unsupported import computes_no_map, unsupported_layers
from anylocal_vit.families import FAMILIES, entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch

    from anylocal import Call
    from anylocal.adapter import CaptureSpec, Mixed
    from anylocal.attention import AttentionMap


class TimmAdapter(Adapter):
    """Captures the attention of timm's models, and of forks of their source.

    Examples
    --------
    >>> import timm
    >>> from anylocal_vit import adapter
    >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
    >>> adapter.capture_attention(model).layers
    {'blocks.0.attn': 'Attention', 'blocks.1.attn': 'Attention'}
    """

    distribution: ClassVar[str] = "anylocal-vit"
    zoo: ClassVar[str] = "timm"
    newest: ClassVar[str] = "1.0"
    hints: ClassVar[tuple[str, ...]] = (
        *(name for names in SIZES for name in names),
        *(name for family in FAMILIES for name in family.locals),
    )

    def functions(self) -> Iterator[types.FunctionType]:
        """Yield all functions of timm's models and layers that compute a map."""
        yield from _of_timm()

    def reading(self, function: types.FunctionType) -> Reading | None:
        """Return how the map is read off the calls of a function, None where it computes none."""
        if computes_no_map(function):
            return None
        return _reading_of_family(function) or super().reading(function)

    def unsupported(self, model: torch.nn.Module) -> Mapping[str, str]:
        """Return the attention layers that have no map, by name, and what they are instead."""
        return dict(unsupported_layers(model))

    def observations(self, model: torch.nn.Module) -> Iterable[Observation]:
        """Yield what tells the size of the image, and of the inputs that are divided into windows."""
        for function in _observed(model):
            arguments = argument_names(function.__code__)[1:]
            kept = (*arguments[:1], *(name for name in arguments[1:] if name in INPUTS))
            if kept:
                yield Observation(function, arguments=kept, keep=seen_shape)

    def spec(self, function: types.FunctionType, reading: Reading) -> CaptureSpec:
        """Return what is recorded of a function; in forks, the batch size as well."""
        spec = super().spec(function, reading)
        if function.__module__.startswith("timm."):
            return spec
        bound = function.__code__.co_varnames
        return spec._replace(returned=(*spec.returned, *(name for name in BATCH if name in bound)))

    def operands(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:
        """Return the kernel's arguments with a batch and a head axis."""
        query, mask = given["query"], given.get("attn_mask")
        arranged = {name: self.weights(call, given[name]) for name in ("query", "key")}
        if mask is not None and mask.ndim == query.ndim == 3:  # noqa: PLR2004  # without a head axis
            arranged["attn_mask"] = self.weights(call, mask)
        return {**given, **arranged}

    def weights(self, call: Call, softmax: torch.Tensor) -> torch.Tensor:
        """Return a softmax, or an operand, with a batch and a head axis."""
        layouts = entries("layouts", call.function.__qualname__)
        arranged: torch.Tensor = layouts[0](softmax, call.module) if layouts else four_axes(call, softmax)
        return arranged

    def mixed(self, call: Call, reading: Reading, made: AttentionMap) -> Mixed:
        """Return what the layer made of its softmax; where it was fused, a function that computes it on demand."""
        computing = entries("mixed", call.function.__qualname__) if made.fused else ()
        computed: Mixed = computing[0](call, made) if computing else None
        return super().mixed(call, reading, made) if computed is None else computed

    def axes(self, call: Call, shape: tuple[int, ...], context: InputContext) -> MapAxes:
        """Return the patches of the image that the model was given, with its prefix tokens."""
        return LayerAxes(call, shape, context).axes()


def _reading_of_family(function: types.FunctionType) -> Reading | None:
    for reading in entries("readings", function.__qualname__):
        # A fork may have other locals in a function of the same name.
        if {result.name for result in reading.spec.resulted} <= {*function.__code__.co_varnames}:
            found: Reading = reading
            return found
    return None


def _observed(model: torch.nn.Module) -> Iterable[types.FunctionType]:
    """Return the functions whose first argument is an image or a volume, or an input that is divided into windows."""
    found: dict[types.FunctionType, None] = {}
    for module in model.modules():
        takes_image = module is model or is_model(module)
        embedding = getattr(module, "patch_embed", None) if takes_image else None
        names = ("forward", "forward_features") if takes_image else ("forward",)
        modules = [module] if takes_image or windows_of(module) or volume_patch(module) is not None else []
        for each in modules if embedding is None else [*modules, embedding]:
            for name in names:
                found.update(dict.fromkeys(functions_in(getattr(type(each), name, None))))
    return found


@cache
def _of_timm() -> tuple[types.FunctionType, ...]:
    found: dict[types.FunctionType, None] = {}
    # timm's packages import all of their modules, except those kept for old code.
    packages = tuple(f"{package.__name__}." for package in (timm.layers, timm.models))
    for name in sorted(name for name in sys.modules if name.startswith(packages)):
        owners = [value for value in vars(sys.modules[name]).values() if isinstance(value, type)]
        for owner in (owner for owner in owners if owner.__module__ == name):
            for value in vars(owner).values():
                functions = functions_in(value) if isinstance(value, types.FunctionType) else ()
                found.update(dict.fromkeys(f for f in functions if adapter.reading(f) is not None))
    return tuple(found)


adapter = TimmAdapter()
