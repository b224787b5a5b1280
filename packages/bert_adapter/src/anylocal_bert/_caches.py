"""Which tokens the keys of a cache are: known where it was seen to grow from nothing, else nobody's guess.

That the keys are as many as those of some text does not tell that they are that text's. Two things do: that the cache
is the very object that an earlier forward filled, and what `generate` itself says of the text that it goes on with.
"""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import torch
from transformers.cache_utils import Cache, EncoderDecoderCache

from anylocal.adapter import Observation, functions_in
from anylocal_bert._sources import is_cross

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

    from anylocal import Call
    from anylocal.adapter import InputContext

CACHE: Final = "self"
"""The local that holds a cache in its own methods, and a model in its."""
ORDER: Final = "beam_idx"
"""What puts the texts of a cache in another order."""
WHOLE: Final = "input_ids"
"""What `generate` goes on with: all tokens, also those in the cache."""

# An address may be another cache's when one is gone; a number never is.
_NUMBERS: Final[weakref.WeakKeyDictionary[Cache, int]] = weakref.WeakKeyDictionary()
_COUNT: Final = itertools.count()

_CHANGES: Final = ("crop", "reset", "batch_repeat_interleave", "batch_select_indices", "reorder_cache")


class _Filled(NamedTuple):
    """The text in a cache; `is_all` unless the cache was changed since, by other means than a forward."""

    text: torch.Tensor
    is_all: bool = True


def cache_observations(model: torch.nn.Module) -> Iterator[Observation]:
    """Ask for the caches that are filled and changed, and for the text that `generate` goes on with."""
    for function in _methods("update"):
        yield Observation(function, (CACHE,), keep=_number)
    for function in dict.fromkeys(function for name in _CHANGES for function in _methods(name)):
        order = (ORDER,) if function in {*functions_in(Cache.reorder_cache)} else ()
        yield Observation(function, (CACHE, *order), keep=_number)
    for function in _starting(model):
        yield Observation(function, arguments=(CACHE,), keep=_nothing)
    for function in functions_in(getattr(type(model), "prepare_inputs_for_generation", None)):
        if WHOLE in function.__code__.co_varnames[: function.__code__.co_argcount]:
            yield Observation(function, arguments=(WHOLE,))


def _methods(name: str) -> Iterator[types.FunctionType]:
    kinds: list[type[Cache]] = [Cache]
    for kind in kinds:
        kinds += [below for below in kind.__subclasses__() if below not in kinds]
        # What holds two caches has them do all there is to do.
        found = () if issubclass(kind, EncoderDecoderCache) else functions_in(vars(kind).get(name))
        yield from (function for function in found if CACHE in function.__code__.co_varnames)


def _starting(model: torch.nn.Module) -> Iterator[types.FunctionType]:
    for function in functions_in(type(model).forward):
        if CACHE in function.__code__.co_varnames[: function.__code__.co_argcount]:
            yield function


def _nothing(_: Any) -> None:
    """Keep nothing of a value: that a forward starts is all there is to know."""


def _number(value: Any) -> Any:
    """Return the number of a cache, and anything else as it is; compiled code cannot look it up."""
    if torch.compiler.is_compiling():
        return None
    if not isinstance(value, Cache):
        return value.detach() if isinstance(value, torch.Tensor) else None
    number = _NUMBERS.get(value)
    if number is None:
        number = _NUMBERS[value] = next(_COUNT)
    return number


def note_caches(call: Call, context: InputContext) -> None:
    """Take note of a call that `cache_observations` asked for."""
    memory = context.memory
    if WHOLE in call.values:
        memory["goes on"] = call.values[WHOLE]
    elif CACHE in call.values and call.module is context.model:
        # What it looks up comes after this; if it is given embeddings instead, there are no tokens.
        memory.pop("lookups", None)
        note_start(call, memory)
    elif CACHE in call.values and isinstance(call.values[CACHE], int):
        number = call.values[CACHE]
        if call.function.__name__ == "update":
            memory.setdefault("cache", {})[call.thread] = number
            return
        for text in memory.get("texts", {}).values():
            _change(text.get("caches", {}), number, call.values.get(ORDER))


def _change(caches: dict[int, _Filled], number: int, order: torch.Tensor | None) -> None:
    filled = caches.get(number)
    if filled is None:
        return
    if order is None or len(order) != len(filled.text):
        caches[number] = filled._replace(is_all=False)
    else:
        caches[number] = filled._replace(text=filled.text[order.to(filled.text.device)])


def note_start(call: Call, memory: dict[str, Any]) -> None:
    """Take note that a forward starts or looks up its tokens: none of its layers has filled a cache by then."""
    memory.get("cache", {}).pop(call.thread, None)
    turns: dict[str, int] = memory.setdefault("turns", {})
    turns[call.name] = turns.get(call.name, 0) + 1


def begin(call: Call, embeds: str, text: dict[str, Any], memory: dict[str, Any]) -> None:
    """Make what is remembered of a text ready for a layer: as the forward begins, its keys are not known.

    Parameters
    ----------
    call : Call
        The layer's.
    embeds : str
        The name of what looked its tokens up.
    text : dict of str to object
        What is remembered of the text.
    memory : dict of str to object
        What is remembered of all.
    """
    turn = memory.get("turns", {}).get(embeds)
    if text.get("turn") != turn:
        text.update(turn=turn, goes_on=memory.pop("goes on", None), before=text.get("last"))
        text.update(cache=None, in_cache=None, whole=None, padding=None)
    number = memory.get("cache", {}).pop(call.thread, None)
    # A cross-attention fills a cache with what the encoder made.
    if number is not None and text["cache"] is None and not is_cross(call.name):
        text.update(cache=number, in_cache=text.setdefault("caches", {}).get(number))


def reaching_back(ids: torch.Tensor, length: int, text: dict[str, Any]) -> torch.Tensor | None:
    """Return as many tokens as there are keys: those given, with those in the cache in front of them, where known."""
    found = ids if ids.shape[1] == length else _continued(ids, length, text)
    # A layer that sees a part of the text only says nothing of the rest.
    if found is not None and (text["whole"] is None or text["whole"].shape[1] < length):
        text.update(whole=found, last=found)
    if text["whole"] is not None and text["cache"] is not None:
        text["caches"][text["cache"]] = _Filled(text["whole"])
    return found


def _continued(ids: torch.Tensor, length: int, text: dict[str, Any]) -> torch.Tensor | None:
    known, filled, whole = text["whole"], text["in_cache"], text["goes_on"]
    # One tensor for all layers: by it they are known to read the same text.
    if known is not None and known.shape[1] == length:
        return cast("torch.Tensor", known)
    before = text["before"] if filled is None else filled.text
    if before is None:
        return None
    # What is said of a text that this scope never saw would have to be believed.
    if _ends_with(whole, ids, length) and _begins_like(whole[:, : -ids.shape[1]], before):
        return cast("torch.Tensor", whole.to(ids.device))
    if filled is None or not filled.is_all or len(before) != len(ids) or before.shape[1] + ids.shape[1] != length:
        return None
    return torch.cat([before.to(ids.device), ids], dim=1)


def _ends_with(whole: Any, ids: torch.Tensor, length: int) -> bool:
    if not isinstance(whole, torch.Tensor) or whole.shape != (len(ids), length):
        return False
    return torch.equal(whole[:, -ids.shape[1] :].to(ids.device), ids)


def _begins_like(texts: torch.Tensor, before: torch.Tensor) -> bool:
    """Say whether each text is the beginning of one before: beams change places, and guesses are taken back."""
    beginnings = {tuple(row) for row in before[:, : texts.shape[1]].tolist()}
    return {tuple(row) for row in texts.tolist()} <= beginnings
