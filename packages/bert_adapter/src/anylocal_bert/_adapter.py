"""Where attention lives in transformers, and how the axes are read off a model and its input."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
import transformers.models.bert.modeling_bert  # noqa: F401  # so that BERT's functions are always marked
from transformers.generation.utils import GenerationMixin
from transformers.integrations import flash_attention, flex_attention, sdpa_attention
from transformers.modeling_utils import PreTrainedModel

from anylocal.adapter import (
    Adapter,
    CaptureSpec,
    InputContext,
    MapAxes,
    Observation,
    Reading,
    functions_in,
    reading_of,
    stands_for_flex,
)
from anylocal.errors import UnsupportedError
from anylocal_bert._caches import cache_methods, cache_observations, note_caches
from anylocal_bert._flash import IS_READ as FLASH_IS_READ
from anylocal_bert._grids import grid_observations, has_grids
from anylocal_bert._implementations import chosen_implementations, functions_of, implementations
from anylocal_bert._layout import four_axes, unpacked
from anylocal_bert._media import media_observations, note_input, numbers_of
from anylocal_bert._positions import Positions, lookups_of, note_lookup
from anylocal_bert._sounds import sound_observations
from anylocal_bert._sources import sources
from anylocal_bert._unsupported import computes_no_map, refuse_other_kernels, unsupported_layers
from anylocal_bert.families import FAMILIES, family_of, part_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping

    from anylocal import Call
    from anylocal.attention import AttentionMap

# The functions that run almost every model's fused kernel; transformers 4 had classes of BERT's own for it.
_SHARED: Final = (
    getattr(sdpa_attention, "sdpa_attention_forward", None),
    getattr(flex_attention, "flex_attention_forward", None),
    getattr(flash_attention, "flash_attention_forward", None) if FLASH_IS_READ else None,
)
if hasattr(flex_attention, "compile_friendly_flex_attention"):
    stands_for_flex(flex_attention.compile_friendly_flex_attention)
# The names through which models look it up when they run.
_LOOKED_UP: Final = {"ALL_ATTENTION_FUNCTIONS", "AttentionInterface"}
# What modeling files call their maps, also those in which a helper multiplies query and key.
_MAP_NAMES: Final = frozenset({"attn_weights", "attention_probs", "attn_probs", "attn_prob"})


class TransformersAdapter(Adapter):
    """Captures the attention of Hugging Face models, and of forks of their source.

    Examples
    --------
    >>> import torch
    >>> from transformers import BertConfig, BertModel
    >>> from anylocal_bert import adapter
    >>> config = BertConfig(num_hidden_layers=1, hidden_size=48, num_attention_heads=3, intermediate_size=96)
    >>> model = BertModel(config).eval()
    >>> with adapter.capture_attention(model) as maps, torch.no_grad():
    ...     output = model(torch.tensor([[101, 7592, 102]]))
    >>> maps.names
    ['encoder.layer.0.attention.self']
    """

    distribution: ClassVar[str] = "anylocal-bert"
    zoo: ClassVar[str] = "transformers"
    newest: ClassVar[str] = "5"
    hints: ClassVar[tuple[str, ...]] = (
        *("attention_mask", "mask", "q_length", "sinks", "s_aux"),
        *(name for family in FAMILIES for name in family.hints),
    )

    def check_modules(self, model: torch.nn.Module, modules: Mapping[str, torch.nn.Module]) -> None:
        """Refuse modules whose attention runs in a kernel that exposes neither its operands nor a map."""
        refuse_other_kernels(model, modules, self._is_readable)

    def conditions(self, model: torch.nn.Module, modules: Mapping[str, torch.nn.Module]) -> Hashable:  # noqa: ARG002  # the base's
        """Return how attention is computed, the functions registered for it, and the methods of caches."""
        return chosen_implementations(modules.values()), cache_methods()

    def functions(self) -> Iterator[types.FunctionType]:
        """Yield the functions that run a fused kernel, and those of the modeling files imported so far."""
        yield from _shared()
        names = [name for name in sys.modules if name.startswith("transformers.models.") and ".modeling_" in name]
        for name in sorted(names):
            for function in _written_in(sys.modules[name]):
                if self._is_readable(function):
                    yield function

    def _is_readable(self, function: types.FunctionType) -> bool:
        """Return whether the maps of a function can be read; one that is captured and cannot be is refused later."""
        try:
            return self.reading(function) is not None
        except UnsupportedError:
            return False

    def shared_functions(self, model: torch.nn.Module) -> Iterable[types.FunctionType]:
        """Return the functions that run a fused kernel, if the model looks them up."""
        # The base class of all models names it too, but only to list the kernels.
        classes = {base for module in model.modules() for base in type(module).__mro__} - {PreTrainedModel}
        methods = (f for cls in classes for value in vars(cls).values() for f in functions_in(value))
        if all(_LOOKED_UP.isdisjoint(f.__code__.co_names) for f in methods):
            return ()
        own = functions_of({kernel for _, kernel in implementations(dict(model.named_modules()))})
        return dict.fromkeys((*_shared(), *filter(self._is_readable, own)))

    def late_functions(self, model: torch.nn.Module) -> Iterable[types.FunctionType]:
        """Yield the attention functions of modules that the model may create while it runs."""
        for family in FAMILIES:
            if family.late_functions is not None:
                yield from family.late_functions(model)

    def reading(self, function: types.FunctionType) -> Reading | None:
        """Return how the map is read off the calls of a function, None where it computes none."""
        if computes_no_map(function):
            return None
        family = family_of(function)
        return reading_of(function, _MAP_NAMES) if family is None else family.reading

    def spec(self, function: types.FunctionType, reading: Reading) -> CaptureSpec:
        """Return what is recorded of a function.

        Beside sinks, the key is recorded: its length shows whether the sink's column is still in the softmax.
        """
        family = family_of(function)
        extra = ("key",) if {"sinks", "key"} <= {*function.__code__.co_varnames} else ()
        return super().spec(function, reading) | CaptureSpec(extra if family is None else (*extra, *family.locals))

    def unsupported(self, model: torch.nn.Module) -> Mapping[str, str]:
        """Return the layers that have no map but stand where attention would, by name, and what they are instead."""
        return dict(unsupported_layers(model))

    def observations(self, model: torch.nn.Module) -> Iterable[Observation]:
        """Yield what records the tokens looked up, the sizes of images and grids, and the caches."""
        for family in FAMILIES:
            if family.observations is not None:
                yield from family.observations(model)
        kinds = {type(source.module) for source in sources(model).values()}
        if any(issubclass(kind, torch.nn.Embedding) for kind in kinds):
            for function in functions_in(torch.nn.Embedding.forward):
                yield Observation(function, ("input",), keep=numbers_of)
            yield from cache_observations(model)
            yield from media_observations(model)
        yield from sound_observations(model)
        yield from grid_observations(model)
        if has_grids(model) or any(issubclass(kind, torch.nn.Conv2d) for kind in kinds):
            for function in functions_in(torch.nn.Conv2d.forward):
                yield Observation(function, arguments=("input",), keep=_shape)

    def around_forward(self, model: torch.nn.Module) -> Iterable[types.FunctionType]:
        """Yield the methods that encode images or a text, and then generate by the model's forward."""
        own = (cls.__dict__.get("generate") for cls in type(model).__mro__)
        for function in (next(functions_in(method)) for method in own if method is not None):
            # Others pass all the work to a model within the model.
            if function.__module__ == GenerationMixin.__module__ or "_sample" in function.__code__.co_names:
                yield function

    def observe(self, call: Call, context: InputContext) -> None:
        """Note which tokens are looked up, and which caches are filled and changed."""
        # Reading the value of another table could warn that it changed since, and it is not needed.
        if "input" in call.values and call.name in lookups_of(context):
            note_lookup(call, context.memory)
        if not note_input(call, context.memory):
            note_caches(call, context)

    def map_of(self, reading: Reading, call: Call) -> AttentionMap:
        """Return the map of a call, with a name of its own where it is a layer's second one."""
        made, part = super().map_of(reading, call), part_of(call.function)
        return made if part is None else made.labelled(name=f"{call.name}.{part}")

    def operands(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:
        """Return the operands with their heads on an axis of their own."""
        return unpacked(call, given)

    def weights(self, call: Call, softmax: torch.Tensor) -> torch.Tensor:
        """Return a softmax as (batch, head, query, key), without the column of a sink."""
        return four_axes(call, softmax)

    def axes(self, call: Call, shape: tuple[int, ...], context: InputContext) -> MapAxes:
        """Return the tokens of the text, or the patches of the image, that the model was given."""
        return Positions(call, shape, context).axes()


def _shared() -> Iterator[types.FunctionType]:
    for function in _SHARED:
        yield from functions_in(function)


def _written_in(module: types.ModuleType) -> Iterator[types.FunctionType]:
    """Yield the functions and methods that a file of transformers defines itself."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for part in vars(value).values() if isinstance(value, type) else (value,):
            if isinstance(part, types.FunctionType):
                yield from (f for f in functions_in(part) if f.__module__ == module.__name__)


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


adapter = TransformersAdapter()
