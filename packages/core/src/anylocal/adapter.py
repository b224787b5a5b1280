"""What a model-zoo adapter is: the base class, and the registry of those installed.

An adapter says where attention lives in its zoo and how the axes are read off a model and its input. The base does the
rest: it finds the attention functions of a model, records what decides the map, checks versions before it touches
anything, tells forwards apart, and marks a zoo's own functions for `get_local`.

An adapter is registered by the entry point group ``anylocal.adapters``, which names its module; the module holds it as
``adapter``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import threading
import types
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

from anylocal import _get_local
from anylocal._calls import Assembler, Call
from anylocal._capture import Capture
from anylocal._kernel import read
from anylocal._multihead import MultiHead, Nesting
from anylocal._patch import own_code
from anylocal._reading import Operand, Reading
from anylocal._record import Record
from anylocal._request import Request, check_options, only
from anylocal._resolve import Among, Found, Resolution, bound_names, functions_in, owner_of, resolve
from anylocal._rewrite import Result, Wants, may_be_unbound
from anylocal._torch import module_names
from anylocal.errors import DependencyError, PassedOverWarning, TargetError, UnsupportedError, VersionError

try:
    import torch
    from packaging.requirements import Requirement

    from anylocal.attention import AttentionMap, AttentionMaps, Axis
except ModuleNotFoundError as error:
    if error.name not in {"packaging", "torch"}:
        raise
    raise DependencyError(
        f'anylocal.adapter needs {error.name}: pip install "anylocal[torch]".', name=error.name
    ) from error

__all__ = [
    "Adapter",
    "Also",
    "AttentionCapture",
    "Axes",
    "Operand",
    "Reading",
    "Result",
    "Scene",
    "adapters",
    "attention_functions",
]


Mixed: TypeAlias = torch.Tensor | Callable[[], torch.Tensor] | None
"""What a layer made of its map, or what computes it."""


class Axes(NamedTuple):
    """What the positions of a map are, and how many windows of each image its batch consists of.

    Examples
    --------
    >>> from anylocal.adapter import Axes
    >>> from anylocal.attention import Patches
    >>> window = Patches(grid=(7, 7))
    >>> Axes(queries=window, keys=window, windows=64).windows
    64
    """

    queries: Axis | None
    keys: Axis | None
    windows: int = 1


class Also(NamedTuple):
    """What else is to be recorded besides attention, because axes are read off it.

    Attributes
    ----------
    function : types.FunctionType
        Whose calls are of interest.
    names : tuple of str
        Locals, as the function returns.
    arguments : tuple of str
        Arguments, as it starts.
    keep : callable, optional
        Makes of a value what is recorded of it, such as its shape.

    Examples
    --------
    >>> import torch
    >>> from anylocal.adapter import Also
    >>> size = Also(torch.nn.Conv2d.forward, arguments=("input",), keep=lambda image: image.shape)
    >>> size.keep(torch.ones(1, 3, 8, 8))
    torch.Size([1, 3, 8, 8])
    """

    function: types.FunctionType
    names: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    keep: Callable[[Any], Any] | None = None


class Scene(NamedTuple):
    """What an adapter reads axes off.

    Attributes
    ----------
    model : torch.nn.Module
        The captured model.
    seen : mapping of str to mapping
        By the names of their modules, the latest values of what `Adapter.also` asked for.
    about : object
        What the user said of the input, such as a tokenizer; None otherwise.
    memory : dict of str to object
        What the adapter wants to remember from one forward to the next.

    Examples
    --------
    >>> import torch
    >>> from anylocal.adapter import Scene
    >>> scene = Scene(torch.nn.Conv2d(3, 4, 2), {"": {"input": (1, 3, 8, 8)}}, about=None, memory={})
    >>> scene.seen[""]["input"][2:]
    (8, 8)
    """

    model: torch.nn.Module
    seen: Mapping[str, Mapping[str, Any]]
    about: Any
    memory: dict[str, Any]


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


class Adapter(ABC):
    """Where attention lives in a model zoo.

    Attributes
    ----------
    distribution : str
        The adapter's own distribution. Its metadata says which versions of the zoo it knows.
    zoo : str
        The zoo's distribution, such as ``"timm"``.
    hints : tuple of str
        Further locals of attention functions that `operands` and `axes` look at, where a function binds them.

    Examples
    --------
    >>> import torch
    >>> from anylocal.adapter import Adapter, Axes
    >>> class OfTorch(Adapter):
    ...     distribution, zoo = "anylocal", "torch"
    ...     def functions(self):
    ...         return ()  # of the zoo's own; torch's layers are known
    ...     def axes(self, call, shape, scene):
    ...         return Axes(None, None)
    >>> layer = torch.nn.MultiheadAttention(4, 2)
    >>> with OfTorch().capture_attention(layer) as maps:
    ...     output = layer(*torch.ones(3, 5, 1, 4))
    >>> maps[0].shape
    (1, 2, 5, 5)
    """

    distribution: ClassVar[str]
    zoo: ClassVar[str]
    hints: ClassVar[tuple[str, ...]] = ()

    # What a zoo's adapter says

    @abstractmethod
    def functions(self) -> Iterable[types.FunctionType]:
        """Give the zoo's own attention functions, which `install` marks."""

    def shared(self, model: torch.nn.Module) -> Iterable[types.FunctionType]:  # noqa: ARG002  # for those that override it
        """Give those of `functions` that work for any module, and that the model may look up when it runs."""
        return (function for function in self.functions() if owner_of(function) == "module")

    def replacing(self, model: torch.nn.Module) -> Iterable[types.FunctionType]:  # noqa: ARG002  # for those that override it
        """Give attention functions of modules that the model may yet make, of its own parts, while it runs."""
        return ()

    @abstractmethod
    def axes(self, call: Call, shape: tuple[int, ...], scene: Scene) -> Axes:
        """Return the axes of the map of a call.

        Parameters
        ----------
        call : Call
            The call of the attention function.
        shape : tuple of int
            The map's shape, (batch, head, query, key).
        scene : Scene
            The model, and what it was given.
        """

    def also(self, model: torch.nn.Module) -> Iterable[Also]:  # noqa: ARG002  # for those that override it
        """Give further functions and names that `axes` needs, such as the size of the image."""
        return ()

    def reading(self, function: types.FunctionType) -> Reading | None:
        """Return how the map is read off the calls of a function, None where it computes none.

        By default the function's source tells.

        Raises
        ------
        UnsupportedError
            If it computes one in a way that cannot be read exactly.
        """
        return read(function)

    def others(self, model: torch.nn.Module) -> Mapping[str, str]:  # noqa: ARG002  # for those that override it
        """Return, by the names of their modules, what is called attention and has no map, and what it is instead."""
        return {}

    def heard(self, call: Call, scene: Scene) -> None:  # noqa: B027  # not every adapter has something to note
        """Take note of a call that `also` asked for, at its place between the others."""

    def operands(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002  # for those that override it
        """Return the kernel's arguments so that the map comes out as (batch, head, query, key).

        Parameters
        ----------
        call : Call
            The call of the attention function.
        given : dict of str to object
            What the kernel received: query, key, attn_mask, is_causal, scale, as far as it did.
        """
        return given

    def weights(self, call: Call, softmax: torch.Tensor) -> torch.Tensor:  # noqa: ARG002  # for those that override it
        """Return what the function's softmax was assigned to as (batch, head, query, key)."""
        return softmax

    def mixed(self, call: Call, reading: Reading, made: AttentionMap) -> Mixed:  # noqa: ARG002  # for those that override it
        """Return what the function made of its softmax, (batch, head, query, key), or a function that computes it."""
        mix = reading.mix(call.values)
        return None if mix is None else self.weights(call, mix)

    # What all adapters do

    def capture_attention(
        self, model: torch.nn.Module, *, about: object = None, any_version: bool = False, **options: Any
    ) -> AttentionCapture:
        """Return a scope that captures every attention map of a model.

        Parameters
        ----------
        model : torch.nn.Module
            The model.
        about : object, optional
            What is known of the input, handed to `axes`.
        any_version : bool, default False
            Go on with a version of the zoo that is not known.
        **options
            ``modules``, ``keep``, ``limit`` and ``threads``, as `anylocal.capture` has them. A function given as
            ``keep`` is called with all that decides the maps: queries, keys, masks, None where there is no mask, and
            numbers.

        Raises
        ------
        VersionError
            If the installed version of the zoo is not known.
        TargetError
            If the model computes no attention map.
        UnsupportedError
            If it computes one in a way that cannot be read exactly.

        Examples
        --------
        >>> import torch
        >>> from anylocal.adapter import Adapter, Axes
        >>> class OfTorch(Adapter):
        ...     distribution, zoo = "anylocal", "torch"
        ...     functions = lambda self: ()
        ...     axes = lambda self, call, shape, scene: Axes(None, None)
        >>> model = torch.nn.TransformerEncoderLayer(4, 2)
        >>> with OfTorch().capture_attention(model) as maps:
        ...     output = model(torch.ones(5, 1, 4))
        >>> maps["self_attn"].shape
        (1, 2, 5, 5)
        """
        self.check_version(any_version=any_version)
        return AttentionCapture(self, model, about=about, **options)

    def install(self, *modules: types.ModuleType, any_version: bool = False) -> None:
        """Mark the zoo's attention functions for `get_local`, whose cache then holds the maps, also of fused layers.

        Parameters
        ----------
        *modules : module
            Python modules to mark instead, such as a fork of the zoo's.
        any_version : bool, default False
            Go on with a version of the zoo that is not known.

        Raises
        ------
        VersionError
            If the installed version of the zoo is not known.
        TargetError
            If a module holds no attention function.

        Warns
        -----
        PassedOverWarning
            If a module holds an attention function whose maps cannot be read exactly.

        Examples
        --------
        >>> import torch
        >>> from anylocal import get_local
        >>> from anylocal.adapter import Adapter
        >>> def attend(q, k, v):
        ...     attn = (q @ k.mT).softmax(-1)
        ...     return attn @ v
        >>> class Ours(Adapter):
        ...     distribution, zoo = "anylocal", "torch"
        ...     functions, axes = lambda self: [attend], None
        >>> ours = Ours()
        >>> ours.install()
        >>> with get_local.active():
        ...     output = attend(*torch.ones(3, 1, 2, 5, 4))
        >>> get_local.cache["attend"][0].shape
        (1, 2, 5, 5)
        >>> ours.uninstall()
        >>> get_local.clear()
        """
        if not modules:
            self.check_version(any_version=any_version)
        marks = [(function, self._mark(function)) for function in self._to_mark(modules)]
        done: list[types.FunctionType] = []
        try:
            for function, mark in marks:
                done.append(function)
                _get_local.mark(function, mark)
        except BaseException:
            for function in done:
                _get_local.unmark(function)
            raise
        self._installed.update(dict.fromkeys(done))

    def uninstall(self) -> None:
        """Take back what `install` did; without an `install` before, nothing.

        Examples
        --------
        >>> from anylocal.adapter import Adapter
        >>> class Ours(Adapter):
        ...     distribution, zoo = "anylocal", "torch"
        ...     functions, axes = lambda self: [], None
        >>> ours = Ours()
        >>> ours.install()
        >>> ours.uninstall()
        """
        while self._installed:
            function, _ = self._installed.popitem()
            _get_local.unmark(function)

    def check_version(self, *, any_version: bool = False) -> None:
        """Refuse a version of the zoo that the adapter's metadata does not allow.

        Raises
        ------
        VersionError
            If it is not among those that the adapter knows.
        """
        installed = _version_by(importlib.metadata.version, self.zoo)
        wanted = self.requirement
        if not any_version and not wanted.specifier.contains(installed, prereleases=True):
            msg = (
                f"{self.distribution} knows {wanted}, and {self.zoo} {installed} is installed. Install a version that"
                f" it knows or a newer {self.distribution}, or pass any_version=True to try; nothing was touched."
            )
            raise VersionError(msg)

    @property
    def requirement(self) -> Requirement:
        """The versions of the zoo that the adapter knows."""
        return next(requirement for requirement in _required(self.distribution) if requirement.name == self.zoo)

    @cached_property
    def _installed(self) -> dict[types.FunctionType, None]:
        return {}

    def map_of(self, reading: Reading, call: Call) -> AttentionMap:
        """Return the map of one call of an attention function, without its axes."""
        values = call.values
        if not reading.was_fused(values):
            softmax = reading.softmax(values)
            whole = torch.stack(softmax, 1) if reading.head_by_head else softmax
            made = AttentionMap.from_weights(self.weights(call, whole), name=call.name)
        else:
            given = self.operands(call, reading.arguments(call.module, values))
            made = AttentionMap.from_qk(
                given["query"],
                given["key"],
                mask=given.get("attn_mask"),
                causal=bool(given.get("is_causal", False)),
                scale=given.get("scale"),
                name=call.name,
                fused=True,
            )
        return made.labelled(mixed=self.mixed(call, reading, made))

    def wants(self, function: types.FunctionType, reading: Reading) -> Wants:
        """Return what is to be recorded of an attention function."""
        bound = bound_names(function)
        return reading.wants | Wants(tuple(name for name in self.hints if name in bound))

    def recorded(self, function: types.FunctionType, reading: Reading) -> tuple[Wants, frozenset[str]]:
        """Return what is recorded of an attention function, and which names at their assignments.

        What may hold nothing at a return is recorded as it is assigned: that a name is unbound is an exception, which
        compiled code cannot have.
        """
        wants = self.wants(function, reading)
        loose = may_be_unbound(own_code(function), wants.returned)
        returned = tuple(name for name in wants.returned if name not in loose)
        return wants._replace(returned=returned, assigned=wants.assigned | loose), reading.joined | loose

    def _mark(self, function: types.FunctionType) -> _get_local.Mark:
        reading = self.reading(function)
        assert reading is not None

        def attn(call: Call) -> dict[str, Any]:
            return {"attn": self.map_of(reading, call).tensor()} if reading.made_map(call.values) else {}

        wants, joined = self.recorded(function, reading)
        return _get_local.Mark(
            function.__qualname__,
            ("attn",),
            wants,
            joined,
            reading.gathered,
            attn,
            keep="detach",
        )

    def _to_mark(self, modules: tuple[types.ModuleType, ...]) -> Iterator[types.FunctionType]:
        if not modules:
            yield from self.functions()
        for module in modules:
            found = [item.function for item in resolve(module).found if self._can_be_read(item.function)]
            if not found:
                raise TargetError(f"{module.__name__} holds no function that computes attention.")
            yield from found

    def _can_be_read(self, function: types.FunctionType) -> bool:
        """Say whether the maps of a function can be read; a file may hold others beside those that its models use."""
        try:
            return self.reading(function) is not None
        except UnsupportedError as error:
            warnings.warn(PassedOverWarning(f"Not marked: {error.args[0]}"), stacklevel=5)
            return False


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
        requests = [*self._requests(resolution, chosen)]
        self._capture = Capture(resolution, requests, keep=keep, limit=limit, threads=threads)
        self._others = adapter.others(model)
        self._reading = threading.RLock()
        self._begin_to_read()

    @property
    def maps(self) -> AttentionMaps:
        """The maps that there are by now; more come while the model runs."""
        # Made anew: kept, it would hold what holds it, and all tensors would wait for the garbage collector.
        return AttentionMaps(self._now, others=self._others)

    def _requests(self, resolution: Resolution, chosen: Resolution) -> Iterator[Request]:
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
        yield from self._heads.requests()
        if self._root is not None and self._root not in self._heads.functions:
            # It wants nothing, and is there to tell forwards apart.
            model = self._model
            yield Request(Found(self._root, lambda owner: owner is model), Wants())

    def open(self) -> Self:
        """Start capturing."""
        self._capture.open()
        return self

    def close(self) -> None:
        """Stop capturing and give every function its own code back."""
        self._capture.close()

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
        for call in self._calls(records):
            reading = self._readings.get(call.function)
            if self._heads.owns(call.function):
                made = self._heads.map_of(call) if self._heads.made_map(call) else None
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


# Files are read once, for scopes are opened by the thousand.


@functools.cache
def _version_by(version: Callable[[str], str], distribution: str) -> str:
    return version(distribution)


@functools.cache
def _required(distribution: str) -> tuple[Requirement, ...]:
    return tuple(map(Requirement, importlib.metadata.requires(distribution) or ()))


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


def attention_functions(*candidates: object) -> Iterator[types.FunctionType]:
    """Give those functions that compute attention, of functions and of classes of modules.

    Parameters
    ----------
    *candidates : function, class or None
        A class stands for its ``forward``; None, for what a version of the zoo does not have, is passed over.

    Examples
    --------
    >>> from anylocal.adapter import attention_functions
    >>> def attend(q, k, v):
    ...     attn = (q @ k.mT).softmax(-1)
    ...     return attn @ v
    >>> [function.__name__ for function in attention_functions(attend, dict.get, None)]
    ['attend']
    """
    for candidate in candidates:
        forward = vars(candidate).get("forward") if isinstance(candidate, type) else candidate
        yield from (function for function in functions_in(forward) if read(function) is not None)


def adapters() -> dict[str, Adapter]:
    """Return the adapters that are installed, by the names under which they are registered.

    Raises
    ------
    UnsupportedError
        If what is registered is no adapter.

    Examples
    --------
    >>> from anylocal.adapter import adapters
    >>> {name: adapter.zoo for name, adapter in adapters().items()}
    {...}
    """
    found: dict[str, Adapter] = {}
    for entry in importlib.metadata.entry_points(group="anylocal.adapters"):
        adapter = getattr(importlib.import_module(entry.module), "adapter", None)
        if not isinstance(adapter, Adapter):
            raise UnsupportedError(f"{entry.module}, registered as {entry.name!r}, holds no Adapter called adapter.")
        found[entry.name] = adapter
    return found
