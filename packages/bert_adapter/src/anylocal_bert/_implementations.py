"""The functions behind `attn_implementation`: transformers' own, and those that users register."""

from __future__ import annotations

import itertools
import types
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from anylocal.adapter import functions_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch


_attributes_of: Final = attrgetter("__dict__")


def implementations(modules: Mapping[str, torch.nn.Module]) -> Iterator[tuple[str, str]]:
    """Yield the modules that say how attention is computed in them, by name, and how."""
    for name, module in modules.items():
        implementation = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if isinstance(implementation, str):
            yield name, implementation


def chosen_implementations(modules: Iterable[torch.nn.Module]) -> tuple[tuple[str, int], ...]:
    """Return how the configurations of modules say that attention is computed, and what is registered for that."""
    # At each opening of a scope, so with little of a loop.
    held = map(dict.get, map(_attributes_of, modules), itertools.repeat("config"))
    configs = {id(config): config for config in held if config is not None}
    chosen = (getattr(config, "_attn_implementation", None) for config in configs.values())
    return tuple((name, id(ALL_ATTENTION_FUNCTIONS.get(name))) for name in chosen if isinstance(name, str))


def functions_of(implementations: Iterable[str]) -> Iterator[types.FunctionType]:
    """Yield the functions of implementations, and those that they call, as far as they take the module."""
    registered = (ALL_ATTENTION_FUNCTIONS.get(name) for name in implementations)
    waiting = [function for value in registered for function in functions_in(value)]
    seen = set()
    while waiting:
        function = waiting.pop()
        if function in seen or function.__code__.co_varnames[:1] != ("module",):
            continue
        seen.add(function)
        yield function
        named = map(function.__globals__.get, function.__code__.co_names)
        waiting += [inner for value in named if isinstance(value, types.FunctionType) for inner in functions_in(value)]
