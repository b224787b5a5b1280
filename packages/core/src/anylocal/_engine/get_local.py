"""The decorator of the seed tools and its cache, written on capture."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar

from anylocal._engine import patch, tensors
from anylocal._engine.calls import Assembler, Call
from anylocal._engine.functions import functions_in, local_names
from anylocal._engine.keep import keeper
from anylocal._engine.lock import completely, lock
from anylocal._engine.records import Log
from anylocal._engine.sites import check_options
from anylocal._engine.spec import Binder, CaptureSpec, Match, Request, no_kernel
from anylocal._engine.subscription import Subscription
from anylocal.errors import NameNotFoundError, TargetError

if TYPE_CHECKING:
    import types

F = TypeVar("F")


class Mark(NamedTuple):
    """What to capture in a marked function.

    Parameters
    ----------
    qualname : str
        Its name in the cache.
    names : tuple of str
        The names in the cache.
    spec : CaptureSpec
        The names to record.
    joined, gathered : frozenset of str
        Names recorded at their assignments, which become part of their call; see `Request`.
    read : callable, optional
        Makes the values for `names` from a call; None takes them as they are.
    keep : str
        How a value is recorded, as in `capture`.
    binder : callable
        What binds the arguments of the functions called; see `Request`.
    reused : frozenset of str
        Those of the arguments that many calls are given; see `Request`.
    """

    qualname: str
    names: tuple[str, ...]
    spec: CaptureSpec
    joined: frozenset[str] = frozenset()
    gathered: frozenset[str] = frozenset()
    read: Callable[[Call], Mapping[str, Any]] | None = None
    keep: str = "cpu"
    binder: Binder = no_kernel
    reused: frozenset[str] = frozenset()

    def key(self, name: str) -> str:
        """Return the cache's key for a name: short where the function has only one."""
        return self.qualname if len(self.names) == 1 else f"{self.qualname}.{name}"


# Weak, because a marked function may be one of thousands of closures.
_marks: Final[weakref.WeakKeyDictionary[types.FunctionType, Mark]] = weakref.WeakKeyDictionary()
_active: Final[dict[types.FunctionType, tuple[Subscription, Mark]]] = {}


class Cache(Mapping[str, list[Any]]):
    """The values of the marked functions' variables: a list in call order for each ``Class.method``.

    Tensors are detached NumPy arrays on the CPU (bfloat16 as float32), anything else is as it is. A function marked
    with several names has one key ``Class.method.name`` for each; that longer key finds a single name too.
    """

    def __init__(self) -> None:
        self._log = Log("auto")
        self._lists: dict[str, list[Any]] = {}
        # By the id of each function that is captured.
        self._of: dict[int, Mark] = {}
        self._long_keys: dict[str, str] = {}
        self._assembler = Assembler({})

    def _drain(self) -> dict[str, list[Any]]:
        """Add the new calls to the lists."""
        with lock:
            for call in self._assembler.calls(self._log.take_out()):
                mark = self._of[id(call.function)]
                values = call.values if mark.read is None else mark.read(call)
                for name in mark.names:
                    if name in values:
                        self._lists.setdefault(mark.key(name), []).append(tensors.to_numpy(values[name]))
            self._forget_inactive()
        return self._lists

    def _forget_inactive(self) -> None:
        """Forget the marks of functions that are not captured any more, once nothing of them is left to read."""
        if not self._log.raw:
            active = {id(function) for function in _active}
            for key in [key for key in self._of if key not in active]:
                del self._of[key]

    def __getitem__(self, key: str) -> list[Any]:
        """Return the values of a key.

        Raises
        ------
        NameNotFoundError
            If no function marked and activated has that key; a `KeyError` as well.
        """
        lists = self._drain()
        key = self._long_keys.get(key, key)
        if key in lists:
            return lists[key]
        hint = "" if lists else "No marked function has been activated yet: get_local.activate()."
        raise NameNotFoundError(key, "get_local.cache", lists, hint, kind="key")

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys."""
        return iter(tuple(self._drain()))

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._drain())

    def __repr__(self) -> str:
        """Return the number of values under each key."""
        return f"{{{', '.join(f'{key!r}: {len(values)} values' for key, values in self._drain().items())}}}"

    def _clear(self) -> None:
        with lock:
            self._log.clear()
            self._forget_inactive()
            for values in self._lists.values():
                values.clear()

    def _subscribe(self, function: types.FunctionType, mark: Mark) -> None:
        if function in _active:
            return
        match = Match(function)
        request = Request(match, mark.spec, mark.joined, mark.gathered, binder=mark.binder, reused=mark.reused)
        subscription = Subscription(request, self._log, keep=keeper(mark.keep))
        self._of[id(function)] = mark
        for name in mark.names:
            self._lists.setdefault(mark.key(name), [])
            if len(mark.names) == 1:
                self._long_keys[f"{mark.qualname}.{name}"] = mark.qualname
        # First, so that whatever cuts this short can be undone.
        _active[function] = subscription, mark
        patch.attach([subscription])

    def _unsubscribe(self, function: types.FunctionType) -> None:
        if function in _active:
            patch.detach([_active[function][0]])
            _active.pop(function, None)
            self._forget_inactive()


class get_local:  # noqa: N801  # the seed tools' name for it
    """Mark a function, so that the values of its local variables can be found in a cache.

    A marked function is untouched until `activate` is called, which may happen before or after it is defined, imported
    or used.

    Parameters
    ----------
    *names : str
        The local variables.

    Raises
    ------
    NameNotFoundError
        If the function does not bind a name.
    TargetError
        If the marked object holds no Python function.

    Attributes
    ----------
    cache : Cache
        The values: a mapping from ``Class.method`` to a list in call order. With several names the keys are
        ``Class.method.name``.
    is_activate : bool
        Whether marked functions are being captured.

    Examples
    --------
    >>> @get_local("total")
    ... def mean(values):
    ...     total = sum(values)
    ...     return total / len(values)
    >>> with get_local.active():
    ...     mean([1, 2, 3])
    2.0
    >>> get_local.cache["mean"]
    [6]
    >>> get_local.clear()
    """

    cache: ClassVar[Cache] = Cache()
    is_activate: ClassVar[bool] = False

    def __init__(self, *names: str) -> None:
        check_options(names, "cpu", None, "all")
        self.names = names

    def __call__(self, function: F) -> F:
        """Mark `function` and return it, the very same object."""
        candidates = list(functions_in(function))
        if not candidates:
            msg = f"get_local marks Python functions, and {function!r} holds none."
            raise TargetError(msg)
        # Of a decorated function, the innermost one that has the names.
        for candidate in candidates:
            if set(self.names) <= set(local_names(candidate)):
                mark(candidate, Mark(candidate.__qualname__, self.names, CaptureSpec(self.names)))
                return function
        available = local_names(candidates[0])
        missing = next((name for name in self.names if name not in available), self.names[0])
        raise NameNotFoundError(missing, candidates[0].__qualname__, available)

    @classmethod
    def activate(cls) -> None:
        """Capture the marked functions from now on, those marked later too."""
        with lock:
            try:
                cls.is_activate = True
                cls.cache._log.open = True  # noqa: SLF001  # its own cache
                cls.cache._log.active = not cls.cache._log.full  # noqa: SLF001  # its own cache
                for function, function_mark in tuple(_marks.items()):
                    cls.cache._subscribe(function, function_mark)  # noqa: SLF001  # its own cache
            except BaseException:
                cls.deactivate()
                raise

    @classmethod
    def deactivate(cls) -> None:
        """Give the marked functions their own code back; what is in the cache stays."""
        with lock:
            completely(cls._stop)

    @classmethod
    def _stop(cls) -> None:
        cls.is_activate = False
        cls.cache._log.open = cls.cache._log.active = False  # noqa: SLF001  # its own cache
        for function in tuple(_active):
            cls.cache._unsubscribe(function)  # noqa: SLF001  # its own cache

    @classmethod
    @contextmanager
    def active(cls) -> Iterator[Cache]:
        """Capture the marked functions inside a `with` block; if they already are, change nothing."""
        was_active = cls.is_activate
        try:
            cls.activate()
            yield cls.cache
        finally:
            if not was_active:
                cls.deactivate()

    @classmethod
    def clear(cls) -> None:
        """Empty all lists of the cache."""
        cls.cache._clear()  # noqa: SLF001  # its own cache


def mark(function: types.FunctionType, function_mark: Mark) -> None:
    """Mark a function, and capture it if `get_local` is active; marked again, it has the names of both."""
    with lock:
        known = _marks.get(function)
        if known is not None and known.read is None and function_mark.read is None:
            names = tuple(dict.fromkeys((*known.names, *function_mark.names)))
            function_mark = Mark(known.qualname, names, CaptureSpec(names))
        _marks[function] = function_mark
        if get_local.is_activate:
            get_local.cache._unsubscribe(function)  # noqa: SLF001  # its own cache
            get_local.cache._subscribe(function, function_mark)  # noqa: SLF001  # its own cache


def unmark(function: types.FunctionType) -> None:
    """Take the mark off a function, which has its own code back at once."""
    with lock:
        _marks.pop(function, None)
        get_local.cache._unsubscribe(function)  # noqa: SLF001  # its own cache
