"""The scope in which every attention map of a model is captured."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch

from anylocal._engine.calls import Assembler, Call
from anylocal._engine.capture import Capture
from anylocal._engine.resolve import resolve
from anylocal._engine.sites import check_options, only
from anylocal._engine.spec import Role
from anylocal._engine.tensors import module_names
from anylocal._maps.array import MapArray
from anylocal._maps.maps import AttentionMaps
from anylocal._readout.borrowed import Owners
from anylocal._readout.context import InputContext
from anylocal._readout.forward_passes import ForwardPasses
from anylocal._readout.mapless import Mapless, told_message
from anylocal._readout.multihead.nesting import Nesting
from anylocal._readout.selected import select
from anylocal._readout.selection import not_a_model_message
from anylocal._readout.shared_keys import SharedKeys
from anylocal.errors import OptionError, OverlookedWarning, TargetError, level_of_user

if TYPE_CHECKING:
    from anylocal._engine.records import Record
    from anylocal._engine.spec import Request
    from anylocal._maps.map import AttentionMap
    from anylocal._readout.context import AttentionSource
    from anylocal._readout.mapless import MaplessLayers


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
        reduce: Callable[[AttentionMap], Any] | None = None,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TargetError(not_a_model_message(model))
        check_options(("maps",), keep, None, threads)
        if not (reduce is None or callable(reduce)):
            msg = f"reduce={reduce!r} is not a function; give one of a map, as in reduce=lambda item: item[:, :, 0]."
            raise OptionError(msg)
        self._reduce = reduce
        self._reduced: dict[str, list[Any]] = {}
        self._adapter = adapter
        self._model = model
        self._about = about
        self._reference = weakref.ref(model)
        resolution = resolve(model)
        chosen = resolution if modules is None else only(resolution, modules)
        selected = select(adapter, model, resolution, chosen)
        self._modules = chosen.modules
        self._borrowed, self._readings = selected.borrowed, selected.readings
        self._root, self._around_root = selected.root, selected.around_root
        self._overlooked = selected.overlooked
        self._unsupported = dict(selected.unsupported)
        self._multihead = selected.multihead.for_one_capture()
        self._mapless = Mapless(chosen.modules, selected.watched, self._readings, self._multihead, adapter.zoo)
        own = (*self._mapless.requests(), *self._multihead.requests(keep))
        boundaries = selected.boundaries if reduce is None else self._reducing(selected.boundaries)
        requests = (*selected.requests, *own, *boundaries)
        # What is reduced after each forward pass is not kept for the steps of a text.
        sharing = SharedKeys() if reduce is None else None
        self._capture = Capture(resolution, requests, keep=keep, limit=limit, threads=threads, sharing=sharing)
        self._reading = threading.RLock()
        self._begin_to_note()
        self._told: dict[str, str] = {}
        self._begin_to_read()

    @property
    def maps(self) -> AttentionMaps:
        """The maps so far; more come while the model runs."""
        # A new object: a stored one would be a reference cycle, and all tensors would wait for the garbage collector.
        return AttentionMaps(self._now, unsupported=self._unsupported, reduced=self._reduced)

    def _reducing(self, boundaries: Sequence[Request]) -> list[Request]:
        """Reduce the maps so far as the model's forward starts and returns."""
        # The capture would hold the scope, and the scope the capture.
        read = weakref.WeakMethod(self._now)

        def reduce(_: object) -> None:
            if (now := read()) is not None:
                now()

        return [request._replace(on_call=reduce) for request in boundaries]

    def open(self) -> Self:
        """Start capturing."""
        self._capture.open()
        return self

    def close(self) -> None:
        """Stop capturing and give every function its own code back.

        Warns
        -----
        OverlookedWarning
            For layers that computed attention in a way that cannot be read; they are then among the `unsupported`.
        """
        self._close(raised=False)

    def _close(self, *, raised: bool) -> None:
        self._capture.close()
        if self._reduce is not None and not raised:
            self._now()
        told = {
            name: layer.how
            for layer in self._overlooked
            if self._capture.has_called(layer.match.function) and not {*layer.names} <= self._unsupported.keys()
            for name in layer.names
        }
        self._unsupported |= told
        # What raised has not made its map yet.
        if not raised:
            missed, gates = self._without_map()
            told |= missed
            self._unsupported |= missed | gates
        self._told |= told
        if told:
            warnings.warn(OverlookedWarning(told_message(told)), stacklevel=level_of_user())

    def _begin_to_note(self) -> None:
        self._noted_so_far = 0
        self._owners_noted = Owners(self._borrowed)

    def _without_map(self) -> MaplessLayers:
        records, self._noted_so_far = self._capture.records_from(self._noted_so_far)
        self._mapless.read(filter(None, map(self._owners_noted.of, records)))
        if self._capture.is_full:
            self._mapless.forget_what_ran()
        return self._mapless.layers(self._unsupported)

    @property
    def layers(self) -> dict[str, str]:
        """The modules whose own functions make maps, by name, and the classes that they are of.

        Layers that call one function for all of them, as those of transformers do, are unknown before they run; then
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
        """The layers without a map, by the names of their modules, and what they are."""
        return self._unsupported

    @property
    def count_of_functions(self) -> int:
        """The number of functions that it captures."""
        return len(self._capture.sites)

    def clear(self) -> None:
        """Forget the maps, and go on capturing if it is open.

        What was read off earlier forward passes, such as the text in a cache, is still known.
        """
        self._without_map()
        with self._reading:
            memory = self._remembered()
            self._capture.clear()
            self._reduced.clear()
            self._begin_to_note()
            self._multihead.weights.clear()
            self._begin_to_read(memory)

    def __enter__(self) -> AttentionMaps:
        """Start capturing and return the maps, which grow while the model runs."""
        self.open()
        return self.maps

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop capturing, and warn if no map was made and no exception explains it."""
        self._close(raised=kind is not None)
        if kind is None:
            # Layers that ran without a map explain why there is none.
            functions = () if self._told else {*self._readings, *self._multihead.functions}
            self._capture.warn_if_empty("attention map", functions)

    # Each record is read once: reading after each forward pass of a long run goes on where the last reading ended.

    def _remembered(self) -> dict[str, Any]:
        """Return what the adapter has kept of all forward passes so far; nothing, if their maps cannot be read."""
        try:
            self._now()
        except Exception:  # noqa: BLE001  # who reads the maps is told; who forgets them need not be
            return {}
        return self._context.memory

    def _begin_to_read(self, memory: dict[str, Any] | None = None) -> None:
        self._made: list[AttentionMap] = []
        self._read_so_far = 0
        self._seen: dict[str, _Latest] = {}
        self._context = InputContext(self._model, self._seen, self._about, {} if memory is None else memory)
        self._names: dict[int, str] = {}
        self._assembler = Assembler(self._names, self._capture.rank)
        self._forward_passes = ForwardPasses()
        self._nesting = Nesting(self._multihead)
        self._owners = Owners(self._borrowed)

    def _now(self) -> Sequence[AttentionMap]:
        with self._reading:
            if self._reduce is not None:
                self._reduce_all(self._reduce, deque(self._capture.drain_records()))
                return ()
            records, self._read_so_far = self._capture.records_from(self._read_so_far)
            if records:
                try:
                    # A new list, because the old one may be iterated over.
                    self._made = [*self._made, *self._all(records)]
                except BaseException:
                    # The next reading fails at the same record, instead of skipping it.
                    self._begin_to_read()
                    raise
            return self._made

    def _reduce_all(self, reduce: Callable[[AttentionMap], Any], records: deque[Record]) -> None:
        self._mapless.read(filter(None, map(self._owners_noted.of, records)))
        # The operands of a map go before the next one is computed: memory never holds all of them and all results.
        for item in self._all(_taken_from(records)):
            value = reduce(item)
            # What is computed when it is read would hold the operands.
            value = value.tensor() if isinstance(value, MapArray) else value
            self._reduced.setdefault(item.name, []).append(value)

    def _all(self, records: Iterable[Record]) -> Iterator[AttentionMap]:
        for call in self._calls(records):
            reading = self._readings.get(call.function)
            if self._multihead.owns(call.function):
                made = self._multihead.map_of(call) if self._multihead.made_map(call) else None
            elif reading is not None:
                made = self._adapter.map_of(reading, call) if reading.made_map(call.values) else None
            else:
                self._seen.setdefault(call.name, _Latest()).update(call.values)
                self._adapter.observe(call, self._context)
                self._forward_passes.note_other()
                continue
            if made is not None:
                queries, keys, windows = self._adapter.axes(call, made.shape, self._context)
                # Only maps make a forward pass: observed functions may be called between two of them.
                forward = self._forward_passes.of(call)
                labelled = made.labelled(queries=queries, keys=keys, windows=windows, forward=forward, rank=call.rank)
                labelled._model = self._reference  # noqa: SLF001  # no label: a copy in a file has none
                yield labelled

    def _calls(self, records: Iterable[Record]) -> Iterator[Call]:
        """Yield each call while its forward pass is the current one."""
        # Modules that the model had at first keep their names; newer ones have their present names.
        self._names.update((id(module), name) for name, module in module_names(self._model))
        self._names.update(self._capture.names_of)
        self._assembler.rank = self._capture.rank
        for record in filter(None, map(self._owners.of, records)):
            function = record.request.match.function
            is_root = function is self._root
            is_boundary = record.request.role is Role.BOUNDARIES and record.module is self._model
            marks = is_boundary and (is_root or function in self._around_root)
            if marks and record.kind == "entered":
                self._forward_passes.enter(record.thread, is_root=is_root)
            yield from self._assembler.calls(self._nesting.of(record))
            if marks and record.kind == "returned":
                self._forward_passes.leave(record.thread)


def _taken_from(records: deque[Record]) -> Iterator[Record]:
    """Yield the records, each no longer held."""
    while records:
        yield records.popleft()


class _Latest(Mapping[str, Any]):
    """The latest value of each name; read on demand, so that only values that are used are checked for changes."""

    def __init__(self) -> None:
        self._in: dict[str, Mapping[str, Any]] = {}

    def update(self, values: Mapping[str, Any]) -> None:
        """Replace the values of the same names."""
        self._in.update(dict.fromkeys(values, values))

    def __getitem__(self, name: str) -> Any:
        return self._in[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._in)

    def __len__(self) -> int:
        return len(self._in)
