"""The base class of adapters."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch

from anylocal._engine.functions import bound_names, owner_of
from anylocal._engine.get_local import Mark, mark, unmark
from anylocal._engine.patch import own_code
from anylocal._engine.resolve import resolve
from anylocal._engine.rewrite import may_be_unbound
from anylocal._engine.spec import CaptureSpec
from anylocal._maps.map import AttentionMap
from anylocal._readout.kernels import KERNELS, MASKS, binder, called_kernels
from anylocal._readout.library import check_library
from anylocal._readout.scope import AttentionCapture
from anylocal._readout.softmax import reading_of
from anylocal._readout.versions import check_softmax, check_version, is_newer, requirement_of
from anylocal.errors import OverlookedWarning, TargetError, UnsupportedError

if TYPE_CHECKING:
    import types

    from packaging.requirements import Requirement

    from anylocal._engine.calls import Call
    from anylocal._readout.context import InputContext, MapAxes, Observation
    from anylocal._readout.reading import Reading

Mixed: TypeAlias = torch.Tensor | Callable[[], torch.Tensor] | None
"""The map that a layer made of its softmax, or a function that computes it."""


class Adapter(ABC):
    """Where attention lives in a model zoo.

    Attributes
    ----------
    distribution : str
        The adapter's own distribution. Its metadata says from which version of the zoo on it works.
    zoo : str
        The zoo's distribution, such as ``"timm"``.
    newest : str
        The newest series of the zoo that the adapter was tested with: "1.0" stands for all of 1.0.x. Later ones are
        tried, with a warning, and with a check that maps are a softmax. Empty, every later version is known.
    hints : tuple of str
        Further locals of attention functions that `operands` and `axes` look at, where a function binds them.

    Examples
    --------
    >>> import torch
    >>> from anylocal.adapter import Adapter, MapAxes
    >>> class OfTorch(Adapter):
    ...     distribution, zoo = "anylocal", "torch"
    ...     def functions(self):
    ...         return ()  # of the zoo's own; torch's layers are known
    ...     def axes(self, call, shape, context):
    ...         return MapAxes(None, None)
    >>> layer = torch.nn.MultiheadAttention(4, 2)
    >>> with OfTorch().capture_attention(layer) as maps:
    ...     output = layer(*torch.ones(3, 5, 1, 4))
    >>> maps[0].shape
    (1, 2, 5, 5)
    """

    distribution: ClassVar[str]
    zoo: ClassVar[str]
    newest: ClassVar[str] = ""
    hints: ClassVar[tuple[str, ...]] = ()

    # The knowledge of a zoo's adapter

    @abstractmethod
    def functions(self) -> Iterable[types.FunctionType]:
        """Yield the zoo's own attention functions, which `install` marks."""

    def shared_functions(self, model: torch.nn.Module) -> Iterable[types.FunctionType]:  # noqa: ARG002  # for overrides
        """Yield those of `functions` that work for any module, and that the model may look up as it runs."""
        return (function for function in self.functions() if owner_of(function) == "module")

    def late_functions(self, model: torch.nn.Module) -> Iterable[types.FunctionType]:  # noqa: ARG002  # for overrides
        """Yield attention functions of modules that the model may make, of its own parts, as it runs."""
        return ()

    @abstractmethod
    def axes(self, call: Call, shape: tuple[int, ...], context: InputContext) -> MapAxes:
        """Return the axes of the map of a call.

        Parameters
        ----------
        call : Call
            The call of the attention function.
        shape : tuple of int
            The map's shape, (batch, head, query, key).
        context : InputContext
            The model and its input.
        """

    def observations(self, model: torch.nn.Module) -> Iterable[Observation]:  # noqa: ARG002  # for overrides
        """Yield further functions and names that `axes` needs, such as the size of the image."""
        return ()

    def around_forward(self, model: torch.nn.Module) -> Iterable[types.FunctionType]:  # noqa: ARG002  # for overrides
        """Yield methods of the model that run parts of it, such as an encoder, and then its forward.

        These parts belong to the forward pass that follows.
        """
        return ()

    def reading(self, function: types.FunctionType) -> Reading | None:
        """Return how the map is read off the calls of a function, None where it computes none.

        By default it is read from the function's source.

        Raises
        ------
        UnsupportedError
            If it computes one in a way that cannot be read exactly.
        """
        return reading_of(function)

    def unsupported(self, model: torch.nn.Module) -> Mapping[str, str]:  # noqa: ARG002  # for overrides
        """Return the layers that are called attention and have no map, by module name, and what they are instead."""
        return {}

    def check_modules(self, model: torch.nn.Module, modules: Mapping[str, torch.nn.Module]) -> None:  # noqa: B027  # optional
        """Refuse a model for those of its modules that are to be captured, by name, before it runs.

        Raises
        ------
        UnsupportedError
            If one of them computes attention where it cannot be read.
        """

    def conditions(self, model: torch.nn.Module, modules: Mapping[str, torch.nn.Module]) -> Hashable:  # noqa: ARG002  # for overrides
        """Return what decides, besides the model itself, the functions and layers that the methods above return.

        They are asked again where the model has changed since it was last captured (its modules, their attributes and
        classes, the code of its functions), or where this differs.
        """
        return ()

    def observe(self, call: Call, context: InputContext) -> None:  # noqa: B027  # optional
        """Note a call of one of the `observations`, in its order among the calls."""

    def operands(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002  # for overrides
        """Return the kernel's arguments so that the map comes out as (batch, head, query, key).

        Parameters
        ----------
        call : Call
            The call of the attention function.
        given : dict of str to object
            The arguments that the kernel received, out of query, key, attn_mask, is_causal and scale.
        """
        return given

    def weights(self, call: Call, softmax: torch.Tensor) -> torch.Tensor:  # noqa: ARG002  # for overrides
        """Return the function's softmax as (batch, head, query, key)."""
        return softmax

    def mixed(self, call: Call, reading: Reading, made: AttentionMap) -> Mixed:  # noqa: ARG002  # for overrides
        """Return the map that the function made of its softmax, (batch, head, query, key), or what computes it."""
        mix = reading.mix(call.values)
        return None if mix is None else self.weights(call, mix)

    # Common to all adapters

    def capture_attention(
        self, model: torch.nn.Module, *, about: object = None, any_version: bool = False, **options: Any
    ) -> AttentionCapture:
        """Return a scope that captures every attention map of a model.

        Parameters
        ----------
        model : torch.nn.Module
            The model.
        about : object, optional
            Whatever is known of the input, for `axes`.
        any_version : bool, default False
            Try a version of the zoo that is older than the oldest known one, and a newer one without a warning.
        **options
            ``modules``, ``keep``, ``limit`` and ``threads``, as in `anylocal.capture`. A function as ``keep`` is
            called with all values that decide the maps: queries, keys, masks (or None), and numbers. And ``reduce``,
            a function of a map: its results are kept in `AttentionMaps.reduced` instead of the maps, which are
            forgotten as the model's forward returns (code under ``torch.compile``: when they are read, or at the end).

        Raises
        ------
        VersionError
            If the installed version of the zoo is too old.
        TargetError
            If the model computes no attention map, or is of another library that has an adapter of its own.
        UnsupportedError
            If it computes one in a way that cannot be read exactly.

        Warns
        -----
        UnknownVersionWarning
            If the installed version of the zoo is newer than any that the adapter was tested with.

        Examples
        --------
        >>> import torch
        >>> from anylocal.adapter import Adapter, MapAxes
        >>> class OfTorch(Adapter):
        ...     distribution, zoo = "anylocal", "torch"
        ...     functions = lambda self: ()
        ...     axes = lambda self, call, shape, context: MapAxes(None, None)
        >>> model = torch.nn.TransformerEncoderLayer(4, 2)
        >>> with OfTorch().capture_attention(model) as maps:
        ...     output = model(torch.ones(5, 1, 4))
        >>> maps["self_attn"].shape
        (1, 2, 5, 5)
        """
        check_library(model, self.zoo, self.distribution)
        self.check_version(any_version=any_version)
        return AttentionCapture(self, model, about=about, **options)

    def install(self, *modules: types.ModuleType, any_version: bool = False) -> None:
        """Mark the zoo's attention functions for `get_local`, whose cache then holds the maps, also of fused layers.

        Parameters
        ----------
        *modules : module
            Python modules to mark instead, such as a fork of the zoo's.
        any_version : bool, default False
            Try a version of the zoo that is older than the oldest known one, and a newer one without a warning.

        Raises
        ------
        VersionError
            If the installed version of the zoo is too old.
        TargetError
            If a module holds no attention function.

        Warns
        -----
        OverlookedWarning
            If a module holds an attention function whose maps cannot be read exactly.
        UnknownVersionWarning
            If the installed version of the zoo is newer than any that the adapter was tested with.

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
            for function, function_mark in marks:
                done.append(function)
                mark(function, function_mark)
        except BaseException:
            for function in done:
                unmark(function)
            raise
        self._installed.update(dict.fromkeys(done))

    def uninstall(self) -> None:
        """Undo `install`; without one before, do nothing.

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
            unmark(function)

    def check_version(self, *, any_version: bool = False) -> None:
        """Refuse a version of the zoo that is older than the adapter's metadata allows.

        Raises
        ------
        VersionError
            If it is too old.

        Warns
        -----
        UnknownVersionWarning
            If it is newer than any that the adapter was tested with.
        """
        if not any_version:
            check_version(self)

    @property
    def requirement(self) -> Requirement:
        """The requirement of the zoo in the adapter's metadata."""
        return requirement_of(self.distribution, self.zoo)

    @cached_property
    def _installed(self) -> dict[types.FunctionType, None]:
        return {}

    def map_of(self, reading: Reading, call: Call) -> AttentionMap:
        """Return the map of one call of an attention function, without its axes."""
        values = call.values
        if not reading.was_fused(values):
            softmax = reading.softmax(values)
            whole = torch.stack(softmax, 1) if reading.head_by_head else softmax
            if is_newer(self):
                check_softmax(self, whole, call.name)
            made = AttentionMap.from_weights(self.weights(call, whole), name=call.name)
        else:
            name, given = reading.operands(values)
            kernel = KERNELS[name]
            given = given if kernel.lays_out_heads else self.operands(call, given)
            made = kernel.map(given, name=call.name, fused=True)
        return made.labelled(mixed=self.mixed(call, reading, made))

    def spec(self, function: types.FunctionType, reading: Reading) -> CaptureSpec:
        """Return the capture spec of an attention function."""
        bound = bound_names(function)
        hints = tuple(name for name in self.hints if name in bound)
        return reading.spec | CaptureSpec(hints, called=called_kernels(function))

    def recorded(self, function: types.FunctionType, reading: Reading) -> tuple[CaptureSpec, frozenset[str]]:
        """Return the capture spec of an attention function, and the names that are recorded at their assignments.

        A name that may be unbound at a return is recorded as it is assigned: compiled code cannot have the exception
        of an unbound name.
        """
        spec = self.spec(function, reading)
        loose = may_be_unbound(own_code(function), spec.returned)
        returned = tuple(name for name in spec.returned if name not in loose)
        return spec._replace(returned=returned, assigned=spec.assigned | loose), reading.joined | loose

    def _mark(self, function: types.FunctionType) -> Mark:
        reading = self.reading(function)
        assert reading is not None

        def attn(call: Call) -> dict[str, Any]:
            return {"attn": self.map_of(reading, call).tensor()} if reading.made_map(call.values) else {}

        spec, joined = self.recorded(function, reading)
        return Mark(
            function.__qualname__,
            ("attn",),
            spec,
            joined,
            reading.gathered,
            attn,
            keep="detach",
            binder=binder,
            reused=MASKS,
        )

    def _to_mark(self, modules: tuple[types.ModuleType, ...]) -> Iterator[types.FunctionType]:
        if not modules:
            yield from self.functions()
        for module in modules:
            found = [item.function for item in resolve(module).matches if self._can_be_read(item.function)]
            if not found:
                raise TargetError(f"{module.__name__} holds no function that computes attention.")
            yield from found

    def _can_be_read(self, function: types.FunctionType) -> bool:
        """Return whether the maps of a function can be read; a file may hold functions that none of its models uses."""
        try:
            return self.reading(function) is not None
        except UnsupportedError as error:
            warnings.warn(OverlookedWarning(f"Not marked: {error.args[0]}"), stacklevel=5)
            return False
