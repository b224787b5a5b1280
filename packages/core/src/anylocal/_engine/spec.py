"""What is asked of one function: the names to record, when, and from whose calls."""

from __future__ import annotations

import enum
import operator
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import types

RECORDER: Final = "__anylocal__"
"""The name under which rewritten code finds what records its calls."""

# A constant that marshal, dynamo and the interpreter all treat as the plain text it is; compared by identity.
UNBOUND: Final = sys.intern("anylocal_unbound")

Filter: TypeAlias = Callable[[object], bool] | None
"""Returns whether a call on behalf of an owner (``self``, ``module``) counts; None where every call does."""


class IdentityFilter:
    """A filter of calls on behalf of some objects, by identity; the capture that uses it keeps them alive."""

    def __init__(self, objects: Iterable[object]) -> None:
        kept = list(objects)
        self._ids = frozenset(map(id, kept))
        self.kinds = frozenset(map(type, kept))
        # A look-up in a set is faster than by `id`, but runs the object's own hash.
        self._is_plain = {kind.__hash__ for kind in self.kinds} <= {object.__hash__}
        self._references = list(map(weakref.ref, kept)) if self._is_plain else []
        self._members: Callable[[], frozenset[object] | None] = lambda: None

    def __call__(self, owner: object) -> bool:
        """Return whether the owner is one of them."""
        return id(owner) in self._ids

    def members(self) -> frozenset[object] | None:
        """Return them as a set, None where their own hash would run; all who ask have the same one."""
        members = self._members()
        if members is None and self._is_plain:
            members = frozenset(map(operator.call, self._references))
            self._members = weakref.ref(members)
        return members


Binder: TypeAlias = Callable[[Any], Callable[..., tuple[tuple[str, ...], tuple[Any, ...]]] | None]
"""From a function to one that takes its arguments and returns names and values to record; None for any other."""


def no_kernel(_: object) -> None:
    """Know no function."""


class Assignment(NamedTuple):
    """Some of the assignments of a name; for ``edit=``, chosen by `uses`, `line` or `number`.

    Parameters
    ----------
    name : str
        What is assigned to.
    uses : str
        A function, a method, an attribute or a variable of the right-hand side, as ``attn = attn.softmax(-1)`` has
        ``softmax``.
    label : str
        The name under which an adapter records the value; by default that of the variable.
    line : int, optional
        The line of the file; assignments of a name on one line are meant together.
    number : int, optional
        Which one of the function's assignments of the name, counted from 0 in the order of its source.

    Examples
    --------
    >>> from anylocal import Assignment, capture
    >>> def area(radius):
    ...     size = abs(radius)
    ...     size = size * size
    ...     return size
    >>> with capture(area, edit={Assignment("size", uses="abs"): lambda size: size + 1}):
    ...     area(-2)
    9
    >>> with capture(area, edit={Assignment("size", number=1): lambda size: size + 1}):
    ...     area(-2)
    5
    """

    name: str
    uses: str = ""
    label: str = ""
    line: int | None = None
    number: int | None = None

    @property
    def key(self) -> str:
        """The name under which the value is recorded."""
        return self.label or self.name


class EditOfLines(NamedTuple):
    """An edit, by its key, and the lines of the assignments that it is for; None for all of them."""

    key: str | Assignment
    lines: frozenset[int] | None
    edit: Callable[[Any], Any]


class CaptureSpec(NamedTuple):
    """The names to record or edit in one function.

    Parameters
    ----------
    returned : tuple of str
        Names whose value is recorded at each return.
    assigned : frozenset of str
        Names whose value is recorded at each assignment, and at the start for arguments.
    edited : frozenset of str
        Names whose value may be replaced at each assignment, and at the start for arguments.
    resulted : frozenset of Assignment
        Names whose value is recorded at certain assignments only.
    given : frozenset of str
        Arguments that are recorded as they are at the start.
    called : frozenset of str
        Functions whose arguments are recorded at each call, by their names in the source, such as ``"F.softmax"``.

    Examples
    --------
    >>> from anylocal.adapter import CaptureSpec
    >>> CaptureSpec(("q",)) | CaptureSpec(("k",))
    CaptureSpec(returned=('q', 'k'), ...)
    """

    returned: tuple[str, ...] = ()
    assigned: frozenset[str] = frozenset()
    edited: frozenset[str] = frozenset()
    resulted: frozenset[Assignment] = frozenset()
    given: frozenset[str] = frozenset()
    called: frozenset[str] = frozenset()

    def __or__(self, other: object) -> CaptureSpec:
        """Return the spec that serves both."""
        if not isinstance(other, CaptureSpec):
            return NotImplemented
        names = dict.fromkeys(self.returned + other.returned)
        return CaptureSpec(
            tuple(names),
            self.assigned | other.assigned,
            self.edited | other.edited,
            self.resulted | other.resulted,
            self.given | other.given,
            self.called | other.called,
        )

    @property
    def records(self) -> bool:
        """Whether any name is recorded, and not only edited."""
        return bool(self.returned or self.assigned or self.resulted or self.given or self.called)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names under which `resulted` assignments are recorded, in alphabetical order."""
        return tuple(sorted({result.key for result in self.resulted}))

    def covers(self, other: CaptureSpec) -> bool:
        """Return whether code that serves this spec serves the other too."""
        return self is other or (
            set(self.returned) >= set(other.returned)
            and self.assigned >= other.assigned
            and self.edited >= other.edited
            and self.resulted >= other.resulted
            and self.given >= other.given
            and self.called >= other.called
        )


class Role(enum.Enum):
    """The purpose of a request."""

    VALUES = enum.auto()
    """Record the values that names have."""
    COMPILED_VALUES = enum.auto()
    """Record them where compiled code runs only: eager code is recorded elsewhere."""
    BOUNDARIES = enum.auto()
    """Record where calls start and end."""
    PRESENCE = enum.auto()
    """Record nothing, and note whether the function is called."""


class Match:
    """A function, and the filter of its calls."""

    def __init__(self, function: types.FunctionType, filter_: Filter = None) -> None:
        self.function = function
        self.filter = filter_


class Request(NamedTuple):
    """What to record in one function, and from whose calls of it.

    `joined` names are recorded at their assignments and become part of the call that they belong to: the last value
    of each, and of the `gathered` ones among them a tuple of all. Each call of a function that `binder` knows becomes
    a call of its own, unless its names are gathered. `keep`, if given, replaces the `keep` of the capture. `on_call` is
    called with the owner of each call that counts, as it starts and as it returns; for `Role.PRESENCE`, only as it
    returns. `written` has the names that the user wrote instead of the function's own: in a class, `__x` is
    `_Class__x`. `caller`, if given, finds the owner of a call that starts in eager code. Arguments of a called function
    that were written in place are copied, and those named in `reused`, which many calls are given, once for all;
    so are `reused` names at returns. `edits` are by the function's own names.
    """

    match: Match
    spec: CaptureSpec
    joined: frozenset[str] = frozenset()
    gathered: frozenset[str] = frozenset()
    keep: Callable[[Any], Any] | None = None
    role: Role = Role.VALUES
    on_call: Callable[[Any], object] | None = None
    binder: Binder = no_kernel
    written: Mapping[str, str] = MappingProxyType({})
    caller: Callable[[], Any] | None = None
    edits: Mapping[str, tuple[EditOfLines, ...]] = MappingProxyType({})
    reused: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The names recorded at returns or at assignments, as the user wrote them."""
        return tuple(self.written.get(name, name) for name in (*self.spec.returned, *sorted(self.spec.assigned)))

    @property
    def call_kind(self) -> str:
        """The kind of record that makes a call."""
        return "returned" if self.joined or not self.spec.assigned | self.spec.given else "assigned"
