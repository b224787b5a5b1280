"""Records -> finished calls, for the user."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from anylocal._engine import tensors
from anylocal.errors import ChangedInPlaceWarning, level_of_user

if TYPE_CHECKING:
    import types

    from anylocal._engine.records import Record


class Values(Mapping[str, Any]):
    """The values that the names of one call had.

    Reading a tensor that was changed in place since it was recorded gives a `ChangedInPlaceWarning`.
    """

    def __init__(self, values: Mapping[str, Any], versions: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._versions = versions
        self._where = where

    def __getitem__(self, name: str) -> Any:
        """Return the value of a name.

        Raises
        ------
        KeyError
            If the name was not captured, or not bound in this call.
        """
        value = self._values[name]
        recorded = self._versions.get(name)
        pairs = zip(value, recorded, strict=True) if isinstance(recorded, tuple) else [(value, recorded)]
        if any(before is not None and tensors.version(part) != before for part, before in pairs):
            message = (
                f"{name!r} of {self._where} was changed in place after it was recorded, so this is not the value that"
                ' it had. Capture it with keep="clone" to keep a copy.'
            )
            warnings.warn(ChangedInPlaceWarning(message), stacklevel=level_of_user())
        return value

    def __contains__(self, name: object) -> bool:
        """Return whether a name was bound, without reading its value."""
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names that were bound."""
        return iter(self._values)

    def __len__(self) -> int:
        """Return the number of names that were bound."""
        return len(self._values)

    def summary(self) -> str:
        """Return each name with the shape of its tensor or array, or else with its value, shortened.

        Nothing warns of a tensor that was changed in place, which still has its shape.
        """
        return ", ".join(f"{name}: {_short(value)}" for name, value in self._values.items())

    def __repr__(self) -> str:
        """Return the values as a dict would show them."""
        return f"{type(self).__name__}({self._values!r})"


class Call:
    """One finished call of a function; with ``every=True``, one assignment in it.

    Attributes
    ----------
    function : types.FunctionType
        The function.
    module : torch.nn.Module or None
        The module on whose behalf it ran.
    name : str
        The name of that module in the captured model; empty without a module.
    index : int
        Index of the call among those of this function on behalf of this module, zero-based.
    thread : int or None
        The thread in which it ran.
    values : Values
        The values of the captured names.
    line : int
        The line at which it returned, or assigned.
    rank : int or None
        Rank of the process in torch.distributed; None without it.
    part : int
        Index among the kernels that one call of the function ran, zero-based; each has its own maps.

    Examples
    --------
    >>> from anylocal import capture
    >>> def mean(values):
    ...     total = sum(values)
    ...     return total / len(values)
    >>> with capture(mean, "total") as cap:
    ...     average = mean([1, 2, 3])
    >>> cap.calls[0]
    Call(mean, index=0, total)
    >>> cap.calls[0].values["total"]
    6
    """

    def __init__(  # noqa: PLR0917  # the order of its attributes
        self,
        function: types.FunctionType,
        module: Any,
        name: str,
        index: int,
        thread: int | None,
        values: Values,
        line: int,
        rank: int | None = None,
        part: int = 0,
    ) -> None:
        self.function = function
        self.module = module
        self.name = name
        self.index = index
        self.thread = thread
        self.values = values
        self.line = line
        self.rank = rank
        self.part = part

    def __repr__(self) -> str:
        """Return the function, module and index of the call, and its names."""
        of = f" of {self.name!r}" if self.name else ""
        names = ", ".join(self.values) or "nothing bound"
        return f"Call({self.function.__qualname__}{of}, index={self.index}, {names})"


class Assembler:
    """Assembles calls from records, which may come in several batches."""

    def __init__(self, names: Mapping[int, str], rank: int | None = None) -> None:
        self._names = names
        self.rank = rank
        self._counts: dict[tuple[int, int], int] = {}
        self._assignments: dict[tuple[int, int, int | None, int | None], list[Record]] = {}

    def calls(self, records: Iterable[Record]) -> Iterator[Call]:
        """Yield the calls that end with one of these records."""
        for record in records:
            complete = self._joined(record) if record.request.joined else [record]
            for part, each in enumerate(complete):
                if each.kind == each.request.call_kind:
                    key = (id(each.request), id(each.module))
                    self._counts[key] = self._counts.get(key, -1) + 1
                    yield self._call(each, self._counts[key], part)

    def _joined(self, record: Record) -> list[Record]:
        """Keep assignments until their call returns, and add them to it."""
        # A module may be called again before a call of it returns: by itself, or by other coroutines.
        key = (id(record.request), id(record.module), record.thread, record.frame)
        if record.kind == "returned":
            return _join(record, self._assignments.pop(key, []))
        held = self._assignments.setdefault(key, [])
        # Assignments of a call that raised do not belong to the next one.
        held[:] = [] if record.kind == "entered" else [*held, record]
        return []

    def _call(self, record: Record, index: int, part: int) -> Call:
        function, name = record.request.match.function, self._names.get(id(record.module), "")
        where = f"call {index} of {function.__qualname__}" + (f" in {name!r}" if name else "")
        values = Values(
            dict(zip(record.names, record.values, strict=True)),
            dict(zip(record.names, record.versions, strict=True)),
            where,
        )
        return Call(function, record.module, name, index, record.thread, values, record.line, self.rank, part)


def _join(record: Record, held: list[Record]) -> list[Record]:
    """Return the record of a call with what was held until it returned.

    Each function that it called makes a record of its own, unless what was recorded of all of them is gathered.
    """
    gathered, results = record.request.gathered, frozenset(record.request.spec.keys)
    apart = [each for each in held if each.kind == "called" and gathered.isdisjoint(each.names)]
    rest = [each for each in held if each.kind != "called" or not gathered.isdisjoint(each.names)]
    others = [each for each in rest if results.isdisjoint(each.names)]
    made = [_with(record, [*others, call]) for call in apart]
    return made if made and len(others) == len(rest) else [_with(record, rest), *made]


def _with(record: Record, held: list[Record]) -> Record:
    """Return a record with the last value of each name, or all of them."""
    joined: dict[str, list[tuple[Any, Any]]] = {}
    for each in held:
        for name, *pair in zip(each.names, each.values, each.versions, strict=True):
            joined.setdefault(name, []).append(tuple(pair))
    gathered = record.request.gathered
    pairs = [tuple(zip(*found, strict=True)) if name in gathered else found[-1] for name, found in joined.items()]
    values, versions = zip(*pairs, strict=True) if pairs else ((), ())
    return record._replace(
        names=(*record.names, *joined),
        values=(*record.values, *values),
        versions=(*record.versions, *versions),
    )


def _short(value: Any) -> str:
    try:
        shape = getattr(value, "shape", None)
        return str(tuple(shape)) if isinstance(shape, tuple) else reprlib.repr(value)
    except Exception:  # noqa: BLE001  # a proxy, a nested tensor: a value may run any code
        return type(value).__name__
