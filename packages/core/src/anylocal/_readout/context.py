"""What an adapter says, and what it is told: axes, further functions to record, and what was seen of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch  # noqa: TC002  # what a public tuple holds is looked up by those who document it

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Mapping

    from anylocal._maps.positions import Axis


class MapAxes(NamedTuple):
    """What the positions of a map are, and how many windows of each image its batch consists of.

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
    >>> from anylocal.adapter import InputContext
    >>> context = InputContext(torch.nn.Conv2d(3, 4, 2), {"": {"input": (1, 3, 8, 8)}}, about=None, memory={})
    >>> context.seen[""]["input"][2:]
    (8, 8)
    """

    model: torch.nn.Module
    seen: Mapping[str, Mapping[str, Any]]
    about: Any
    memory: dict[str, Any]
