"""Attention functions that do not take the module: plain functions, and objects that a module calls for it.

Their calls belong to the module whose own function has started and not ended. Only modules that are called attention
have such functions: elsewhere, the layer of a map would be a guess.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from anylocal._engine.functions import functions_in
from anylocal._engine.patch import own_code
from anylocal._engine.sites import site
from anylocal._engine.spec import CaptureSpec, IdentityFilter, Match, Request, Role
from anylocal._readout.called_attention import forwards_of, helpers_of, is_called_attention
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

    from anylocal._engine.records import Record
    from anylocal._engine.resolve import Resolution
    from anylocal._readout.context import AttentionSource
    from anylocal._readout.reading import Reading


class Borrowed:
    """The functions of a model that work for the modules around them.

    `readings` are theirs; `around` are the functions of modules in which they are called, each with a filter of these.
    """

    def __init__(self, resolution: Resolution, chosen: Resolution, adapter: AttentionSource) -> None:
        self.readings: dict[types.FunctionType, Reading] = {}
        around: dict[types.FunctionType, list[object]] = {}
        wanted = {id(module) for module in chosen.modules.values()}
        for function, users in (*_plain(resolution), *_of_helpers(resolution)):
            ours = {user: [m for m in modules if id(m) in wanted] for user, modules in users.items()}
            reading = _reading(adapter, function) if any(ours.values()) else None
            if reading is not None:
                self.readings[function] = reading
                for user, modules in ours.items():
                    around.setdefault(user, []).extend(modules)
        self.around = {user: IdentityFilter(modules) for user, modules in around.items()}

    def around_module(self, module: object) -> set[types.FunctionType]:
        """Return the functions of a module in which others are called for it."""
        return {user for user, is_user in self.around.items() if is_user(module)}

    def caller(self) -> object:
        """Return the module for which a borrowed function is called now; None if it is not of the captured ones."""
        codes = {_place(user.__code__): is_user for user, is_user in self.around.items()}
        frame: types.FrameType | None = sys._getframe(1)  # noqa: SLF001  # `inspect` reads files
        while frame is not None:
            code = frame.f_code
            if (is_user := codes.get(_place(code))) is not None:
                owner = frame.f_locals.get(code.co_varnames[0])
                return owner if is_user(owner) else None
            frame = frame.f_back
        return None

    def requests(self) -> Iterator[Request]:
        """Yield what records where the functions around them start and end."""
        for function, is_user in self.around.items():
            yield Request(Match(function, is_user), CaptureSpec(), role=Role.BOUNDARIES)


class Owners:
    """Finds the module of each call of a borrowed function, in the order of the records."""

    def __init__(self, borrowed: Borrowed) -> None:
        self._borrowed = borrowed
        self._open: list[_Frame] = []
        # Of eager calls that have not returned: a call that raised around them leaves no trace among the records.
        self._owner: dict[tuple[int, int | None, int | None], Any] = {}

    def of(self, record: Record) -> Record | None:
        """Return a record with the module that it belongs to; None where that is none of the captured ones."""
        function = record.request.match.function
        if function in self._borrowed.readings and record.thread is not None:
            key = id(record.request), record.thread, record.frame
            if record.kind == "entered":
                self._owner[key] = record.module
            module = self._owner.pop(key, None) if record.kind == "returned" else self._owner.get(key)
            return None if module is None else record._replace(module=module)
        if function in self._borrowed.readings:
            frame = next((frame for frame in reversed(self._open) if frame.may_be_around(record)), None)
            return None if frame is None else record._replace(module=frame.module)
        if function in self._borrowed.around and record.request.role is Role.BOUNDARIES:
            if record.kind == "entered":
                self._open.append(_Frame(function, record.module, record.thread))
            else:
                self._leave(function, record)
        return record

    def _leave(self, function: types.FunctionType, record: Record) -> None:
        for place in reversed(range(len(self._open))):
            frame = self._open[place]
            if frame.function is function and frame.module is record.module and frame.may_be_around(record):
                # Those above it in the same thread raised, and never end.
                self._open[place:] = [other for other in self._open[place + 1 :] if not other.may_be_around(record)]
                return


class _Frame(NamedTuple):
    """A call that has started."""

    function: Any
    module: Any
    thread: int | None

    def may_be_around(self, record: Record) -> bool:
        # The thread in which compiled code ran is unknown.
        return record.thread == self.thread or None in {record.thread, self.thread}


def _place(code: types.CodeType) -> tuple[str, int, str]:
    """Return what a rewriting of a function's code has in common with it."""
    return code.co_filename, code.co_firstlineno, code.co_name


def _plain(resolution: Resolution) -> Iterator[tuple[types.FunctionType, dict[types.FunctionType, list[object]]]]:
    """Yield the plain functions that methods of modules called attention name, and nothing else does."""
    plain = {match.function for match in resolution.matches if match.filter is None}
    users: dict[types.FunctionType, list[Match]] = {}
    for match in resolution.matches if plain else ():
        for name in own_code(match.function).co_names:
            for named in functions_in(match.function.__globals__.get(name)):
                if named in plain:
                    users.setdefault(named, []).append(match)
    for function, matches in users.items():
        found = {m.function: site(m, (), resolution.modules).modules for m in matches}
        if all(names and all(is_called_attention(n, resolution.modules[n]) for n in names) for names in found.values()):
            yield function, {user: [resolution.modules[name] for name in names] for user, names in found.items()}


def _of_helpers(resolution: Resolution) -> Iterator[tuple[types.FunctionType, dict[types.FunctionType, list[object]]]]:
    """Yield what objects do that modules called attention hold and call."""
    matched = {match.function for match in resolution.matches}
    found: dict[types.FunctionType, dict[types.FunctionType, list[object]]] = {}
    for name, module in resolution.modules.items():
        for helper in helpers_of(module) if is_called_attention(name, module) else ():
            for function in functions_in(getattr(helper, "__call__")):  # noqa: B004, B009  # of the class, not the object
                for user in matched.intersection(forwards_of(module)):
                    found.setdefault(function, {}).setdefault(user, []).append(module)
    yield from found.items()


def _reading(adapter: AttentionSource, function: types.FunctionType) -> Reading | None:
    try:
        return adapter.reading(function)
    except UnsupportedError:
        return None
