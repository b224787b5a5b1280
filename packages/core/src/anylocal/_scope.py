"""The scope in which every attention map of a model is captured."""

from __future__ import annotations

import itertools
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch

from anylocal._calls import Assembler, Call
from anylocal._capture import Capture
from anylocal._kernel import overlooked, read
from anylocal._multihead import MultiHead, Nesting
from anylocal._reading import Reading
from anylocal._record import Record
from anylocal._request import Request, check_options, only, site
from anylocal._resolve import Among, Found, Resolution, resolve
from anylocal._rewrite import Wants
from anylocal._scene import Scene
from anylocal._torch import module_names
from anylocal.attention import AttentionMap, AttentionMaps
from anylocal.errors import PassedOverWarning, TargetError, level_of_user

if TYPE_CHECKING:
    from anylocal.adapter import Adapter


class AttentionCapture:
    """A scope in which every attention map of a model is captured; `maps` grows while the model runs.

    Used in a ``with`` statement, which gives `maps`; or `open` and `close` it.

    Examples
    --------
    >>> import torch
    >>> from anylocal.adapter import Adapter, Axes
    >>> class OfTorch(Adapter):
    ...     distribution, zoo = "anylocal", "torch"
    ...     functions = lambda self: ()
    ...     axes = lambda self, call, shape, scene: Axes(None, None)
    >>> scope = OfTorch().capture_attention(torch.nn.TransformerEncoderLayer(4, 2))
    >>> scope.layers
    {'self_attn': 'MultiheadAttention'}
    """

    def __init__(
        self,
        adapter: Adapter,
        model: torch.nn.Module,
        *,
        about: object = None,
        modules: str | Callable[[str, Any], bool] | None = None,
        keep: str | Callable[[Any], Any] = "detach",
        limit: int | str | None = "auto",
        threads: str = "all",
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TargetError(_no_model(model))
        check_options(("maps",), keep, None, threads)
        self._adapter = adapter
        self._model = model
        self._about = about
        resolution = resolve(model)
        chosen = resolution if modules is None else only(resolution, modules)
        chosen = _with_replacing(_with_shared(chosen, adapter.shared(model)), adapter.replacing(model))
        self._readings = _readings(chosen, adapter)
        self._modules = chosen.modules
        self._heads = MultiHead(resolution, chosen)
        if not self._readings and not self._heads.functions:
            raise TargetError(_has_none(chosen, adapter.others(model)))
        root = type(model).forward
        self._root = root if isinstance(root, types.FunctionType) and root not in self._readings else None
        self._others = dict(adapter.others(model))
        self._missed = _missed(chosen, {*self._readings, *self._heads.functions}, self._others)
        requests = [*self._requests(resolution, chosen, keep)]
        self._capture = Capture(resolution, requests, keep=keep, limit=limit, threads=threads)
        self._reading = threading.RLock()
        self._begin_to_read()

    @property
    def maps(self) -> AttentionMaps:
        """The maps that there are by now; more come while the model runs."""
        # Made anew: kept, it would hold what holds it, and all tensors would wait for the garbage collector.
        return AttentionMaps(self._now, others=self._others)

    def _requests(self, resolution: Resolution, chosen: Resolution, kept: object) -> Iterator[Request]:
        for found in chosen.found:
            if found.function in self._readings:
                reading = self._readings[found.function]
                wants, joined = self._adapter.recorded(found.function, reading)
                yield Request(found, wants, joined, reading.gathered)
        accepts = {found.function: found.accepts for found in resolution.found}
        for function, names, arguments, keep in self._adapter.also(self._model):
            # What an attention function itself has to tell are its hints; of torch's, all is asked for below.
            if function not in self._readings and not self._heads.owns(function):
                wants = Wants(names, given=frozenset(arguments))
                yield Request(Found(function, accepts.get(function)), wants, keep=keep)
        for missed in self._missed:
            # It wants nothing, and is there to tell whether it is called.
            yield Request(missed.found, Wants())
        yield from self._heads.requests(kept)
        if self._root is not None and self._root not in self._heads.functions:
            # It wants nothing, and is there to tell forwards apart.
            model = self._model
            yield Request(Found(self._root, lambda owner: owner is model), Wants())

    def open(self) -> Self:
        """Start capturing."""
        self._capture.open()
        return self

    def close(self) -> None:
        """Stop capturing and give every function its own code back.

        Warns
        -----
        PassedOverWarning
            Of layers that have computed attention in a way that cannot be read; they are then among the `others`.
        """
        self._capture.close()
        called = [
            missed
            for missed in self._missed
            if self._capture.has_called(missed.found.function) and not {*missed.names} <= self._others.keys()
        ]
        for missed in called:
            self._others.update(dict.fromkeys(missed.names, missed.how))
        if called:
            first = called[0]
            message = (
                f"Of {', '.join(map(repr, first.names))} there is no map: {first.how}. What has none is in .others;"
                " assign the softmax to a variable, or capture what there is by its own name."
            )
            warnings.warn(PassedOverWarning(message), stacklevel=level_of_user())

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
    def others(self) -> Mapping[str, str]:
        """By the names of modules, what else is called attention in the model, and what it is: it has no map."""
        return self._others

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
        self._scene = Scene(self._model, self._seen, self._about, {})
        self._names: dict[int, str] = {}
        self._assembler = Assembler(self._names, self._capture.rank)
        self._forwards = _Forwards()
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
        missed = {missed.found.function for missed in self._missed}
        for call in self._calls(records):
            reading = self._readings.get(call.function)
            if self._heads.owns(call.function):
                made = self._heads.map_of(call) if self._heads.made_map(call) else None
            elif call.function in missed:
                continue
            elif reading is not None:
                made = self._adapter.map_of(reading, call) if reading.made_map(call.values) else None
            else:
                self._seen.setdefault(call.name, _Latest()).update(call.values)
                self._adapter.heard(call, self._scene)
                continue
            if made is not None:
                queries, keys, windows = self._adapter.axes(call, made.shape, self._scene)
                # Only maps make a forward: what else is asked for may be called between two of them.
                forward = self._forwards.of(call)
                yield made.labelled(queries=queries, keys=keys, windows=windows, forward=forward, rank=call.rank)

    def _calls(self, records: Sequence[Record]) -> Iterator[Call]:
        """Give each call while its forward is the current one."""
        # What was there at first keeps its name; what came to be meanwhile has that of its place by now.
        self._names.update((id(module), name) for name, module in module_names(self._model))
        self._names.update(self._capture.names_of)
        self._assembler.rank = self._capture.rank
        for record in records:
            asked = record.subscription
            is_root = asked.function is self._root and asked.wants == Wants() and record.module is self._model
            if is_root and record.kind == "entered":
                self._forwards.mark(record)
            yield from self._assembler.calls(self._nesting.of(record))
            if is_root and record.kind == "returned":
                self._forwards.mark(record)


class _Forwards:
    """Tells forwards apart: by the start and end of the model's own, else by modules that run again."""

    def __init__(self) -> None:
        self._count = 0
        self._current: dict[int | None, int | None] = {}
        self._loose: dict[int | None, tuple[int, set[tuple[types.FunctionType, str]]]] = {}

    def mark(self, record: Record) -> None:
        """Take note that the model's forward starts or ends."""
        if record.kind == "entered":
            self._current[record.thread] = self._new()
            self._loose.pop(record.thread, None)
        else:
            self._current[record.thread] = None

    def of(self, call: Call) -> int:
        """Return the number of the forward that a call belongs to."""
        current = self._current.get(call.thread)
        if current is not None:
            return current
        # In which thread compiled code ran is not known: it is the one that runs the model, if it is only one.
        running = {
            number for thread, number in self._current.items() if number is not None and None in {thread, call.thread}
        }
        if len(running) == 1:
            return running.pop()
        # A part of the model was called by itself, such as its forward_features.
        number, ran = self._loose.get(call.thread) or (self._new(), set())
        if (call.function, call.name) in ran:
            number, ran = self._new(), set()
        ran.add((call.function, call.name))
        self._loose[call.thread] = number, ran
        return number

    def _new(self) -> int:
        self._count += 1
        return self._count - 1


class _Missed(NamedTuple):
    """A function that seems to make maps which cannot be read, the modules that it works for, and how it does."""

    found: Found
    names: tuple[str, ...]
    how: str


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


def _with_shared(resolution: Resolution, functions: Iterable[types.FunctionType]) -> Resolution:
    """Add functions of the zoo that work for any module, and that the model looks up when it runs."""
    new = _not_among(resolution, functions)
    if not new:
        return resolution
    among = Among(resolution.modules.values())
    shared = tuple(Found(function, among) for function in new)
    return Resolution(resolution.label, resolution.found + shared, resolution.modules)


def _with_replacing(resolution: Resolution, functions: Iterable[types.FunctionType]) -> Resolution:
    """Add functions of modules that come to be while the model runs, in the place of those that there are."""
    new = _not_among(resolution, functions)
    if not new:
        return resolution
    parts = Among(
        part
        for module in resolution.modules.values()
        if isinstance(module, torch.nn.Module)
        for part in module.children()
    )

    def accepts(owner: object) -> bool:
        """Say whether a module is made of the model's own parts; another model of its class has others."""
        return isinstance(owner, torch.nn.Module) and any(map(parts, owner.children()))

    late = tuple(Found(function, accepts) for function in new)
    return Resolution(resolution.label, resolution.found + late, resolution.modules)


def _not_among(resolution: Resolution, functions: Iterable[types.FunctionType]) -> list[types.FunctionType]:
    known = {found.function for found in resolution.found}
    return [function for function in functions if function not in known]


def _readings(resolution: Resolution, adapter: Adapter) -> dict[types.FunctionType, Reading]:
    functions = [found.function for found in resolution.found if found.accepts is not None]
    readings = {function: adapter.reading(function) for function in functions}
    return {function: reading for function, reading in readings.items() if reading is not None}


def _missed(chosen: Resolution, known: set[types.FunctionType], told: Mapping[str, str]) -> tuple[_Missed, ...]:
    """Return the functions that seem to make maps which cannot be read, of modules that have no other one."""
    overlooked = [(found, how) for found in chosen.found if found.function not in known and (how := _overlooked(found))]
    if not overlooked:
        return ()
    read_ones = (site(found, (), chosen.modules).modules for found in chosen.found if found.function in known)
    have = {*told, *itertools.chain.from_iterable(read_ones)}
    missed = []
    for found, how in overlooked:
        modules = site(found, (), chosen.modules).modules
        # One that takes no module has a name of its own.
        names = tuple(name for name in modules or (found.function.__qualname__,) if name not in have)
        if names:
            missed.append(_Missed(found, names, how))
    return tuple(missed)


def _overlooked(found: Found) -> str | None:
    if found.accepts is None and read(found.function) is not None:
        return "a function makes it which does not take the module, so that whose map it is cannot be told"
    return overlooked(found.function)


def _no_model(given: object) -> str:
    inside = next((name for name in ("model", "module") if isinstance(getattr(given, name, None), torch.nn.Module)), "")
    if isinstance(given, type):
        what, cure = f"The class {given.__qualname__}", "Build the model first."
    elif isinstance(getattr(given, "__self__", None), torch.nn.Module):
        what, cure = f"A method ({getattr(given, '__qualname__', given)})", "Give the model that it belongs to."
    else:
        what, cure = f"A {type(given).__qualname__}", f"Give its .{inside}." if inside else "Give one."
    return f"{what} is no nn.Module, whose attention maps could be captured. {cure}"


def _has_none(resolution: Resolution, others: Mapping[str, str]) -> str:
    kinds = sorted({type(module).__qualname__ for module in resolution.modules.values()})
    listed = ", ".join(kinds[:12]) + (f", … ({len(kinds) - 12} more)" if len(kinds) > 12 else "")  # noqa: PLR2004  # so many are listed
    instead: dict[str, list[str]] = {}
    for name, what in others.items():
        instead.setdefault(what, []).append(name)
    has = "".join(f" It has {what} ({len(names)}, such as {names[0]!r})." for what, names in instead.items())
    return (
        f"{resolution.label} computes no attention map that could be captured: none of its modules is an"
        f" nn.MultiheadAttention, calls scaled_dot_product_attention, or assigns a softmax of q and k.{has} It consists"
        f" of: {listed}."
    )
