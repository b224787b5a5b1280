"""Where attention lives in timm: what its classes hand over, and what their positions are."""

from __future__ import annotations

import sys
import types
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import timm.layers
import timm.models

from anylocal.adapter import Adapter, InputContext, MapAxes, Observation, Reading, argument_names, functions_in
from anylocal_vit._grids import HINTS, Layer, Surroundings, is_model, seen_shape
from anylocal_vit._layouts import BATCH, four_axes, makes_no_map, special_reading, without_a_map
from anylocal_vit._places import cutting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

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
    hints: ClassVar[tuple[str, ...]] = HINTS

    def functions(self) -> Iterator[types.FunctionType]:
        """Give all functions of timm's models and layers that compute a map."""
        yield from _of_timm()

    def reading(self, function: types.FunctionType) -> Reading | None:
        """Return how the map is read off the calls of a function, None where it computes none."""
        if makes_no_map(function):
            return None
        return special_reading(function) or super().reading(function)

    def unsupported(self, model: torch.nn.Module) -> Mapping[str, str]:
        """Return what is called attention in timm and has no map, by the names of the modules."""
        return dict(without_a_map(model))

    def observations(self, model: torch.nn.Module) -> Iterable[Observation]:
        """Ask for the sizes of the image, and of what is cut into windows."""
        asked: dict[types.FunctionType, None] = {}
        for module in model.modules():
            takes_an_image = module is model or is_model(module)
            names = ("forward", "forward_features") if takes_an_image else ("forward",)
            wanted = [module] if takes_an_image or cutting(module) is not None else []
            embedding = getattr(module, "patch_embed", None) if takes_an_image else None
            wanted += [] if embedding is None else [embedding]
            for each in wanted:
                functions = (f for name in names for f in functions_in(getattr(type(each), name, None)))
                asked.update(dict.fromkeys(functions))
        for function in asked:
            arguments = argument_names(function.__code__)[1:]
            # The first one is the image; the others say where its patches lie, in models that are given them.
            kept = (*arguments[:1], *(name for name in arguments[1:] if name in {"patch_coord", "patch_valid"}))
            if kept:
                yield Observation(function, arguments=kept, keep=seen_shape)

    def spec(self, function: types.FunctionType, reading: Reading) -> CaptureSpec:
        """Return what is to be recorded; of forks, also what tells a batch from the heads in it."""
        spec = super().spec(function, reading)
        if function.__module__.startswith("timm."):
            return spec
        bound = function.__code__.co_varnames
        return spec._replace(returned=(*spec.returned, *(name for name in BATCH if name in bound)))

    def operands(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:
        """Return the kernel's arguments with a batch and a head axis."""
        query, mask = given["query"], given.get("attn_mask")
        arranged = {name: four_axes(call, given[name]) for name in ("query", "key")}
        if mask is not None and mask.ndim == query.ndim == 3:  # noqa: PLR2004  # without a head axis
            arranged["attn_mask"] = four_axes(call, mask)
        return {**given, **arranged}

    def weights(self, call: Call, softmax: torch.Tensor) -> torch.Tensor:
        """Return a softmax with a batch and a head axis."""
        return four_axes(call, softmax)

    def mixed(self, call: Call, reading: Reading, made: AttentionMap) -> Mixed:
        """Return what was made of the softmax; the difference of two fused maps is computed when it is asked for."""
        weight = call.values.get("lambda_full")
        if made.fused and weight is not None:
            return _difference(made, weight)
        return super().mixed(call, reading, made)

    def axes(self, call: Call, shape: tuple[int, ...], context: InputContext) -> MapAxes:
        """Return the patches of the image that was given, with the prefix tokens of the model."""
        return Surroundings(Layer(call.name, call.module, call.values, shape), context.model, context.seen).axes()


def _difference(made: AttentionMap, weight: torch.Tensor) -> Callable[[], torch.Tensor]:
    def mixed() -> torch.Tensor:
        return made[:, 0::2] - weight.to(made.dtype) * made[:, 1::2]

    return mixed


@cache
def _of_timm() -> tuple[types.FunctionType, ...]:
    found: dict[types.FunctionType, None] = {}
    adapter_ = TimmAdapter()
    # Importing a package of timm has imported all of its modules but those that are there for old code's sake.
    packages = tuple(f"{package.__name__}." for package in (timm.layers, timm.models))
    for name in sorted(name for name in sys.modules if name.startswith(packages)):
        owners = [value for value in vars(sys.modules[name]).values() if isinstance(value, type)]
        for owner in (owner for owner in owners if owner.__module__ == name):
            for value in vars(owner).values():
                functions = functions_in(value) if isinstance(value, types.FunctionType) else ()
                found.update(dict.fromkeys(f for f in functions if adapter_.reading(f) is not None))
    return tuple(found)


adapter = TimmAdapter()
