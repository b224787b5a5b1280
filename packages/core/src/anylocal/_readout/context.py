"""What an adapter and the scope exchange: axes, observations, the input context, and the methods that a scope calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import torch  # noqa: TC002  # what a public tuple holds is looked up by those who document it

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Hashable, Iterable, Mapping

    from anylocal._engine.calls import Call
    from anylocal._engine.spec import CaptureSpec
    from anylocal._maps.map import AttentionMap
    from anylocal._maps.positions import Axis
    from anylocal._readout.reading import Reading


class MapAxes(NamedTuple):
    """The axes of a map, and how many windows of each image its batch consists of.

    Examples
    --------
    >>> from anylocal.adapter import MapAxes
    >>> from anylocal.attention import Patches
    >>> window = Patches(grid=(7, 7))
    >>> MapAxes(queries=window, keys=window, windows=64).windows
    64
    """

    queries: Axis | None
    keys: Axis | None
    windows: int = 1


class Observation(NamedTuple):
    """A function to record besides attention, because axes are read off it.

    Attributes
    ----------
    function : types.FunctionType
        The function.
    names : tuple of str
        Locals to record as the function returns.
    arguments : tuple of str
        Arguments to record as it starts.
    keep : callable, optional
        Makes of a value what is recorded of it, such as its shape.

    Examples
    --------
    >>> import torch
    >>> from anylocal.adapter import Observation
    >>> size = Observation(torch.nn.Conv2d.forward, arguments=("input",), keep=lambda image: image.shape)
    >>> size.keep(torch.ones(1, 3, 8, 8))
    torch.Size([1, 3, 8, 8])
    """

    function: types.FunctionType
    names: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    keep: Callable[[Any], Any] | None = None


class InputContext(NamedTuple):
    """The model, its observed values and the user's input, which an adapter reads axes off.

    Attributes
    ----------
    model : torch.nn.Module
        The captured model.
    seen : mapping of str to mapping
        The latest values of the observations, by the names of their modules.
    about : object
        What the user passed with the input, such as a tokenizer; None otherwise.
    memory : dict of str to object
        Whatever the adapter keeps from one forward pass to the next.

    Examples
    --------
    >>> import torch
    >>> from anylocal.adapter import InputContext
    >>> context = InputContext(torch.nn.Conv2d(3, 4, 2), {"": {"input": (1, 3, 8, 8)}}, about=None, memory={})
    >>> context.seen[""]["input"][2:]
    (8, 8)
    """

    model: torch.nn.Module
    seen: Mapping[str, Mapping[str, Any]]
    about: Any
    memory: dict[str, Any]


class AttentionSource(Protocol):
    """The methods of an adapter that a scope calls; see `Adapter`."""

    zoo: ClassVar[str]

    def shared_functions(self, model: torch.nn.Module) -> Iterable[types.FunctionType]: ...
    def late_functions(self, model: torch.nn.Module) -> Iterable[types.FunctionType]: ...
    def observations(self, model: torch.nn.Module) -> Iterable[Observation]: ...
    def around_forward(self, model: torch.nn.Module) -> Iterable[types.FunctionType]: ...
    def unsupported(self, model: torch.nn.Module) -> Mapping[str, str]: ...
    def conditions(self, model: torch.nn.Module, modules: Mapping[str, torch.nn.Module]) -> Hashable: ...
    def check_modules(self, model: torch.nn.Module, modules: Mapping[str, torch.nn.Module]) -> None: ...
    def reading(self, function: types.FunctionType) -> Reading | None: ...
    def recorded(self, function: types.FunctionType, reading: Reading) -> tuple[CaptureSpec, frozenset[str]]: ...
    def observe(self, call: Call, context: InputContext) -> None: ...
    def axes(self, call: Call, shape: tuple[int, ...], context: InputContext) -> MapAxes: ...
    def map_of(self, reading: Reading, call: Call) -> AttentionMap: ...
