"""One rewriting of one function, and the listeners that its calls of the recorder reach.

The name ``__anylocal__`` in the builtins stands for `recorder`. It has an attribute for each rewriting and kind of
record, and for each name recorded as it is assigned: rewritten code calls ``__anylocal__.returned_17(42, self, attn)``
and ``__anylocal__.assigned_17_attn(41, self, attn)``. A frame may still run a rewriting after its function has its own
code back, and so may a copy of the code (``code.replace``), at any time; then nothing listens.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from anylocal._engine.listeners import (
    ignore,
    on_assignment,
    on_callee,
    on_edit,
    on_raise,
    on_return,
    on_start,
    unchanged,
)

if TYPE_CHECKING:
    import types

    from anylocal._engine.listeners import OnCallee, OnEdit
    from anylocal._engine.spec import CaptureSpec
    from anylocal._engine.subscription import Subscription


_SILENT: Final[dict[str, Callable[..., Any]]] = dict.fromkeys(
    ("entered", "raised", "returned", "assigned", "resulted"), ignore
) | dict.fromkeys(("edited", "called"), unchanged)
"""What listens where nothing does, by the kind of record."""


class Recorder:
    """The object that rewritten code calls methods of, one for each rewriting and kind of record.

    It can be called, because dynamo traces only callables and constants among the builtins.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return what listens to a rewriting that no capture needs any more: nothing."""
        kind, _, rest = name.partition("_")
        number, _, _ = rest.partition("_")
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


def _each(listeners: list[Callable[..., None]]) -> Callable[..., None]:
    if not listeners:
        return ignore

    def call_each(*arguments: Any) -> None:
        for listener in listeners:
            listener(*arguments)

    return listeners[0] if len(listeners) == 1 else call_each


def _chain(edits: list[OnEdit]) -> OnEdit:
    if not edits:
        return unchanged

    def edit(line: int, name: str, owner: Any, value: Any) -> Any:
        for listener in edits:
            value = listener(line, name, owner, value)
        return value

    return edits[0] if len(edits) == 1 else edit


def _wrap(listeners: list[OnCallee]) -> OnEdit:
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


class Plan:
    """One rewriting of one function, by its number.

    A listener is replaced by another one, never changed, so that a running call sees one state or the other.
    """

    def __init__(self, number: int, spec: CaptureSpec, *, starts: bool) -> None:
        self.number = number
        self.spec = spec
        self._starts = starts
        # Those that were set, to be forgotten.
        self._attributes: set[str] = set()

    def listen(self, subscriptions: list[Subscription]) -> None:
        """Call the subscriptions that this rewriting serves, and no others; nothing without any."""
        served = [s for s in subscriptions if self.spec.covers(s.spec) and (self._starts or not s.hears_starts)]
        place = {name: i for i, name in enumerate(self.spec.returned)}
        alone, starts = len(place) == 1, self._starts
        self._set("entered" if starts else "raised", _each([on_start(s) if starts else on_raise(s) for s in served]))
        places = [tuple(place[name] for name in s.spec.returned) for s in served]
        returns = [on_return(s, at, alone=alone, starts=starts) for s, at in zip(served, places, strict=True)]
        self._set("returned", _each(returns))
        for name in self.spec.assigned | self.spec.given:
            takers = [on_assignment(s, name) for s in served if name in s.spec.assigned | s.spec.given]
            self._set("assigned", _each(takers), name)
        for place_of_key, key in enumerate(self.spec.keys):
            takers = [on_assignment(s, key) for s in served if key in s.spec.keys]
            self._set("resulted", _each(takers), str(place_of_key))
        if self.spec.edited:
            self._set("edited", _chain([on_edit(s) for s in served if s.spec.edited]))
        if self.spec.called:
            self._set("called", _wrap([on_callee(s) for s in served if s.spec.called]))

    def _set(self, kind: str, listener: Callable[..., Any], name: str = "") -> None:
        attribute = f"{kind}_{self.number}_{name}" if name else f"{kind}_{self.number}"
        self._attributes.add(attribute)
        setattr(recorder, attribute, listener)

    def is_called_by(self, code: types.CodeType) -> bool:
        """Return whether code calls the recorder under this number, as a copy of the rewriting does."""
        return not self._attributes.isdisjoint(code.co_names)

    def fall_silent(self) -> None:
        """Forget the listeners; frames that still run the rewriting, and copies of it, are heard by nobody."""
        for attribute in self._attributes:
            vars(recorder).pop(attribute, None)
