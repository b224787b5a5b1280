"""Reading recorded calls: from a capture, or from the file of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from anylocal._engine import tables, tensors
from anylocal.errors import NameNotFoundError, OptionError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anylocal._engine.calls import Call


class Recording(ABC):
    """Finished calls, and the values that names had in them."""

    _label: str

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names that are captured."""

    @property
    @abstractmethod
    def calls(self) -> list[Call]:
        """All calls that finished, in the order in which they did."""

    def __getitem__(self, name: str) -> list[Any]:
        """Return the values of a name, in the order in which the calls finished.

        Calls that never bound it are left out.

        Raises
        ------
        NameNotFoundError
            If the name is not captured here.
        OptionError
            If it is not a name.
        """
        return self._values(name)

    def _values(self, name: str) -> list[Any]:
        check_name(name, "A capture is read by name")
        if name not in self.names:
            raise NameNotFoundError(name, f"This capture of {self._label}", self.names)
        return [call.values[name] for call in self.calls if name in call.values]

    def __contains__(self, name: object) -> bool:
        """Return whether a name is captured here."""
        return name in self.names

    def __iter__(self) -> Iterator[Call]:
        """Iterate over the calls, as many as `len` counts."""
        return iter(self.calls)

    def stack(self, name: str) -> Any:
        """Return the values of a name as one tensor.

        Returns
        -------
        torch.Tensor
            Shape (calls, …).

        Raises
        ------
        ShapeError
            If the values are not tensors of one shape.
        """
        values = self._values(name)
        shapes = {tuple(value.shape) if tensors.is_tensor(value) else type(value).__name__ for value in values}
        if len(shapes) != 1 or not tensors.is_tensor(values[0]):
            what = ", ".join(map(str, sorted(shapes, key=str))) or "nothing"
            msg = f"The values of {name!r} do not stack: {what}. Read them one by one from capture[{name!r}]."
            raise ShapeError(msg)
        return tensors.stack(values)

    def __len__(self) -> int:
        """Return the number of calls recorded."""
        return len(self.calls)

    def __bool__(self) -> bool:
        """Return True: an empty capture is a capture."""
        return True

    def _repr_html_(self) -> str:
        rows = [(str(call.index), call.function.__qualname__, call.name, call.values.summary()) for call in self.calls]
        return tables.markup(("", "function", "module", "values"), rows, repr(self))


def check_name(name: object, what: str) -> None:
    """Refuse anything but a name: an index is most likely that of a call."""
    if not isinstance(name, str):
        msg = f"{what} and got {name!r}; calls by their index are in .calls."
        raise OptionError(msg)
