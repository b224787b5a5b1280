"""Where attention lives in transformers, and how the axes are read off a model and its input."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
import transformers.models.bert.modeling_bert  # noqa: F401  # so that BERT's functions are always among those to mark
from transformers.integrations import sdpa_attention
from transformers.modeling_utils import PreTrainedModel

from anylocal.adapter import (
    Adapter,
    AttentionCapture,
    CaptureSpec,
    InputContext,
    MapAxes,
    Observation,
    Reading,
    functions_in,
    reading_of,
    split_heads,
)
from anylocal.errors import UnsupportedError
from anylocal_bert._blocks import hints_of_blocks, in_their_place
from anylocal_bert._caches import cache_observations, note_caches
from anylocal_bert._layouts import (
    HINTS,
    KNOWN,
    SINK_HINTS,
    four_axes,
    heads_of,
    makes_no_map,
    special_reading,
    without_a_map,
)
from anylocal_bert._positions import Positions, lookups_of, note_lookup
from anylocal_bert._sources import sources
from anylocal_bert._windows import GRID, cutting_functions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from anylocal import Call

# Almost every model's fused call goes through this one function; transformers 4 had classes of BERT's own for it.
_SHARED: Final = getattr(sdpa_attention, "sdpa_attention_forward", None)
# By these names models look it up when they run.
_LOOKED_UP: Final = {"ALL_ATTENTION_FUNCTIONS", "AttentionInterface"}


class TransformersAdapter(Adapter):
    """Captures the attention of Hugging Face's models, and of forks of their source.

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
    hints: ClassVar[tuple[str, ...]] = HINTS

    def capture_attention(
        self, model: torch.nn.Module, *, about: object = None, any_version: bool = False, **options: Any
    ) -> AttentionCapture:
        """Return a scope that captures every attention map of a model; see `Adapter.capture_attention`."""
        if isinstance(model, torch.nn.Module):
            _refuse_other_kernels(model)
        return super().capture_attention(model, about=about, any_version=any_version, **options)

    def functions(self) -> Iterator[types.FunctionType]:
        """Give the function that runs the fused kernel, and those of the modeling files that have been imported."""
        yield from functions_in(_SHARED)
        names = [name for name in sys.modules if name.startswith("transformers.models.") and ".modeling_" in name]
        for name in sorted(names):
            for function in _written_in(sys.modules[name]):
                if self._is_readable(function):
                    yield function

    def _is_readable(self, function: types.FunctionType) -> bool:
        """Say whether a function computes maps; that it does so in an unknown way is told to whoever captures it."""
        try:
            return self.reading(function) is not None
        except UnsupportedError:
            return False

    def shared_functions(self, model: torch.nn.Module) -> Iterable[types.FunctionType]:
        """Give the function that runs the fused kernel, if the model looks it up."""
        # What all models inherit only asks which kernels there are.
        classes = {base for module in model.modules() for base in type(module).__mro__} - {PreTrainedModel}
        methods = (f for cls in classes for value in vars(cls).values() for f in functions_in(value))
        return functions_in(_SHARED) if any(not _LOOKED_UP.isdisjoint(f.__code__.co_names) for f in methods) else ()

    def late_functions(self, model: torch.nn.Module) -> Iterable[types.FunctionType]:
        """Give BigBird's full attention, which takes the place of that by blocks when a text is short."""
        return in_their_place(model)

    def reading(self, function: types.FunctionType) -> Reading | None:
        """Return how the map is read off the calls of a function, None where it computes none."""
        if makes_no_map(function):
            return None
        return special_reading(function) or reading_of(function, KNOWN)

    def spec(self, function: types.FunctionType, reading: Reading) -> CaptureSpec:
        """Return what is to be recorded: of some functions more than of others.

        Where there are sinks, what tells their column from the keys; where blocks are attended to, all parts.
        """
        spec = super().spec(function, reading)
        bound = {*function.__code__.co_varnames}
        sinks = tuple(name for name in SINK_HINTS if "sinks" in bound and name in bound)
        return spec | CaptureSpec((*sinks, *hints_of_blocks(function)))

    def unsupported(self, model: torch.nn.Module) -> Mapping[str, str]:
        """Return what stands in the place of attention in transformers and has no map, by the names of the modules."""
        return dict(without_a_map(model))

    def observations(self, model: torch.nn.Module) -> Iterable[Observation]:
        """Ask for the tokens that are looked up, for the sizes of images and grids, and for caches."""
        yield from (Observation(function, arguments=(GRID,)) for function in cutting_functions(model))
        kinds = {type(source.module) for source in sources(model).values()}
        if any(issubclass(kind, torch.nn.Embedding) for kind in kinds):
            yield from (Observation(function, ("input",)) for function in functions_in(torch.nn.Embedding.forward))
            yield from cache_observations(model)
        if any(issubclass(kind, torch.nn.Conv2d) for kind in kinds):
            for function in functions_in(torch.nn.Conv2d.forward):
                yield Observation(function, arguments=("input",), keep=_shape)

    def observe(self, call: Call, context: InputContext) -> None:
        """Remember which tokens are looked up, and which caches are filled and changed."""
        # Of other tables than those of tokens it is no matter what was looked up, and whether it has changed since.
        if "input" in call.values and call.name in lookups_of(context):
            note_lookup(call, context.memory)
        note_caches(call, context)

    def operands(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:
        """Undo the packing of heads into the batch, and that into the query axis, which a masked decoding step has.

        There the query is (batch, key heads, groups, features) instead of (batch, heads, 1, features), and so is a mask
        that differs between heads.
        """
        query, mask = given["query"], given.get("attn_mask")
        if query.ndim == 3:  # noqa: PLR2004  # (batch × head, position, feature)
            heads = heads_of(call.module)
            # Where the keys have fewer heads, there is no batch; nor is it known where the layer has no number of them.
            if heads == 1 or query.shape[0] % heads or query.shape[0] != given["key"].shape[0]:
                return given
            merged = {name: given[name] for name in ("query", "key")}
            if mask is not None and mask.shape[:-2] == query.shape[:1]:
                merged["attn_mask"] = mask
            parted = {name: split_heads(tensor, heads, call.function) for name, tensor in merged.items()}
            return {**given, **parted}
        if call.values.get("q_length", query.shape[2]) == query.shape[2]:
            return given
        unpacked = dict(given, query=query.flatten(1, 2)[:, :, None])
        if mask is not None and mask.shape[1] != 1:
            unpacked["attn_mask"] = mask.flatten(1, 2)[:, :, None]
        return unpacked

    def weights(self, call: Call, softmax: torch.Tensor) -> torch.Tensor:
        """Return a softmax with a batch and a head axis, and without the column of a sink."""
        return four_axes(call, softmax)

    def axes(self, call: Call, shape: tuple[int, ...], context: InputContext) -> MapAxes:
        """Return the tokens of the text or the patches of the image that was given."""
        return Positions(call, shape, context).axes()


def _refuse_other_kernels(model: torch.nn.Module) -> None:
    """Refuse a model whose attention runs in a kernel that shows neither its operands nor a map."""
    for name, module in model.named_modules():
        kernel = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if isinstance(kernel, str) and kernel not in {"sdpa", "eager"}:
            where = f"its {name!r}" if name else "it"
            msg = (
                f"{type(model).__qualname__} cannot be captured: {where} runs {kernel!r} attention, whose maps are not"
                ' known. Switch by model.set_attn_implementation("sdpa"), or load it with attn_implementation="sdpa".'
            )
            raise UnsupportedError(msg)


def _written_in(module: types.ModuleType) -> Iterator[types.FunctionType]:
    """Give the functions and methods that a file of transformers defines itself."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for part in vars(value).values() if isinstance(value, type) else (value,):
            if isinstance(part, types.FunctionType):
                yield from (f for f in functions_in(part) if f.__module__ == module.__name__)


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


adapter = TransformersAdapter()
