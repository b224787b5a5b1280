"""Attention layers that ran and made no map, which a capture tells as it ends.

A call of a function whose map is known is followed by its records. Any other module that is called attention is only
noted as it returns, and then asked for a map made in itself or in a part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from anylocal._engine.sites import site
from anylocal._engine.spec import CaptureSpec, IdentityFilter, Match, Request, Role
from anylocal._readout.called_attention import (
    foreign_kernel,
    foreign_kernel_of,
    forwards_of,
    has_query,
    is_called_attention,
    is_class_called_attention,
    is_scripted_attention,
    why_mapless,
)
from anylocal._readout.kernels import OPERANDS
from anylocal._readout.multihead.functions import FAST, FORWARD, SLOW, WEIGHTS

if TYPE_CHECKING:
    import types
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from anylocal._engine.records import Record
    from anylocal._engine.resolve import Resolution
    from anylocal._readout.multihead.readings import MultiHead
    from anylocal._readout.reading import Reading

# How many layers a warning names.
_MOST: Final = 3
_OF_SLOW: Final = OPERANDS | {WEIGHTS}


class MaplessLayers(NamedTuple):
    """The layers that ran without a map, by name, and why: those with a query, which are missed, and gates."""

    missed: dict[str, str]
    gates: dict[str, str]


class Watched(NamedTuple):
    """What shows that a module called attention has run: a call of a function, or that TorchScript compiled it."""

    matches: tuple[Match, ...]
    scripted: frozenset[str]


class Mapless:
    """Finds the layers of a capture that ran without a map."""

    def __init__(
        self,
        modules: Mapping[str, Any],
        watched: Watched,
        readings: Mapping[types.FunctionType, Reading],
        multihead: MultiHead,
        zoo: str,
    ) -> None:
        self._modules = modules
        self._map_names = {
            function: OPERANDS if reading.weights is None else OPERANDS | {reading.weights.key}
            for function, reading in readings.items()
        }
        self._callers = set(multihead.functions)
        self._left_to_others = {FORWARD, *multihead.layers}
        self._zoo = zoo
        self._watched = watched
        self._ran: set[int] = set()
        self._made: set[int] = set()
        self._bare: dict[str, str] = {}
        self._open: list[_Frame] = []

    def requests(self) -> Iterator[Request]:
        """Yield what notes that modules called attention return."""
        ran = self._ran

        def note(owner: object) -> None:
            ran.add(id(owner))

        for match in self._watched.matches:
            yield Request(match, CaptureSpec(), role=Role.PRESENCE, on_call=note)

    def read(self, records: Iterable[Record]) -> None:
        """Note which modules made maps, and which calls of attention functions made none."""
        for record in records:
            if self._makes_map(record):
                self._made.add(id(record.module))
                for frame in self._around(record):
                    self._made.add(id(frame.module))
                    frame.made.append(record)
            elif self._is_boundary(record):
                if record.kind == "entered":
                    self._open.append(_Frame(record.request.match.function, record.module, record.thread, [], {}))
                elif record.kind == "returned":
                    self._leave(record)

    def forget_what_ran(self) -> None:
        """Forget which modules returned, where the maps that they made were not all recorded."""
        self._ran.clear()

    def layers(self, known: Collection[str]) -> MaplessLayers:
        """Return the layers that ran without a map, without `known` ones and any around or inside another one."""
        missed = {name: why for name, why in self._bare.items() if name not in known}
        gates: dict[str, str] = {}
        scripted = self._watched.scripted
        # Nothing to look for, in most models.
        if not (missed or scripted or self._ran):
            return MaplessLayers({}, {})
        ran = [(name, module) for name, module in self._modules.items() if id(module) in self._ran or name in scripted]
        # In the reverse order of their names, parts come before what they are parts of.
        for name, module in reversed(ran):
            parts = f"{name}." if name else ""
            if any(id(part) in self._made for part in module.modules()):
                continue
            around = [name[:place] for place, letter in enumerate(name) if letter == "."]
            if not {name, *around}.isdisjoint(known) or any(n.startswith(parts) for n in (*missed, *gates, *known)):
                continue
            if name in scripted or has_query(module) or foreign_kernel_of(module):
                missed[name] = why_mapless(module, self._zoo)
            elif is_class_called_attention(module) and not any(id(self._modules[n]) in self._made for n in around):
                gates[name] = why_mapless(module, self._zoo)
        if not missed and not gates:
            return MaplessLayers({}, {})
        order = {name: place for place, name in enumerate(self._modules)}
        return MaplessLayers(*(dict(sorted(d.items(), key=lambda d: order.get(d[0], -1))) for d in (missed, gates)))

    def _makes_map(self, record: Record) -> bool:
        function, role = record.request.match.function, record.request.role
        if role is Role.COMPILED_VALUES or function is FAST:
            return record.kind == "returned"
        names = _OF_SLOW if function is SLOW else self._map_names.get(function, frozenset())
        return record.kind in {"assigned", "called"} and not names.isdisjoint(record.names)

    def _is_boundary(self, record: Record) -> bool:
        function, role = record.request.match.function, record.request.role
        return function in (self._callers if role is Role.BOUNDARIES else self._map_names)

    def _around(self, record: Record) -> list[_Frame]:
        # The thread in which compiled code ran is unknown.
        return [frame for frame in self._open if frame.thread == record.thread or None in {frame.thread, record.thread}]

    def _leave(self, record: Record) -> None:
        function = record.request.match.function
        around = self._around(record)
        places = [n for n, f in enumerate(around) if f.function is function and f.module is record.module]
        if not places:
            return
        own, outer = around[places[-1]], around[: places[-1]]
        # Frames above it raised, and never end.
        gone = {id(frame) for frame in around[places[-1] :]}
        self._open = [frame for frame in self._open if id(frame) not in gone]
        if own.made:
            return
        bare = own.bare
        # Torch's own module raises where it cannot be read, and a whole layer leaves it to that.
        if not bare and function not in self._left_to_others:
            names = (name for name, module in self._modules.items() if module is own.module)
            bare = {next(names, function.__qualname__): _why_bare(function, record.line)}
        if outer and outer[-1].module is own.module:
            # It may still make the map itself.
            outer[-1].bare.update(bare)
        elif bare:
            self._bare.update(bare)
            for frame in outer:
                frame.made.append(record)


class _Frame(NamedTuple):
    """A call that has started: what was made or told in it, and its layers that may have to be told."""

    function: Any
    module: Any
    thread: int | None
    made: list[Record]
    bare: dict[str, str]


def _why_bare(function: types.FunctionType, line: int) -> str:
    kernel = foreign_kernel(function)
    more = f", as where it runs {kernel}" if kernel else ""
    return f"{function.__qualname__} returned at line {line} without a map that can be read{more}"


def watched(chosen: Resolution, known: set[types.FunctionType]) -> Watched:
    """Return what shows that a module called attention has run."""
    found: dict[types.FunctionType, list[object]] = {}
    matched = {match.function for match in chosen.matches} - known
    for match in chosen.matches:
        if match.function in matched and foreign_kernel(match.function):
            names = site(match, (), chosen.modules).modules
            found[match.function] = [chosen.modules[name] for name in names]
    for name, module in chosen.modules.items():
        if is_called_attention(name, module):
            for function in matched.intersection(forwards_of(module)):
                found.setdefault(function, []).append(module)
    scripted = {name for name, module in chosen.modules.items() if is_scripted_attention(module)}
    return Watched(tuple(Match(f, IdentityFilter(modules)) for f, modules in found.items()), frozenset(scripted))


def told_message(layers: Mapping[str, str]) -> str:
    """Return a warning of layers without a map."""
    how = next(iter(layers.values()))
    names = [repr(name) for name, why in layers.items() if why == how]
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return (
        f"No attention map for {', '.join(names[:_MOST])}{more}: {how}. See .unsupported for all such layers, and let"
        " them run scaled_dot_product_attention or assign their softmax to a variable, or capture others by name."
    )
