"""The tokens of the keys in a cache, where the capture has seen the cache filled from the start.

An equal number of keys does not prove that they belong to a text. Two things do: the cache is the very object that an
earlier forward pass filled, or `generate` passes the whole text that it continues.
"""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import torch
from transformers.cache_utils import Cache, EncoderDecoderCache

from anylocal.adapter import Observation, argument_names, functions_in
from anylocal_bert._sources import is_cross

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

    from anylocal import Call
    from anylocal.adapter import InputContext

CACHE: Final = "self"
"""The local that holds the cache in a cache's methods, and the model in its forward."""
ORDER: Final = "beam_idx"
"""The argument that reorders the texts of a cache."""
WHOLE: Final = "input_ids"
"""The argument that holds the whole text that `generate` continues, tokens in the cache included."""

# Another cache may get the id() of one that is gone, but never its number.
_NUMBERS: Final[weakref.WeakKeyDictionary[Cache, _Number]] = weakref.WeakKeyDictionary()
_COUNT: Final = itertools.count()

_CHANGES: Final = ("crop", "reset", "batch_repeat_interleave", "batch_select_indices", "reorder_cache")


class _Number(int):
    """The number of a cache, which knows its layers that keep only the last tokens, and those with room for more."""

    slides: tuple[bool, ...] = ()
    has_room: tuple[bool, ...] = ()


class _Filled(NamedTuple):
    """The text in a cache; not `complete` once the cache was changed by anything but a forward pass or a reordering."""

    text: torch.Tensor
    complete: bool = True


def cache_observations(model: torch.nn.Module) -> Iterator[Observation]:
    """Yield what records the caches that are filled and changed, and the text that `generate` continues."""
    for function in _methods("update"):
        yield Observation(function, (CACHE,), keep=_number)
    for function in dict.fromkeys(function for name in _CHANGES for function in _methods(name)):
        order = (ORDER,) if function in {*functions_in(Cache.reorder_cache)} else ()
        yield Observation(function, (CACHE, *order), keep=_number)
    for function in functions_in(type(model).forward):
        if CACHE in argument_names(function.__code__):
            yield Observation(function, arguments=(CACHE,), keep=_nothing)
    for function in functions_in(getattr(type(model), "prepare_inputs_for_generation", None)):
        if WHOLE in argument_names(function.__code__):
            yield Observation(function, arguments=(WHOLE,))


def cache_methods() -> tuple[object, ...]:
    """Return the methods by which all classes of caches are filled and changed; more may be defined at any time."""
    names = ("update", *_CHANGES)
    return tuple([method for kind in _kinds() for method in map(vars(kind).get, names)])


def _kinds() -> list[type[Cache]]:
    kinds: list[type[Cache]] = [Cache]
    for kind in kinds:
        kinds += [below for below in kind.__subclasses__() if below not in kinds]
    return kinds


def _methods(name: str) -> Iterator[types.FunctionType]:
    for kind in _kinds():
        # A pair of caches delegates to its two caches.
        found = () if issubclass(kind, EncoderDecoderCache) else functions_in(vars(kind).get(name))
        yield from (function for function in found if CACHE in function.__code__.co_varnames)


def _nothing(_: Any) -> None:
    """Keep nothing of the model: the call alone marks the start of a forward pass."""


def _number(value: Any) -> Any:
    """Return the number of a cache, or a tensor; None in compiled code, which cannot look up a number."""
    if torch.compiler.is_compiling():
        return None
    if not isinstance(value, Cache):
        return value.detach() if isinstance(value, torch.Tensor) else None
    number = _NUMBERS.get(value)
    if number is None:
        number = _NUMBERS[value] = _Number(next(_COUNT))
        layers = getattr(value, "layers", ())
        number.slides = tuple(getattr(layer, "is_sliding", False) is True for layer in layers)
        number.has_room = tuple(hasattr(layer, "max_cache_len") for layer in layers)
    return number


def note_caches(call: Call, context: InputContext) -> None:
    """Note a call that `cache_observations` records."""
    memory = context.memory
    if WHOLE in call.values:
        memory["continued"] = call.values[WHOLE]
    elif CACHE in call.values and call.module is context.model:
        # Tokens are looked up after this, or not at all where the model is given embeddings.
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
        caches[number] = filled._replace(complete=False)
    else:
        caches[number] = filled._replace(text=filled.text[order.to(filled.text.device)])


def note_start(call: Call, memory: dict[str, Any]) -> None:
    """Note that a forward pass starts or looks up its tokens, before any of its layers has filled a cache."""
    memory.get("cache", {}).pop(call.thread, None)
    turns: dict[str, int] = memory.setdefault("turns", {})
    turns[call.name] = turns.get(call.name, 0) + 1


def begin(call: Call, embeds: str, text: dict[str, Any], memory: dict[str, Any]) -> None:
    """Prepare the state of a text, `text`, for a layer: in a new forward pass, its keys are not yet known."""
    turn = memory.get("turns", {}).get(embeds)
    if text.get("turn") != turn:
        text.update(turn=turn, continued=memory.pop("continued", None), before=text.get("last"))
        text.update(cache=None, in_cache=None, whole=None, padding=None)
    number = memory.get("cache", {}).pop(call.thread, None)
    # Cross-attention fills a cache with the keys of the encoder's text.
    if number is not None and text["cache"] is None and not is_cross(call.name):
        text.update(cache=number, in_cache=text.setdefault("caches", {}).get(number))


def reaching_back(ids: torch.Tensor, length: int, text: dict[str, Any], layer: object = None) -> torch.Tensor | None:
    """Return the tokens given, preceded by those in the cache; None where it is not known that these are the keys.

    The keys of a layer whose cache slides are the last `length` of these tokens. A static cache has a place for each,
    and free ones behind them.
    """

    def is_here(kinds: tuple[bool, ...]) -> bool:
        return isinstance(layer, int) and layer < len(kinds) and kinds[layer]

    slides, has_room = (is_here(getattr(text["cache"], name, ())) for name in ("slides", "has_room"))

    def fits(tokens: int) -> bool:
        return tokens == length or (slides if tokens > length else has_room)

    found = ids if ids.shape[1] == length else _continued(ids, fits, text)
    # A layer that sees only part of the text must not shorten what is known of it.
    if found is not None and (text["whole"] is None or text["whole"].shape[1] < found.shape[1]):
        text.update(whole=found, last=found)
    if text["whole"] is not None and text["cache"] is not None:
        text["caches"][text["cache"]] = _Filled(text["whole"])
    return found


def _continued(ids: torch.Tensor, fits: Callable[[int], bool], text: dict[str, Any]) -> torch.Tensor | None:
    known, filled, whole = text["whole"], text["in_cache"], text["continued"]
    # One tensor for all layers: its identity shows that they read the same text.
    if known is not None and fits(known.shape[1]):
        return cast("torch.Tensor", known)
    before = text["before"] if filled is None else filled.text
    # The text of a cache that was filled before this capture is the one that `generate` was told to continue.
    unseen = filled is None and text["cache"] is not None
    if before is None and not unseen:
        return None
    if _ends_with(whole, ids) and fits(whole.shape[1]) and (unseen or _begins_like(whole[:, : -ids.shape[1]], before)):
        return cast("torch.Tensor", whole.to(ids.device))
    if filled is None or not filled.complete or len(before) != len(ids) or not fits(before.shape[1] + ids.shape[1]):
        return None
    return torch.cat([before.to(ids.device), ids], dim=1)


def _ends_with(whole: Any, ids: torch.Tensor) -> bool:
    if not isinstance(whole, torch.Tensor) or len(whole) != len(ids) or whole.shape[1] < ids.shape[1]:
        return False
    return torch.equal(whole[:, -ids.shape[1] :].to(ids.device), ids)


def _begins_like(texts: torch.Tensor, before: torch.Tensor) -> bool:
    """Return whether each text begins one of those before: beams are reordered, and guesses are taken back."""
    beginnings = {tuple(row) for row in before[:, : texts.shape[1]].tolist()}
    return {tuple(row) for row in texts.tolist()} <= beginnings
