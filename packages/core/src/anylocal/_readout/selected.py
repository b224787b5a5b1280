"""What is recorded of a model's attention, kept as long as the model and the functions are the same."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anylocal._engine.functions import functions_in, takes_owner
from anylocal._engine.patch import own_code
from anylocal._engine.resolve import Resolution
from anylocal._engine.spec import CaptureSpec, IdentityFilter, Match, Request, Role
from anylocal._readout.borrowed import Borrowed
from anylocal._readout.kernels import MASKS, binder
from anylocal._readout.mapless import Watched, watched
from anylocal._readout.multihead.readings import MultiHead
from anylocal._readout.selection import (
    Overlooked,
    no_map_message,
    overlooked_functions,
    readings_of,
    with_late_functions,
    with_shared_functions,
)
from anylocal.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from anylocal._readout.context import AttentionSource
    from anylocal._readout.reading import Reading


@dataclass(frozen=True)
class Selected:
    """What is recorded of a model's attention. It holds no module, since it is kept with what is known of the model.

    `requests` come before those that each capture has of its own, and `boundaries` after them.
    """

    adapter: AttentionSource
    borrowed: Borrowed
    readings: Mapping[types.FunctionType, Reading]
    multihead: MultiHead
    unsupported: Mapping[str, str]
    overlooked: tuple[Overlooked, ...]
    watched: Watched
    root: types.FunctionType | None
    around_root: frozenset[types.FunctionType]
    requests: tuple[Request, ...]
    boundaries: tuple[Request, ...]
    codes: tuple[types.CodeType, ...]

    def is_current(self) -> bool:
        """Return whether the functions, which need not be the model's own, have the code that they were chosen by."""
        return all(own_code(r.match.function) is code for r, code in zip(self.requests, self.codes, strict=True))


def select(adapter: AttentionSource, model: torch.nn.Module, resolution: Resolution, chosen: Resolution) -> Selected:
    """Return what is recorded of a model, and of its chosen modules.

    Raises
    ------
    TargetError
        If the model computes no attention map.
    UnsupportedError
        If it computes one in a way that cannot be read exactly.
    """
    # What is kept has the adapter, so that no other one gets its identity.
    key = "attention", id(adapter), adapter.conditions(model, chosen.modules)
    found = chosen.derive(key, lambda: _selected(adapter, model, resolution, chosen))
    if found.is_current():
        return found
    chosen.derived.pop(key, None)
    return chosen.derive(key, lambda: _selected(adapter, model, resolution, chosen))


def _selected(adapter: AttentionSource, model: torch.nn.Module, resolution: Resolution, chosen: Resolution) -> Selected:
    adapter.check_modules(model, chosen.modules)
    chosen = with_late_functions(
        with_shared_functions(chosen, adapter.shared_functions(model)), adapter.late_functions(model)
    )
    borrowed = Borrowed(resolution, chosen, adapter)
    readings = readings_of(chosen, adapter) | borrowed.readings
    multihead = MultiHead(resolution, chosen)
    unsupported = {name: why for name, why in adapter.unsupported(model).items() if name in chosen.modules}
    if not readings and not multihead.functions:
        raise TargetError(no_map_message(chosen, unsupported))
    known = {*readings, *multihead.functions}
    overlooked = overlooked_functions(chosen, known, unsupported)
    root, around_root = _root(model), frozenset(adapter.around_forward(model))
    # Before what they record, for they tell whose it is.
    requests = [*borrowed.requests(), *_of_readings(adapter, _mapped(chosen, unsupported), borrowed, readings)]
    filters = {found.function: found.filter for found in resolution.matches}
    for function, names, arguments, kept in adapter.observations(model):
        # An attention function has hints instead; torch's have requests of their own.
        if function not in readings and not multihead.owns(function):
            spec = CaptureSpec(names, given=frozenset(arguments))
            requests.append(Request(Match(function, filters.get(function)), spec, keep=kept))
    requests += [Request(layer.match, CaptureSpec(), role=Role.PRESENCE) for layer in overlooked]
    is_model = IdentityFilter([model])
    ends = () if root is None or root in {*known, *borrowed.around_module(model)} else (root, *around_root)
    return Selected(
        adapter,
        borrowed,
        readings,
        multihead,
        unsupported,
        overlooked,
        watched(chosen, known),
        None if root in readings else root,
        around_root,
        tuple(requests),
        tuple(Request(Match(function, is_model), CaptureSpec(), role=Role.BOUNDARIES) for function in ends),
        tuple(own_code(request.match.function) for request in requests),
    )


def _root(model: torch.nn.Module) -> types.FunctionType | None:
    """Return the model's own forward, which tells forward passes apart."""
    forward = type(model).forward
    # A decorator may take the model among any arguments.
    candidates = (forward, *functions_in(forward))
    return next((f for f in candidates if isinstance(f, types.FunctionType) and takes_owner(f)), None)


def _mapped(chosen: Resolution, unsupported: Mapping[str, str]) -> Resolution:
    """Return a resolution without the layers that have no map, which may call a kernel for something else."""
    if not unsupported:
        return chosen
    among = IdentityFilter(module for name, module in chosen.modules.items() if name not in unsupported)
    matches = [Match(m.function, among) if isinstance(m.filter, IdentityFilter) else m for m in chosen.matches]
    return Resolution(chosen.label, tuple(matches), chosen.modules)


def _of_readings(
    adapter: AttentionSource, chosen: Resolution, borrowed: Borrowed, readings: Mapping[types.FunctionType, Reading]
) -> Iterator[Request]:
    matches = {found.function: found for found in chosen.matches}
    matches |= {function: Match(function) for function in borrowed.readings}
    for function, reading in readings.items():
        spec, joined = adapter.recorded(function, reading)
        caller = borrowed.caller if function in borrowed.readings else None
        recorded = matches[function], spec, joined, reading.gathered
        yield Request(*recorded, binder=binder, caller=caller, reused=MASKS | {*spec.returned})
