"""The maps of `nn.MultiheadAttention`, which torch computes in one of three places.

The slow path is a plain function, whose operands are taken. Two fused paths project query and key out of Python's
sight: that of the module, and that of an encoder layer as a whole. Both come through `merge_masks`, and nothing else
does, so its arguments are taken, and the projection is made again when the map is read. So it is where a model is
compiled, for dynamo does not look into the function of the slow path: there the arguments of the module's forward are
taken.

Neither function says whose call it is. What runs between the start and the end of a module's forward is its own.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from anylocal import _torch
from anylocal._calls import Call
from anylocal._map import AttentionMap
from anylocal._patch import own_code
from anylocal._record import Record, Subscription
from anylocal._request import Request
from anylocal._resolve import Among, Found, Resolution
from anylocal._rewrite import Result, Wants
from anylocal._softmax import Computed, Given, Pick, Shape, exactly
from anylocal.errors import ChangedInPlaceWarning, UnsupportedError, level_of_user

_SLOW: Final[Any] = nn.functional.multi_head_attention_forward
_FAST: Final[Any] = nn.MultiheadAttention.merge_masks
_FORWARD: Final[Any] = nn.MultiheadAttention.forward
_OF_LAYER: Final = "_transformer_encoder_layer_fwd"

# torch deletes the operands, and what is called weights when it returns may have been dropped out or averaged. The last
# view of an operand is what the kernel is given.
_WEIGHTS: Final = "attn_output_weights"
_SLOW_WANTS: Final = Wants(
    ("attn_mask", "is_causal", "num_heads"),
    resulted=frozenset({Result("q", "view"), Result("k", "view"), Result(_WEIGHTS, "softmax")}),
)
_FAST_WANTS: Final = Wants(("query", "attn_mask", "key_padding_mask"))
# What the module's forward holds as it returns, from where the slow path was called.
_TRACED_WANTS: Final = Wants(("query", "key", "attn_mask", "key_padding_mask", "is_causal", "need_weights"))
# Under this name a call of the fused path has the encoder layer that ran it, if it was one.
_LAYER: Final = "layer"


class MultiHead:
    """All modules of a model that run torch's multi-head attention.

    Parameters
    ----------
    resolution : Resolution
        The model.
    chosen : Resolution
        The model with those modules only whose maps are wanted.
    """

    def __init__(self, resolution: Resolution, chosen: Resolution) -> None:
        self.chosen = {id(module) for module in chosen.modules.values()}
        self.weights = _Weights()
        self._among = Among(resolution.modules.values())
        found = [item.function for item in resolution.found if item.accepts is not None]
        self.callers = {function for function in found if _SLOW.__name__ in own_code(function).co_names}
        self.layers = {function for function in found if _OF_LAYER in own_code(function).co_names}
        if not self.callers.intersection(item.function for item in chosen.found):
            self.callers, self.layers = set(), set()

    @property
    def functions(self) -> tuple[types.FunctionType, ...]:
        """The forwards whose calls make maps, none where the model has no multi-head attention."""
        return (*self.callers, *self.layers)

    def requests(self, keep: object = None) -> Iterator[Request]:
        """Give what is to be recorded: starts and ends of forwards, and what decides the maps in between.

        `keep` is what the capture was asked to keep of values.
        """
        if self.callers:
            watch = _Watch(self._among, self.weights)
            # First, for its records are to come before the end of the same call.
            if _FORWARD in self.callers:
                yield Request(Found(_FORWARD, _WatchCompiled(self._among, self.weights)), _TRACED_WANTS)
            yield from (Request(Found(function, self._among), Wants()) for function in self.callers)
            yield from (Request(Found(function, watch), Wants()) for function in self.layers)
            yield Request(Found(_SLOW, _is_real), _SLOW_WANTS, frozenset({"q", "k", _WEIGHTS}))
            yield Request(Found(_FAST, watch), _FAST_WANTS, keep=_counted if keep == "detach" else None)

    def owns(self, function: types.FunctionType) -> bool:
        """Say whether a function is one of torch's multi-head attention."""
        return function in {_SLOW, _FAST, _FORWARD}

    def made_map(self, call: Call) -> bool:
        """Say whether such a call came to a softmax or a kernel."""
        return call.function is not _SLOW or _WEIGHTS in call.values or {"q", "k"} <= set(call.values)

    def map_of(self, call: Call, **labels: Any) -> AttentionMap:
        """Return the map of a call."""
        values = call.values
        if call.function is not _SLOW:
            fused = not values.get("need_weights", False)
            return AttentionMap(_Projected(call, self.weights), name=call.name, fused=fused, **labels)
        if _WEIGHTS in values:
            weights = values[_WEIGHTS]
            given = Given(weights.unflatten(0, (-1, values["num_heads"])))
            # A gradient can be taken of the model's own tensor only.
            given.given = weights
            return AttentionMap(given, name=call.name, fused=False, **labels)
        mask = values["attn_mask"]
        causal = mask is None and bool(values["is_causal"])
        return AttentionMap.from_qk(
            values["q"], values["k"], mask=mask, causal=causal, name=call.name, fused=True, **labels
        )


class Nesting:
    """Finds out on whose behalf attention is computed, from what starts and ends around it."""

    def __init__(self, heads: MultiHead) -> None:
        self._heads = heads
        self._open: list[_Frame] = []

    def of(self, record: Record) -> Iterator[Record]:
        """Give the records that make calls: each as it comes, those of attention when its module has finished."""
        function = record.subscription.function
        if record.subscription.wants == Wants():
            if record.kind == "entered":
                self._open.append(_Frame(function, record.module, record.thread, []))
            else:
                yield from self._leave(function, record)
        elif function in {_SLOW, _FAST} or record.subscription.wants == _TRACED_WANTS:
            around = next((frame for frame in reversed(self._open) if frame.may_be_around(record)), None)
            # Outside of all of them it is another model's.
            if around is not None:
                around.held.append(record)
        else:
            yield record

    def _leave(self, function: types.FunctionType, record: Record) -> Iterator[Record]:
        for place in reversed(range(len(self._open))):
            frame = self._open[place]
            if frame.function is function and frame.module is record.module and frame.may_be_around(record):
                # What is above in the same thread raised, and never comes to its end.
                above = [other for other in self._open[place + 1 :] if not other.may_be_around(record)]
                self._open[place:] = above
                yield from self._own(frame)
                return

    def _own(self, frame: _Frame) -> Iterator[Record]:
        """Give what was recorded on behalf of the module whose forward ends."""
        heads, module = self._heads, frame.module
        slow = [record for record in frame.held if record.subscription.function is _SLOW]
        fast = [record for record in frame.held if record.subscription.function is _FAST]
        traced = [record for record in frame.held if record.subscription.wants == _TRACED_WANTS]
        if frame.function in heads.layers:
            # Its own is all that comes here: a module that runs by itself has a forward in between.
            yield from (_with_layer(record, module) for record in fast if id(record.module) in heads.chosen)
        elif frame.function not in heads.callers or id(module) not in heads.chosen:
            return
        elif any(record.kind == "assigned" for record in slow):
            # For some kinds of tensors torch's function leaves all to a second call of itself.
            yield from (record._replace(module=module) for record in slow)
        elif fast or traced:
            yield from fast or traced
        elif frame.function is _FORWARD or frame.thread is None:
            msg = (
                f"A {type(module).__qualname__} ran torch's multi-head attention where a capture cannot see it, so its"
                " map is not known. Run it eagerly, and with plain tensors."
            )
            raise UnsupportedError(msg)


class _Frame(NamedTuple):
    """A forward that has started, and what was recorded in it."""

    function: Any
    module: Any
    thread: int | None
    held: list[Record]

    def may_be_around(self, record: Record) -> bool:
        # In which thread compiled code ran is not known.
        return record.thread == self.thread or None in {record.thread, self.thread}


def _with_layer(record: Record, layer: Any) -> Record:
    return record._replace(
        names=(*record.names, _LAYER), values=(*record.values, layer), versions=(*record.versions, None)
    )


# The fused paths


class _State(NamedTuple):
    """Which tensors the weights are, and how often they were changed in place."""

    marks: tuple[tuple[int, int | None, int | None], ...]
    # Held, for the id of one that is gone may come again.
    tensors: tuple[torch.Tensor, ...]


class _Weights:
    """The weights as they were in the calls: the fused paths keep them to themselves."""

    def __init__(self) -> None:
        self._first: dict[int, _State] = {}
        self._differed: set[int] = set()

    def note(self, owner: object) -> None:
        """Take note of the weights with which a module runs."""
        state = _state(owner)
        if self._first.setdefault(id(owner), state).marks != state.marks:
            self._differed.add(id(owner))

    def have_changed(self, owner: object) -> bool:
        """Say whether a module has other weights now than in a call, or had different ones in different calls."""
        first = self._first.get(id(owner))
        return id(owner) in self._differed or (first is not None and first.marks != _state(owner).marks)

    def clear(self) -> None:
        """Forget all calls."""
        # Maps made before go on asking for what they were made with.
        self._first, self._differed = {}, set()

    def copy(self) -> _Weights:
        """Return what is known now, which a later `clear` leaves alone."""
        copied = _Weights()
        copied._first, copied._differed = self._first, self._differed
        return copied


class _Watch:
    """Accepts some objects, and takes note of their weights each time one of them runs."""

    def __init__(self, among: Among, weights: _Weights) -> None:
        self._among = among
        self._weights = weights

    def __call__(self, owner: object) -> bool:
        """Say whether it is one of them."""
        is_one = self._among(owner)
        if is_one:
            self._weights.note(owner)
        return is_one


class _WatchCompiled(_Watch):
    """Accepts what compiled code has left only: elsewhere the operands themselves are taken, which need no weights."""

    def __call__(self, owner: object) -> bool:
        """Say whether compiled code ran for one of them."""
        return sys._getframe(2).f_code is _RECEIVE and super().__call__(owner)  # noqa: SLF001  # the fast way to a frame


_RECEIVE: Final = Subscription.receive.__code__


def _is_real(_: object) -> bool:
    """Say whether a function is called by a model, and not by dynamo, which runs it to see what it would give."""
    return torch._guards.TracingContext.try_get() is None  # noqa: SLF001  # there is no public way


def _counted(value: Any) -> Any:
    """Return what tells when it is changed: inference tensors do not, and layers go on writing into their inputs."""
    value = _torch.detached(value)
    uncounted = isinstance(value, torch.Tensor) and not torch.compiler.is_compiling() and value.is_inference()
    return value.clone() if uncounted else value


def _state(owner: object) -> _State:
    tensors = tuple(_deciding(owner))
    return _State(tuple((id(each), _address(each), _torch.version(each)) for each in tensors), tensors)


def _deciding(owner: object) -> Iterator[torch.Tensor]:
    """Give the weights of a module that decide the map: those of the projection, or of the norm before it."""
    if isinstance(owner, nn.MultiheadAttention):
        # By the parameters, for a parametrized weight is another tensor each time.
        yield from (each for name, each in owner.named_parameters() if not name.startswith(("out_proj.", "bias_v")))
    elif getattr(owner, "norm_first", False):
        layer: Any = owner
        yield from layer.norm1.parameters()


def _address(tensor: torch.Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # fake and functional tensors lie nowhere
        return None


class _Projected:
    """Rows whose query and key are projected from the layer's input when they are first read."""

    def __init__(self, call: Call, weights: _Weights) -> None:
        values = call.values
        self._module = call.module
        self._name = call.name
        self._layer = values.get(_LAYER)
        self._inputs: list[torch.Tensor] = [values["query"], values.get("key", values["query"])]
        self._masks: list[torch.Tensor | None] = [values["attn_mask"], values["key_padding_mask"]]
        self._is_fast = call.function is _FAST
        # The hint stands for the mask under these conditions, as torch has them.
        self._causal = bool(values.get("is_causal", False)) and not values["need_weights"] and self._masks[1] is None
        self._weights = weights.copy()
        self._versions = self._now()
        query, key = self._inputs
        # A nested tensor has no length of its own, and its samples have no rows behind their ends.
        self._lengths = [len(sample) for sample in query.unbind()] if query.is_nested else None
        if self._lengths is None and not self._is_fast:
            # The slow path has the batch in the middle, or none.
            query, key = ((each if each.dim() == 3 else each[:, None]).transpose(0, 1) for each in (query, key))  # noqa: PLR2004  # the number of axes
            self._inputs = [query, key]
        lengths = [each.shape[1] if self._lengths is None else max(self._lengths, default=0) for each in (query, key)]
        self._more = int(self._module.bias_k is not None) + int(self._module.add_zero_attn)
        self.shape: Shape = (query.size(0), self._module.num_heads, lengths[0], lengths[1] + self._more)
        self.dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
        self.device = query.device

    def take(self, batch: Pick, heads: Pick, queries: Pick) -> torch.Tensor:
        """Return the rows picked, shape (batch', head', query', key)."""
        return self._computed.take(batch, heads, queries)

    def cpu(self) -> Computed:
        """Return the same rows, made of copies in main memory."""
        return self._computed.cpu()

    @cached_property
    def _computed(self) -> Computed:
        self._warn_of_changes()
        with exactly(self.device), torch.no_grad():
            return Computed(*self._projected(), self._mask(), None, causal=self._causal)

    def _projected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return query and key, (batch, head, position, feature)."""
        module, (x, y) = self._module, self._inputs
        if self._lengths is not None:
            x = y = x.to_padded_tensor(0.0)
        if self._layer is not None and self._layer.norm_first:
            norm = self._layer.norm1
            scale, shift = self._weight(norm, "weight"), self._weight(norm, "bias")
            x = y = nn.functional.layer_norm(x, norm.normalized_shape, scale, shift, norm.eps)
        width, bias = module.embed_dim, self._weight(module, "in_proj_bias")
        of_q, of_k, _ = (None, None, None) if bias is None else bias.chunk(3)
        packed = self._weight(module, "in_proj_weight")
        to_q, to_k = self._weight(module, "q_proj_weight"), self._weight(module, "k_proj_weight")
        if packed is not None:
            to_q, to_k = packed[:width], packed[width : 2 * width]
        q, k = self._through(to_q, of_q, x), self._through(to_k, of_k, y)
        last = self._weight(module, "bias_k")
        if last is not None:
            k = torch.cat([k, last.expand(len(k), 1, -1)], 1)
        if module.add_zero_attn:
            k = torch.cat([k, k.new_zeros(len(k), 1, width)], 1)
        q, k = (each.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for each in (q, k))
        return q, k

    def _through(self, weight: torch.Tensor | None, bias: torch.Tensor | None, given: torch.Tensor) -> torch.Tensor:
        if weight is None or weight.shape != (self._module.embed_dim, given.shape[-1]):
            msg = (
                f"The weights of {self._name!r} do not lie in it as they did when it ran, and its map is computed from"
                f" them, for torch keeps query and key to itself. {_SWITCH}."
            )
            raise UnsupportedError(msg)
        return nn.functional.linear(given, weight, bias)

    def _mask(self) -> torch.Tensor | None:
        if self._lengths is not None:
            there = torch.tensor(self._lengths, device=self.device)[:, None]
            inside = torch.arange(self.shape[2], device=self.device) < there
            return (inside[:, :, None] & inside[:, None])[:, None]
        pairs, keys = self._masks
        batch, heads, queries, _ = self.shape
        if pairs is not None and pairs.dim() == 3:  # noqa: PLR2004  # (sample and head, query, key)
            pairs = pairs.reshape(batch, heads, queries, -1)
        if keys is not None:
            keys = keys.reshape(batch, 1, 1, -1)
        given = [mask for mask in (pairs, keys) if mask is not None and not self._causal]
        if not given:
            return None
        mask = given[0] if len(given) == 1 else given[0] + given[1]
        # The fused kernels take any number but 0 to hide a key, also where an encoder layer lets one be added.
        return mask == 0 if self._is_fast else nn.functional.pad(mask, (0, self._more))

    def _now(self) -> list[int | None]:
        return [_torch.version(tensor) for tensor in (*self._inputs, *self._masks)]

    def _weight(self, module: nn.Module, name: str) -> torch.Tensor | None:
        weight: torch.Tensor | None = getattr(module, name)
        # What is kept may lie on another device than the model.
        return None if weight is None else weight.detach().to(self.device)

    def _warn_of_changes(self) -> None:
        what = ""
        if self._weights.have_changed(self._module) or self._weights.have_changed(self._layer):
            what = f"The weights of {self._name!r} were changed"
        elif self._now() != self._versions:
            what = f"The input of {self._name!r} was changed in place"
        if what:
            message = (
                f"{what} while it was captured or after. torch keeps query and key to itself, so the map is computed"
                " from what is there now, and may not be the one that it had. Read maps before the weights change, and"
                f" clear the capture then. {_SWITCH}."
            )
            warnings.warn(ChangedInPlaceWarning(message), stacklevel=level_of_user())


_SWITCH: Final = (
    "Or run it eagerly, and with torch.backends.mha.set_fastpath_enabled(False): then query and key are recorded"
)
