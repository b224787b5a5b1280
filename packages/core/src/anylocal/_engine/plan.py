"""One rewriting of one function, and the listeners that its calls of the recorder reach.

The name ``__anylocal__`` in the builtins stands for `recorder`, which has an attribute for each rewriting and kind of
record: rewritten code calls ``__anylocal__.returned_17(42, self, attn)``. A frame may still run a rewriting after its
function has its own code back, and so may a copy of the code (``code.replace``), at any time; then nothing listens.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from anylocal._engine.listeners import ignore, on_assignment, on_callee, on_edit, on_return, on_start, unchanged

if TYPE_CHECKING:
    import types

    from anylocal._engine.listeners import OnCallee, OnEdit
    from anylocal._engine.spec import CaptureSpec
    from anylocal._engine.subscription import Subscription


_SILENT: Final[dict[str, Callable[..., Any]]] = dict.fromkeys(
    ("entered", "returned", "assigned", "resulted"), ignore
) | dict.fromkeys(("edited", "called"), unchanged)
"""What listens where nothing does, by the kind of record."""


class Recorder:
    """The object that rewritten code calls methods of, one for each rewriting and kind of record.

    It can be called, because dynamo traces only callables and constants among the builtins.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return what listens to a rewriting that no capture needs any more: nothing."""
        kind, _, number = name.partition("_")
        if not number.isdecimal() or kind not in _SILENT:
            raise AttributeError(name=name, obj=self)
        return _SILENT[kind]

    def __call__(self) -> None:
        """Do nothing."""

    def __reduce__(self) -> str:
        """Pickle it by its name."""
        return "recorder"


recorder: Final = Recorder()

# By the identity of a function's own code, and what is asked of it: numbers of rewritings that are gone.
_free: Final[dict[int, dict[Any, list[int]]]] = {}


def free_numbers(own: types.CodeType, key: object) -> list[int]:
    """Return the numbers to be used again for a rewriting of a function's own code, each of which no frame runs.

    The names of methods live for ever from Python 3.12 on, as all names of code objects do, so each function has few.
    None goes to another function: a copy of a rewriting would record there what is not that function's.
    """
    kept = _free.get(id(own))
    if kept is None:
        kept = _free[id(own)] = {}
        weakref.finalize(own, _free.pop, id(own), None).atexit = False
    return kept.setdefault(key, [])


def _each(listeners: tuple[Callable[..., None], ...]) -> Callable[..., None]:
    if not listeners:
        return ignore

    def call_each(*arguments: Any) -> None:
        for listener in listeners:
            listener(*arguments)

    return listeners[0] if len(listeners) == 1 else call_each


def _chain(edits: tuple[OnEdit, ...]) -> OnEdit:
    if not edits:
        return unchanged

    def edit(line: int, name: str, owner: Any, value: Any) -> Any:
        for listener in edits:
            value = listener(line, name, owner, value)
        return value

    return edits[0] if len(edits) == 1 else edit


def _wrap(listeners: tuple[OnCallee, ...]) -> OnEdit:
    def wrapped(line: int, name: str, owner: Any, function: Any) -> Any:
        takers = [taker for listener in listeners if (taker := listener(line, name, owner, function)) is not None]
        if not takers:
            return function

        def recorded(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            for taker in takers:
                taker(args, kwargs)
            return result

        return recorded

    return wrapped if listeners else unchanged


_JOINS: Final[dict[str, Callable[[Any], Callable[..., Any]]]] = {"edited": _chain, "called": _wrap}


class Plan:
    """One rewriting of one function, by its number.

    A listener is replaced by another one, never changed, so that a running call sees one state or the other.
    """

    def __init__(self, number: int, spec: CaptureSpec) -> None:
        self.number = number
        self.spec = spec
        asked = {
            "assigned": spec.assigned | spec.given,
            "resulted": spec.resulted,
            "edited": spec.edited,
            "called": spec.called,
        }
        self._kinds = ("entered", "returned", *(kind for kind, names in asked.items() if names))

    def listen(self, subscriptions: list[Subscription]) -> None:
        """Call the subscriptions whose spec this rewriting covers, and no others; nothing without any."""
        covered = [s for s in subscriptions if self.spec.covers(s.spec)]
        place = {name: i for i, name in enumerate(self.spec.returned)}
        alone = len(place) == 1
        listeners_of: dict[str, list[Callable[..., Any]]] = {
            "entered": [on_start(s) for s in covered],
            "returned": [on_return(s, tuple(place[n] for n in s.spec.returned), alone=alone) for s in covered],
            "assigned": [on_assignment(s, names) for s in covered if (names := s.spec.assigned | s.spec.given)],
            "resulted": [on_assignment(s, keys) for s in covered if (keys := s.spec.keys)],
            "edited": [on_edit(s) for s in covered if s.spec.edited],
            "called": [on_callee(s) for s in covered if s.spec.called],
        }
        for kind in self._kinds:
            join: Callable[[Any], Callable[..., Any]] = _JOINS.get(kind, _each)
            setattr(recorder, f"{kind}_{self.number}", join(tuple(listeners_of[kind])))

    def fall_silent(self) -> None:
        """Forget the listeners; frames that still run the rewriting, and copies of it, are heard by nobody."""
        for kind in self._kinds:
            vars(recorder).pop(f"{kind}_{self.number}", None)
