"""Operands that were written in place before they are recorded, as static caches are: they may be written again."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from anylocal._engine.tensors import tensor_type

# Some models have a mask for each kind of layer, which take turns.
_MOST: Final = 4


class Copies:
    """Copies such operands; those that many calls are given, such as masks, once for all of them."""

    def __init__(self, reused: frozenset[str]) -> None:
        self._reused = reused
        self._latest: dict[Any, _Copy] = {}

    def of(self, name: str, value: Any, version: int | None) -> tuple[Any, int | None]:
        """Return what to record of an operand, detached, and the version of that; `version` is the operand's."""
        if not _is_plain(value):
            return value, version
        if name not in self._reused:
            return _copied(value)
        place = value.data_ptr(), value.shape, value.stride(), value.dtype
        latest = self._latest.get(place)
        if latest is None or latest.of_version != version:
            if len(self._latest) == _MOST:
                self._latest.pop(next(iter(self._latest)))
            latest = self._latest[place] = _Copy(value, version, *_copied(value))
        return latest[2:]

    def of_all(
        self, names: tuple[str, ...], values: list[Any], versions: list[int | None]
    ) -> tuple[list[Any], list[int | None]]:
        """Return all values of a record, and their versions."""
        pairs = zip(names, values, versions, strict=True)
        kept = [self.of(name, value, version) if version else (value, version) for name, value, version in pairs]
        return [value for value, _ in kept], [version for _, version in kept]


def is_marked(tensor: Any) -> bool:
    """Return whether compiled code takes a tensor for a buffer: an inference tensor does not count what is written."""
    return hasattr(tensor, "_dynamo_static_input_type")


def _is_plain(value: object) -> bool:
    # A subclass may run any code.
    return type(value) is tensor_type()


class _Copy(NamedTuple):
    """A copy, with what it was made of: while that lives, no other tensor has its place in memory."""

    original: Any
    of_version: int | None
    copy: Any
    version: int | None


def _copied(value: Any) -> tuple[Any, int | None]:
    copy = value.clone()
    return copy, None if copy.is_inference() else copy._version
