"""One tree of exceptions and warnings.

Every message gives the value, what was expected, and the remedy. Each class has a `slug`, printed in brackets after its
message; ``docs/messages.md`` has one entry for each slug.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable

__all__ = [
    "AnylocalError",
    "AnylocalWarning",
    "ChangedInPlaceWarning",
    "ChoiceError",
    "CodeReplacedWarning",
    "DependencyError",
    "EditNotAppliedWarning",
    "LimitWarning",
    "NameNotFoundError",
    "NothingRecordedWarning",
    "OptionError",
    "OverlookedWarning",
    "PositionError",
    "ShapeError",
    "StateError",
    "StoreError",
    "TargetError",
    "UnknownVersionWarning",
    "UnsupportedError",
    "VersionError",
    "WeightsError",
]


def __dir__() -> list[str]:
    return __all__


class _Message:
    """Prints the slug after the message, to be looked up in ``docs/messages.md``."""

    slug: ClassVar[str]
    args: tuple[object, ...]

    def __str__(self) -> str:
        return f"{' '.join(str(arg) for arg in self.args)} [{self.slug}]"


class AnylocalError(_Message, Exception):
    """Base of every exception of anylocal.

    Examples
    --------
    >>> from anylocal import capture, errors
    >>> try:
    ...     capture("textwrap:indent", "txt")
    ... except errors.AnylocalError as error:
    ...     print(error.slug)
    name-not-found
    """

    slug: ClassVar[str] = "error"


class TargetError(AnylocalError, TypeError):
    """The target holds no Python code that could be captured.

    Examples
    --------
    >>> from anylocal import capture
    >>> capture(len, "count")
    Traceback (most recent call last):
        ...
    anylocal.errors.TargetError: len is implemented in C: ...
    """

    slug: ClassVar[str] = "target"


class NameNotFoundError(AnylocalError, KeyError):
    """No function of the target binds the name, or no map, token or axis has it.

    Attributes
    ----------
    name : str
        The name that was asked for.
    available : tuple of str
        The existing names.

    Examples
    --------
    >>> from anylocal import capture
    >>> capture("textwrap:indent", "txt")
    Traceback (most recent call last):
        ...
    anylocal.errors.NameNotFoundError: indent has no local variable 'txt'. Did you mean 'text'? ...
    """

    slug: ClassVar[str] = "name-not-found"

    def __init__(
        self, name: str, where: str, available: Iterable[str], hint: str = "", kind: str = "local variable"
    ) -> None:
        self.name = name
        self.available = tuple(dict.fromkeys(available))
        # Only a mistake needs it, and it takes as long to import as this whole file.
        import difflib

        same = [known for known in self.available if known.casefold() == name.casefold()]
        nearest = same or difflib.get_close_matches(name, self.available, n=1)
        suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
        listing = f" It has: {_listing(self.available)}." if self.available else " It has none at all."
        reason = f" {hint}" if hint else ""
        super().__init__(f"{where} has no {kind} {name!r}.{suggestion}{reason}{listing}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the finished message, because `__init__` takes other arguments than `args`."""
        return _unpickled, (type(self), self.args, vars(self))


class OptionError(AnylocalError, ValueError):
    """An option has an invalid value.

    Examples
    --------
    >>> from anylocal import capture
    >>> capture("textwrap:indent", "text", keep="gpu")
    Traceback (most recent call last):
        ...
    anylocal.errors.OptionError: keep='gpu' is neither one of 'detach', ...
    """

    slug: ClassVar[str] = "option"


class PositionError(AnylocalError, IndexError):
    """The index of a position, a sample or a layer is out of range.

    Examples
    --------
    >>> from anylocal.attention import Patches
    >>> Patches(grid=(14, 14)).position((14, 0))
    Traceback (most recent call last):
        ...
    anylocal.errors.PositionError: Row index 14 of Patches(grid=(14, 14), ...) is out of range: there are 14. ...
    """

    slug: ClassVar[str] = "position"


class StateError(AnylocalError, RuntimeError):
    """A capture or a map is used in a state that does not allow it.

    Examples
    --------
    >>> from anylocal import capture
    >>> with capture("textwrap:indent", "text") as cap:
    ...     cap.open()
    Traceback (most recent call last):
        ...
    anylocal.errors.StateError: This capture of indent is open already. ...
    """

    slug: ClassVar[str] = "state"


class ShapeError(AnylocalError, ValueError):
    """Shapes, axes, images or tokens do not match.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches
    >>> AttentionMap.from_weights(torch.eye(3), name="attn", keys=Patches(grid=(2, 2)))
    Traceback (most recent call last):
        ...
    anylocal.errors.ShapeError: 'attn' has 3 key positions, and Patches(grid=(2, 2), ...) has 5. ...
    """

    slug: ClassVar[str] = "shape"


class ChoiceError(AnylocalError, ValueError):
    """Several results are possible and one must be chosen.

    Examples
    --------
    >>> from anylocal.attention import Tokens
    >>> Tokens([["the", "cat", "the"]]).position("the")
    Traceback (most recent call last):
        ...
    anylocal.errors.ChoiceError: Token 'the' is at positions [0, 2] of text 0; ...
    """

    slug: ClassVar[str] = "choice"


class UnsupportedError(AnylocalError, NotImplementedError):
    """The result would not be exact, or does not exist, and is refused.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, rollout
    >>> rollout([AttentionMap.from_weights(torch.eye(2).expand(4, 1, 2, 2), windows=4)])
    Traceback (most recent call last):
        ...
    anylocal.errors.UnsupportedError: AttentionMap(...) attends within windows, ...
    """

    slug: ClassVar[str] = "unsupported"


class VersionError(UnsupportedError):
    """The installed version of a library is too old for the adapter, or too new and computes no softmax any more.

    Or Python itself runs without its global interpreter lock, where nothing is captured.

    Examples
    --------
    >>> from packaging.requirements import Requirement
    >>> from anylocal.adapter import Adapter
    >>> class Ours(Adapter):
    ...     distribution, zoo, requirement = "ours", "torch", Requirement("torch<1")
    ...     functions = axes = None
    >>> Ours().check_version()
    Traceback (most recent call last):
        ...
    anylocal.errors.VersionError: ours knows torch<1, and torch ... is installed. ...
    """

    slug: ClassVar[str] = "version"


class DependencyError(AnylocalError, ImportError):
    """A library that this part needs is not installed.

    Examples
    --------
    >>> import sys
    >>> from unittest import mock
    >>> with mock.patch.dict(sys.modules, torch=None):  # as if it were not installed
    ...     _ = sys.modules.pop("anylocal.store", None)
    ...     import anylocal.store
    Traceback (most recent call last):
        ...
    anylocal.errors.DependencyError: anylocal.store needs torch, which is not installed: ...
    """

    slug: ClassVar[str] = "dependency"


class WeightsError(AnylocalError, OSError):
    """Pretrained weights could not be loaded, most often because the machine is offline.

    Examples
    --------
    >>> from anylocal.errors import WeightsError
    >>> try:
    ...     raise WeightsError("The weights of vit_tiny could not be loaded.")
    ... except OSError as error:
    ...     print(error)
    The weights of vit_tiny could not be loaded. [weights]
    """

    slug: ClassVar[str] = "weights"


class StoreError(AnylocalError, ValueError):
    """A file of maps is damaged, or was written by another program.

    Examples
    --------
    >>> from anylocal import store
    >>> store.load(store.__file__)
    Traceback (most recent call last):
        ...
    anylocal.errors.StoreError: ...store.py is not a complete safetensors file ...
    """

    slug: ClassVar[str] = "store"


class AnylocalWarning(_Message, UserWarning):
    """Base of every warning of anylocal.

    Examples
    --------
    >>> import warnings
    >>> from anylocal import capture, errors
    >>> with warnings.catch_warnings(action="ignore", category=errors.AnylocalWarning):
    ...     with capture("textwrap:indent", "text"):
    ...         pass
    """

    slug: ClassVar[str] = "warning"


class NothingRecordedWarning(AnylocalWarning):
    """A capture closed and had recorded nothing; the message says why.

    Examples
    --------
    >>> import warnings
    >>> from anylocal import capture
    >>> with warnings.catch_warnings(action="error"), capture("textwrap:indent", "text"):
    ...     pass
    Traceback (most recent call last):
        ...
    anylocal.errors.NothingRecordedWarning: The capture of indent recorded no value of 'text': ...
    """

    slug: ClassVar[str] = "nothing-recorded"


class UnknownVersionWarning(AnylocalWarning):
    """The installed version of a library is newer than any that the adapter was tested with; it is tried.

    Examples
    --------
    >>> import warnings
    >>> from anylocal.adapter import Adapter
    >>> class Ours(Adapter):
    ...     distribution, zoo, newest = "ours", "torch", "1"
    ...     functions = axes = None
    >>> with warnings.catch_warnings(action="error"):
    ...     Ours().check_version()
    Traceback (most recent call last):
        ...
    anylocal.errors.UnknownVersionWarning: ours knows torch up to 1, and torch ... is installed. ...
    """

    slug: ClassVar[str] = "unknown-version"


class EditNotAppliedWarning(AnylocalWarning):
    """A capture closed and one of its edits had never been applied.

    Examples
    --------
    >>> import warnings
    >>> from anylocal import capture
    >>> with warnings.catch_warnings(action="error"), capture("textwrap:indent", edit={"text": str.upper}):
    ...     pass
    Traceback (most recent call last):
        ...
    anylocal.errors.EditNotAppliedWarning: The edit of 'text' was never applied: ...
    """

    slug: ClassVar[str] = "edit-not-applied"


class CodeReplacedWarning(AnylocalWarning):
    """The code of a captured function was replaced while the capture was open, so later calls are not recorded.

    Examples
    --------
    >>> import warnings
    >>> from anylocal import capture
    >>> def mean(values):
    ...     total = sum(values)
    ...     return total / len(values)
    >>> def edited(values):
    ...     total = sum(values, 0.0)
    ...     return total / len(values)
    >>> cap = capture(mean, "total").open()
    >>> mean.__code__ = edited.__code__  # as %autoreload does
    >>> with warnings.catch_warnings(action="error"):
    ...     cap.close()
    Traceback (most recent call last):
        ...
    anylocal.errors.CodeReplacedWarning: mean: replaced while the capture of mean was open ...
    """

    slug: ClassVar[str] = "code-replaced"


class OverlookedWarning(AnylocalWarning):
    """A function computes attention in a way that cannot be read exactly, so it was not marked, or has no map.

    Examples
    --------
    >>> import types, warnings
    >>> from anylocal.adapter import Adapter
    >>> class Ours(Adapter):
    ...     functions = axes = None
    >>> module = types.ModuleType("without_a_file")
    >>> exec("def attend(q, k): attn = (q @ k).softmax(-1); return attn", vars(module))
    >>> with warnings.catch_warnings(action="error"):
    ...     Ours().install(module)
    Traceback (most recent call last):
        ...
    anylocal.errors.OverlookedWarning: Not marked: The source of attend cannot be read ...
    """

    slug: ClassVar[str] = "passed-over"


class ChangedInPlaceWarning(AnylocalWarning):
    """A recorded tensor was changed in place after it had been recorded.

    Examples
    --------
    >>> import torch, warnings
    >>> from anylocal import capture
    >>> x = torch.ones(2)
    >>> with capture(torch.nn.ReLU, "input") as cap:
    ...     output = torch.nn.ReLU()(x)
    >>> x += 1
    >>> with warnings.catch_warnings(action="error"):
    ...     cap["input"]
    Traceback (most recent call last):
        ...
    anylocal.errors.ChangedInPlaceWarning: 'input' of call 0 of ReLU.forward was changed in place ...
    """

    slug: ClassVar[str] = "changed-in-place"


class LimitWarning(AnylocalWarning):
    """A capture reached its limit and stopped recording.

    Examples
    --------
    >>> import torch, warnings
    >>> from anylocal import capture
    >>> with warnings.catch_warnings(action="error"), capture(torch.nn.ReLU, "input", limit="1kB"):
    ...     output = torch.nn.ReLU()(torch.ones(1000))
    Traceback (most recent call last):
        ...
    anylocal.errors.LimitWarning: The capture reached its limit (...) after 0 records and stopped recording; ...
    """

    slug: ClassVar[str] = "limit"


def _unpickled(cls: type[NameNotFoundError], args: tuple[object, ...], state: dict[str, Any]) -> NameNotFoundError:
    error = cls.__new__(cls, *args)
    vars(error).update(state)
    return error


def _listing(names: tuple[str, ...], most: int = 30) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names) - most} more)"


_OURS: Final = ("anylocal.", "anylocal_vit", "anylocal_bert")
"""Beginnings of the names of modules that are not the user's code."""


def level_of_user() -> int:
    """Return the `stacklevel` at which a warning of the caller points at the user's code."""
    frame: types.FrameType | None = sys._getframe()  # noqa: SLF001  # `inspect` takes as long to import as all of this
    level = 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level
