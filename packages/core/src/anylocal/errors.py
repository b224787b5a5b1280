"""One tree of exceptions and warnings.

Every message says what was asked, what is there, and what to do. Each class carries a `slug`, printed in
brackets behind its message; ``docs/messages.md`` has one entry for each slug.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "AnylocalError",
    "AnylocalWarning",
    "ChangedInPlaceWarning",
    "ChoiceError",
    "DependencyError",
    "EditNotAppliedWarning",
    "LimitWarning",
    "NameNotFoundError",
    "NothingRecordedWarning",
    "OptionError",
    "PassedOverWarning",
    "PositionError",
    "ShapeError",
    "StateError",
    "StoreError",
    "TargetError",
    "UnsupportedError",
    "VersionError",
    "WeightsError",
]


class _Message:
    """Prints the slug behind the message, so that it can be looked up in ``docs/messages.md``."""

    slug: ClassVar[str]
    args: tuple[object, ...]

    def __str__(self) -> str:
        return f"{' '.join(str(arg) for arg in self.args)} [{self.slug}]"


class AnylocalError(_Message, Exception):
    """Base of every exception that anylocal raises by itself."""

    slug: ClassVar[str] = "error"


class TargetError(AnylocalError, TypeError):
    """What was pointed at holds no Python code that could be captured."""

    slug: ClassVar[str] = "target"


class NameNotFoundError(AnylocalError, KeyError):
    """No function of the target binds the name, or no map, token or axis goes by it.

    Attributes
    ----------
    name : str
        The name that was asked for.
    available : tuple of str
        The names that are there.
    """

    slug: ClassVar[str] = "name-not-found"

    def __init__(
        self, name: str, where: str, available: Iterable[str], hint: str = "", kind: str = "local variable"
    ) -> None:
        self.name = name
        self.available = tuple(dict.fromkeys(available))
        nearest = difflib.get_close_matches(name, self.available, n=1)
        suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
        listing = f" It has: {_listing(self.available)}." if self.available else " It has none at all."
        reason = f" {hint}" if hint else ""
        super().__init__(f"{where} has no {kind} {name!r}.{suggestion}{reason}{listing}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the finished message: an exception is made of its `args` again, and this one takes others."""
        return _unpickled, (type(self), self.args, vars(self))


class OptionError(AnylocalError, ValueError):
    """An option has a value that means nothing."""

    slug: ClassVar[str] = "option"


class PositionError(AnylocalError, IndexError):
    """A position, a sample or a layer is asked for beyond those that are there."""

    slug: ClassVar[str] = "position"


class StateError(AnylocalError, RuntimeError):
    """A capture or a map is used at a moment when it cannot be."""

    slug: ClassVar[str] = "state"


class ShapeError(AnylocalError, ValueError):
    """Shapes, axes, images or tokens do not fit each other."""

    slug: ClassVar[str] = "shape"


class ChoiceError(AnylocalError, ValueError):
    """Several are there and one must be chosen."""

    slug: ClassVar[str] = "choice"


class UnsupportedError(AnylocalError, NotImplementedError):
    """The result would not be exact, or there is none, so it is refused."""

    slug: ClassVar[str] = "unsupported"


class VersionError(UnsupportedError):
    """The installed version of a library is one that the adapter does not know."""

    slug: ClassVar[str] = "version"


class DependencyError(AnylocalError, ImportError):
    """A library that this part needs is not installed."""

    slug: ClassVar[str] = "dependency"


class WeightsError(AnylocalError, OSError):
    """Pretrained weights could not be loaded, most often because the machine is offline."""

    slug: ClassVar[str] = "weights"


class StoreError(AnylocalError, ValueError):
    """A file of maps is damaged, or was written by something else."""

    slug: ClassVar[str] = "store"


class AnylocalWarning(_Message, UserWarning):
    """Base of every warning that anylocal gives by itself."""

    slug: ClassVar[str] = "warning"


class NothingRecordedWarning(AnylocalWarning):
    """A capture closed and had recorded nothing; the message says why."""

    slug: ClassVar[str] = "nothing-recorded"


class EditNotAppliedWarning(AnylocalWarning):
    """A capture closed and an edit of its had never been applied."""

    slug: ClassVar[str] = "edit-not-applied"


class PassedOverWarning(AnylocalWarning):
    """A function computes attention, but not in a way that can be read exactly, so it was not marked."""

    slug: ClassVar[str] = "passed-over"


class ChangedInPlaceWarning(AnylocalWarning):
    """A recorded tensor was changed in place after it had been recorded."""

    slug: ClassVar[str] = "changed-in-place"


class LimitWarning(AnylocalWarning):
    """A capture reached its limit and stopped recording."""

    slug: ClassVar[str] = "limit"


def _unpickled(cls: type[NameNotFoundError], args: tuple[object, ...], state: dict[str, Any]) -> NameNotFoundError:
    error = cls.__new__(cls, *args)
    vars(error).update(state)
    return error


def _listing(names: tuple[str, ...], most: int = 30) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names) - most} more)"


def level_of_user() -> int:
    """Return the `stacklevel` at which a warning of the caller's points at the user, through whatever of anylocal."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("anylocal."):
        frame, level = frame.f_back, level + 1
    return level
