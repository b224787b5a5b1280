"""Which functions of a model make attention maps, and which seem to and cannot be read."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch

from anylocal._engine.resolve import Resolution
from anylocal._engine.sites import site
from anylocal._engine.spec import IdentityFilter, Match
from anylocal._readout.softmax import reading_of, why_overlooked

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable, Mapping

    from anylocal._readout.context import AttentionSource
    from anylocal._readout.reading import Reading


class Overlooked(NamedTuple):
    """A function that seems to make maps which cannot be read: the names of its modules, and how it makes them."""

    match: Match
    names: tuple[str, ...]
    how: str


def with_shared_functions(resolution: Resolution, functions: Iterable[types.FunctionType]) -> Resolution:
    """Add functions of the zoo that work for any module, which the model looks up as it runs."""
    new = _not_among(resolution, functions)
    if not new:
        return resolution
    among = IdentityFilter(resolution.modules.values())
    shared = tuple(Match(function, among) for function in new)
    return Resolution(resolution.label, resolution.matches + shared, resolution.modules)


def with_late_functions(resolution: Resolution, functions: Iterable[types.FunctionType]) -> Resolution:
    """Add functions of modules that the model makes as it runs, of its own parts."""
    new = _not_among(resolution, functions)
    if not new:
        return resolution
    parts = IdentityFilter(
        part
        for module in resolution.modules.values()
        if isinstance(module, torch.nn.Module)
        for part in module.children()
    )

    def has_parts(owner: object) -> bool:
        """Return whether a module is made of the model's own parts; those of another model are not."""
        return isinstance(owner, torch.nn.Module) and any(map(parts, owner.children()))

    late = tuple(Match(function, has_parts) for function in new)
    return Resolution(resolution.label, resolution.matches + late, resolution.modules)


def _not_among(resolution: Resolution, functions: Iterable[types.FunctionType]) -> list[types.FunctionType]:
    known = {found.function for found in resolution.matches}
    return [function for function in functions if function not in known]


def readings_of(resolution: Resolution, adapter: AttentionSource) -> dict[types.FunctionType, Reading]:
    functions = [found.function for found in resolution.matches if found.filter is not None]
    readings = {function: adapter.reading(function) for function in functions}
    return {function: reading for function, reading in readings.items() if reading is not None}


def overlooked_functions(
    chosen: Resolution, known: set[types.FunctionType], unsupported: Mapping[str, str]
) -> tuple[Overlooked, ...]:
    """Return the functions that seem to make maps which cannot be read, of modules that have no other one."""
    overlooked = [
        (found, how) for found in chosen.matches if found.function not in known and (how := _how_overlooked(found))
    ]
    if not overlooked:
        return ()
    readable = (site(found, (), chosen.modules).modules for found in chosen.matches if found.function in known)
    have = {*unsupported, *itertools.chain.from_iterable(readable)}
    missed = []
    for found, how in overlooked:
        modules = site(found, (), chosen.modules).modules
        # A function that takes no module goes by its own name.
        names = tuple(name for name in modules or (found.function.__qualname__,) if name not in have)
        if names:
            missed.append(Overlooked(found, names, how))
    return tuple(missed)


def _how_overlooked(found: Match) -> str | None:
    if found.filter is None and reading_of(found.function) is not None:
        return "a function makes it which does not take the module, so that the layer of the map is unknown"
    return why_overlooked(found.function)


def not_a_model_message(given: object) -> str:
    inside = next((name for name in ("model", "module") if isinstance(getattr(given, name, None), torch.nn.Module)), "")
    if isinstance(given, type):
        what, cure = f"The class {given.__qualname__}", "Build the model first."
    elif isinstance(getattr(given, "__self__", None), torch.nn.Module):
        what, cure = f"A method ({getattr(given, '__qualname__', given)})", "Give the model that it belongs to."
    else:
        what, cure = f"A {type(given).__qualname__}", f"Give its .{inside}." if inside else "Give one."
    return f"{what} is not an nn.Module, whose attention maps could be captured. {cure}"


def no_map_message(resolution: Resolution, unsupported: Mapping[str, str]) -> str:
    kinds = sorted({type(module).__qualname__ for module in resolution.modules.values()})
    listed = ", ".join(kinds[:12]) + (f", … ({len(kinds) - 12} more)" if len(kinds) > 12 else "")  # noqa: PLR2004  # the number listed
    instead: dict[str, list[str]] = {}
    for name, what in unsupported.items():
        instead.setdefault(what, []).append(name)
    has = "".join(f" It has {what} ({len(names)}, such as {names[0]!r})." for what, names in instead.items())
    return (
        f"{resolution.label} computes no attention map that could be captured: none of its modules is an"
        f" nn.MultiheadAttention, calls scaled_dot_product_attention, or assigns a softmax of q and k.{has} It consists"
        f" of: {listed}."
    )
