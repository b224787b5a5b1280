"""Captured calls as JSON and tensors, and back, without any way to run code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from anylocal._engine import tables
from anylocal._engine.calls import Call, Values
from anylocal._engine.recording import Recording, check_name
from anylocal.errors import NameNotFoundError, OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN: Final = (bool, int, float, str, type(None))
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class SavedFunction:
    """A function, by its names: the file does not hold its code."""

    __module__: str
    __qualname__: str

    @property
    def __name__(self) -> str:
        return self.__qualname__.rpartition(".")[2]


class SavedCapture(Recording):
    """The calls of a capture, read from a file: read like a capture, without its functions and modules.

    Parameters
    ----------
    label : str
        The target.
    names : tuple of str
        The captured names.
    calls : list of Call
        Their `function` only has its names, their `module` is None; `name` is that of the module.

    Examples
    --------
    >>> import tempfile
    >>> from anylocal import capture, store
    >>> def mean(values):
    ...     total = sum(values)
    ...     return total / len(values)
    >>> with capture(mean, "total") as cap:
    ...     average = mean([1, 2, 3])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = store.load(store.save(cap, f"{folder}/mean.safetensors"))
    >>> saved["total"]
    [6]
    """

    def __init__(self, label: str, names: tuple[str, ...], calls: list[Call]) -> None:
        self._label = label
        self._names = names
        self._calls = calls

    @property
    def names(self) -> tuple[str, ...]:
        """The names that were captured."""
        return self._names

    @property
    def calls(self) -> list[Call]:
        """All calls, in the order in which they finished."""
        return list(self._calls)

    def at(self, module: str) -> list[Call]:
        """Return the calls of one submodule, by its name in the model.

        Raises
        ------
        NameNotFoundError
            If the file has no call of such a module.
        OptionError
            If it is not a name.
        """
        check_name(module, "at() takes the name of a submodule")
        found = [call for call in self._calls if call.name == module]
        if not found:
            raise NameNotFoundError(module, self._label, (call.name for call in self._calls), kind="submodule")
        return found

    def __repr__(self) -> str:
        """Return the target, the names and the number of calls."""
        return f"SavedCapture({self._label}: {', '.join(self.names)}; {tables.counted(len(self), 'call')})"


def describe(label: str, capture: Recording, tensors: Tensors) -> dict[str, Any]:
    """Return a capture as JSON, and put its tensors among those of the file.

    Raises
    ------
    OptionError
        If a value is of a type that the file cannot hold.
    """
    calls = []
    for number, call in enumerate(capture.calls):
        values = {name: _encoded(call.values[name], f"{number}.{name}", tensors) for name in call.values}
        kept = {name: getattr(call, name) for name in ("name", "index", "thread", "line", "rank")}
        function = [call.function.__module__, call.function.__qualname__]
        calls.append({**kept, "function": function, "values": values})
    return {"label": label, "names": capture.names, "calls": calls}


def restored(content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> SavedCapture:
    """Return the capture that JSON and tensors describe."""
    calls = []
    for given in content["calls"]:
        values = {str(name): _decoded(value, tensors) for name, value in given["values"].items()}
        kept = {name: given[name] for name in ("name", "index", "thread", "line", "rank")}
        function: Any = SavedFunction(*map(str, given["function"]))
        calls.append(Call(function, None, values=Values(values, {}, str(given["name"])), **kept))
    return SavedCapture(str(content["label"]), tuple(map(str, content["names"])), calls)


def _encoded(value: Any, where: str, tensors: Tensors) -> Any:
    kept = _tensor(value)
    if kept is not None:
        # Keys of dicts may hold dots as well.
        while where in tensors:
            where += "'"
        tensors[where] = kept
        return {"tensor" if isinstance(value, torch.Tensor) else "array": where}
    # Not their subclasses, which would come back as the base class.
    if type(value) in _PLAIN:
        return value
    if type(value) in {list, tuple}:
        return {type(value).__name__: [_encoded(part, f"{where}.{at}", tensors) for at, part in enumerate(value)]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encoded(part, f"{where}.{key}", tensors) for key, part in value.items()}}
    name = where.partition(".")[2]
    raise OptionError(
        f"{name!r} is of type {type(value).__name__}, which a file without code cannot hold; capture it with keep=, a"
        " function that makes a tensor, an array, or numbers, texts, lists and dicts of it."
    )


def _tensor(value: Any) -> torch.Tensor | None:
    """Return a copy as a tensor with memory of its own; None for values that a file cannot hold as a tensor.

    safetensors writes shared memory only once, or refuses it.
    """
    if isinstance(value, torch.Tensor):
        is_plain = value.layout is torch.strided and not (value.is_meta or value.is_quantized or value.is_nested)
        return value.detach().to("cpu", copy=True).contiguous() if is_plain else None
    # Subclasses hold more, such as the mask of a masked array; memory maps do not.
    if type(value) not in {np.ndarray, np.memmap} or value.dtype.kind not in "biuf":
        return None
    try:
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C", subok=False))
    except TypeError:  # no dtype of torch is as precise
        return None


def _decoded(given: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(given, dict):
        return given
    ((kind, content),) = given.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "array":
            return tensors[content].numpy()
        case "list" | "tuple":
            parts = [_decoded(part, tensors) for part in content]
            return parts if kind == "list" else tuple(parts)
        case "dict":
            return {str(key): _decoded(part, tensors) for key, part in content.items()}
    msg = f"unknown kind of value: {kind!r}"
    raise ValueError(msg)
