"""The scope in which every attention map of a model is captured."""

from __future__ import annotations

import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch

from anylocal._engine.calls import Assembler, Call
from anylocal._engine.capture import Capture
from anylocal._engine.resolve import Resolution, resolve
from anylocal._engine.sites import check_options, only
from anylocal._engine.spec import CaptureSpec, Match, Request, Role
from anylocal._engine.tensors import module_names
from anylocal._maps.maps import AttentionMaps
from anylocal._readout.context import InputContext
from anylocal._readout.forward_passes import ForwardPasses
from anylocal._readout.multihead.nesting import Nesting
from anylocal._readout.multihead.readings import MultiHead
from anylocal._readout.selection import (
    no_map_message,
    not_a_model_message,
    overlooked_functions,
    readings_of,
    with_late_functions,
    with_shared_functions,
)
from anylocal.errors import OverlookedWarning, TargetError, level_of_user

if TYPE_CHECKING:
    from anylocal._engine.records import Record
    from anylocal._maps.map import AttentionMap
    from anylocal._readout.context import AttentionSource


class AttentionCapture:
    """A scope in which every attention map of a model is captured; `maps` grows while the model runs.

    Used in a ``with`` statement, which gives `maps`; or `open` and `close` it.

    Examples
    --------
    >>> import torch
    >>> from anylocal.adapter import Adapter, MapAxes
    >>> class OfTorch(Adapter):
    ...     distribution, zoo = "anylocal", "torch"
    ...     functions = lambda self: ()
    ...     axes = lambda self, call, shape, context: MapAxes(None, None)
    >>> scope = OfTorch().capture_attention(torch.nn.TransformerEncoderLayer(4, 2))
    >>> scope.layers
    {'self_attn': 'MultiheadAttention'}
    """

    def __init__(
        self,
        adapter: AttentionSource,
        model: torch.nn.Module,
        *,
        about: object = None,
        modules: str | Callable[[str, Any], bool] | None = None,
        keep: str | Callable[[Any], Any] = "detach",
        limit: int | str | None = "auto",
        threads: str = "all",
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TargetError(not_a_model_message(model))
        check_options(("maps",), keep, None, threads)
        self._adapter = adapter
        self._model = model
        self._about = about
        resolution = resolve(model)
        chosen = resolution if modules is None else only(resolution, modules)
        chosen = with_late_functions(
            with_shared_functions(chosen, adapter.shared_functions(model)), adapter.late_functions(model)
        )
        self._readings = readings_of(chosen, adapter)
        self._modules = chosen.modules
        self._heads = MultiHead(resolution, chosen)
        if not self._readings and not self._heads.functions:
            raise TargetError(no_map_message(chosen, adapter.unsupported(model)))
        root = type(model).forward
        self._root = root if isinstance(root, types.FunctionType) and root not in self._readings else None
        self._unsupported = dict(adapter.unsupported(model))
        self._overlooked = overlooked_functions(chosen, {*self._readings, *self._heads.functions}, self._unsupported)
        requests = [*self._requests(resolution, chosen, keep)]
        self._capture = Capture(resolution, requests, keep=keep, limit=limit, threads=threads)
        self._reading = threading.RLock()
        self._begin_to_read()

    @property
    def maps(self) -> AttentionMaps:
        """The maps that there are by now; more come while the model runs."""
        # Made anew: kept, it would hold what holds it, and all tensors would wait for the garbage collector.
        return AttentionMaps(self._now, unsupported=self._unsupported)

    def _requests(self, resolution: Resolution, chosen: Resolution, kept: object) -> Iterator[Request]:
        for found in chosen.matches:
            if found.function in self._readings:
                reading = self._readings[found.function]
                spec, joined = self._adapter.recorded(found.function, reading)
                yield Request(found, spec, joined, reading.gathered)
        accepts = {found.function: found.filter for found in resolution.matches}
        for function, names, arguments, keep in self._adapter.observations(self._model):
            # What an attention function itself has to tell are its hints; of torch's, all is asked for below.
            if function not in self._readings and not self._heads.owns(function):
                spec = CaptureSpec(names, given=frozenset(arguments))
                yield Request(Match(function, accepts.get(function)), spec, keep=keep)
        for layer in self._overlooked:
            yield Request(layer.match, CaptureSpec(), role=Role.PRESENCE)
        yield from self._heads.requests(kept)
        if self._root is not None and self._root not in self._heads.functions:
            model = self._model
            yield Request(Match(self._root, lambda owner: owner is model), CaptureSpec(), role=Role.BOUNDARIES)

    def open(self) -> Self:
        """Start capturing."""
        self._capture.open()
        return self

    def close(self) -> None:
        """Stop capturing and give every function its own code back.

        Warns
        -----
        OverlookedWarning
            Of layers that have computed attention in a way that cannot be read; they are then among the `unsupported`.
        """
        self._capture.close()
        called = [
            layer
            for layer in self._overlooked
            if self._capture.has_called(layer.match.function) and not {*layer.names} <= self._unsupported.keys()
        ]
        for layer in called:
            self._unsupported.update(dict.fromkeys(layer.names, layer.how))
        if called:
            first = called[0]
            message = (
                f"Of {', '.join(map(repr, first.names))} there is no map: {first.how}. See .unsupported for all of"
                " them; assign the softmax to a variable, or capture what there is by its own name."
            )
            warnings.warn(OverlookedWarning(message), stacklevel=level_of_user())

    @property
    def layers(self) -> dict[str, str]:
        """The modules whose own functions make maps, by name, and the classes that they are of.

        Those that leave it to one function for all, as layers of transformers do, are not known before they run; then
        the maps have their names.
        """
        sites = [site for site in self._capture.sites if site.function in self._readings]
        names = dict.fromkeys(name for site in sites for name in site.modules)
        names |= {
            name: None for name, module in self._modules.items() if isinstance(module, torch.nn.MultiheadAttention)
        }
        order = {name: number for number, name in enumerate(self._modules)}
        return {name: type(self._modules[name]).__qualname__ for name in sorted(names, key=order.__getitem__)}

    @property
    def unsupported(self) -> Mapping[str, str]:
        """By the names of modules, what else is called attention in the model, and what it is: it has no map."""
        return self._unsupported

    @property
    def count_of_functions(self) -> int:
        """In how many functions it looks."""
        return len(self._capture.sites)

    def clear(self) -> None:
        """Forget the maps, and go on capturing if it is open."""
        self._capture.clear()
        with self._reading:
            self._heads.weights.clear()
            self._begin_to_read()

    def __enter__(self) -> AttentionMaps:
        """Start capturing and return the maps, which grow while the model runs."""
        self.open()
        return self.maps

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop capturing, and say so if there is no map and no exception explains it."""
        self.close()
        if kind is None:
            self._capture.tell("attention map", {*self._readings, *self._heads.functions})

    # The reading, which goes on where it ended: who reads after each forward of a long run reads each record once.

    def _begin_to_read(self) -> None:
        self._made: list[AttentionMap] = []
        self._read_so_far = 0
        self._seen: dict[str, _Latest] = {}
        self._scene = InputContext(self._model, self._seen, self._about, {})
        self._names: dict[int, str] = {}
        self._assembler = Assembler(self._names, self._capture.rank)
        self._forwards = ForwardPasses()
        self._nesting = Nesting(self._heads)

    def _now(self) -> Sequence[AttentionMap]:
        with self._reading:
            records, self._read_so_far = self._capture.records_from(self._read_so_far)
            if records:
                try:
                    # A new list, for somebody may be going through the one of before.
                    self._made = [*self._made, *self._all(records)]
                except BaseException:
                    # What cannot be read is not passed over by the next who reads.
                    self._begin_to_read()
                    raise
            return self._made

    def _all(self, records: Sequence[Record]) -> Iterator[AttentionMap]:
        for call in self._calls(records):
            reading = self._readings.get(call.function)
            if self._heads.owns(call.function):
                made = self._heads.map_of(call) if self._heads.made_map(call) else None
            elif reading is not None:
                made = self._adapter.map_of(reading, call) if reading.made_map(call.values) else None
            else:
                self._seen.setdefault(call.name, _Latest()).update(call.values)
                self._adapter.observe(call, self._scene)
                continue
            if made is not None:
                queries, keys, windows = self._adapter.axes(call, made.shape, self._scene)
                # Only maps make a forward: what else is asked for may be called between two of them.
                forward = self._forwards.of(call)
                yield made.labelled(queries=queries, keys=keys, windows=windows, forward=forward, rank=call.rank)

    def _calls(self, records: Sequence[Record]) -> Iterator[Call]:
        """Yield each call while its forward is the current one."""
        # What was there at first keeps its name; what came to be meanwhile has that of its place by now.
        self._names.update((id(module), name) for name, module in module_names(self._model))
        self._names.update(self._capture.names_of)
        self._assembler.rank = self._capture.rank
        for record in records:
            is_boundary = record.request.role is Role.BOUNDARIES
            is_root = is_boundary and record.request.function is self._root and record.module is self._model
            if is_root and record.kind == "entered":
                self._forwards.mark(record)
            yield from self._assembler.calls(self._nesting.of(record))
            if is_root and record.kind == "returned":
                self._forwards.mark(record)


class _Latest(Mapping[str, Any]):
    """The latest value of each name; read only when asked for: of others it is no matter whether they have changed."""

    def __init__(self) -> None:
        self._in: dict[str, Mapping[str, Any]] = {}

    def update(self, values: Mapping[str, Any]) -> None:
        """Take values in the place of those of the same names."""
        self._in.update(dict.fromkeys(values, values))

    def __getitem__(self, name: str) -> Any:
        return self._in[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._in)

    def __len__(self) -> int:
        return len(self._in)
