"""The steps of a generation, joined to one map for each layer.

A row belongs to the step that read its token last: guesses that were taken back are read again.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anylocal._maps.combined import Part, RowsBelow
from anylocal._maps.map import AttentionMap
from anylocal._maps.rows import StoredRows
from anylocal._maps.tokens import Tokens
from anylocal.errors import ChoiceError, StateError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from anylocal._maps.positions import Axis
    from anylocal._maps.rows import Rows


@dataclass(frozen=True)
class Step:
    """A layer's map of one step: `count` queries from place `start` of the text on, keys from `place` on."""

    map: AttentionMap
    start: int
    count: int
    place: int

    @property
    def end(self) -> int:
        """The place after its last query."""
        return self.start + self.count


def generation(maps: Sequence[AttentionMap]) -> list[AttentionMap]:
    """Return one map for each layer; see `AttentionMaps.generation`."""
    if not maps:
        raise StateError("A generation needs at least one map; run the model inside the capture first.")
    if len({item.rank for item in maps}) > 1:
        raise ChoiceError("The maps are of several ranks; choose those of one rank first.")
    layers: dict[tuple[str, int], list[AttentionMap]] = {}
    ran: Counter[tuple[int, str]] = Counter()
    for item in maps:
        layers.setdefault((item.name, ran[item.forward, item.name]), []).append(item)
        ran[item.forward, item.name] += 1
    steps = {key: _across(found) or _along(found) for key, found in layers.items() if len(found) > 1}
    if maps[0].shape[0] > 1 and steps and all(_is_across(each) for each in steps.values()):
        _refuse(next(iter(steps.values()))[0].map, "beams may have changed places, which only self-attention shows")
    first = maps[0].forward
    return [_joined(steps[key], first) if key in steps else found[0] for key, found in layers.items()]


def _is_across(steps: Sequence[Step]) -> bool:
    return len(steps) > 1 and steps[0].map.keys == steps[-1].map.keys


def _across(maps: Sequence[AttentionMap]) -> list[Step] | None:
    """Return the steps of a layer that attends to another text, which stays the same; None if it is none."""
    starts = [item.queries.start for item in maps if isinstance(item.queries, Tokens)]
    goes_on = len(starts) == len(maps) and all(before < start for before, start in itertools.pairwise(starts))
    if not goes_on or any(item.keys != maps[0].keys for item in maps):
        return None
    steps: list[Step] = []
    for item, start in zip(maps, starts, strict=True):
        _append(steps, Step(item, start, item.shape[2], 0))
    return steps


def _along(maps: Sequence[AttentionMap]) -> list[Step]:
    """Return the steps of a layer that attends to the text so far, after a check that each goes on with its texts."""
    steps: list[Step] = []
    texts: list[list[str]] = []
    for item in maps:
        queries, keys, (batch, _, rows, width) = item.queries, item.keys, item.shape
        if isinstance(queries, Tokens) and isinstance(keys, Tokens):
            step = Step(item, queries.start, rows, keys.start)
        elif batch > 1 or (steps and width != steps[-1].end + rows):
            _refuse(item, "the tokens of its keys are not known")
        else:
            step = Step(item, width - rows, rows, 0)
        if steps and step.start == steps[0].start and _reads_again(queries, step, texts):
            steps.clear()
        _append(steps, step)
        if isinstance(queries, Tokens) and isinstance(keys, Tokens):
            texts = _continued(queries, keys, step, texts)
    return steps


def _reads_again(queries: Axis, step: Step, before: list[list[str]]) -> bool:
    """Return whether a step reads its whole text again and some more, as without a cache."""
    if not isinstance(queries, Tokens) or not before or step.count <= len(before[0]) - step.start:
        return False
    rows = (queries.texts[text % len(queries.texts)] for text in range(len(before)))
    return all(
        list(row[: len(known) - step.start]) == known[step.start :] for row, known in zip(rows, before, strict=True)
    )


def _append(steps: list[Step], step: Step) -> None:
    """Append a step, without the rows before it that it reads again."""
    if steps and step.start <= steps[0].start:
        raise ChoiceError(
            f"{step.map.name!r} begins a text again in forward pass {step.map.forward}: the maps are of several"
            " generations. Choose the forward passes of one: AttentionMaps(map for step in maps.forwards[:n] for map in"
            " step).generation()."
        )
    if steps and (step.start > steps[-1].end or step.map.shape[:2] != steps[0].map.shape[:2]):
        _refuse(step.map, "a step before it is missing, or of another batch")
    while steps and steps[-1].start >= step.start:
        steps.pop()
    if steps:
        steps[-1] = replace(steps[-1], count=step.start - steps[-1].start)
    steps.append(step)


def _continued(queries: Tokens, keys: Tokens, step: Step, before: list[list[str]]) -> list[list[str]]:
    """Return the texts up to a step, which must begin like those before it."""
    length = step.start - step.place
    for text, known in enumerate(before):
        if list(keys.texts[text % len(keys.texts)][:length]) != known[step.place : step.start]:
            _refuse(step.map, "its texts do not go on from the step before: beams have changed places")
    rows = range(max(len(queries.texts), len(keys.texts)))
    known_of = before or [[*[""] * step.place, *keys.texts[row % len(keys.texts)][:length]] for row in rows]
    return [[*known_of[row][: step.start], *queries.texts[row % len(queries.texts)]] for row in rows]


def _refuse(item: AttentionMap, why: str) -> None:
    raise UnsupportedError(
        f"The steps of {item.name!r} cannot be joined at forward pass {item.forward}: {why}. Take the maps of each step"
        " from maps.forwards; without beams (num_beams=1), and with all of the text read inside one capture, they can."
    )


def _joined(steps: Sequence[Step], forward: int) -> AttentionMap:
    first, last = steps[0], steps[-1]
    base = first.place
    length = last.map.shape[3] if _is_across(steps) else last.end - base

    def below(source: Callable[[AttentionMap], Rows]) -> RowsBelow:
        places = [step.place - base for step in steps]
        # The free places of a static cache come after the text.
        widths = [min(step.map.shape[3], length - at) for step, at in zip(steps, places, strict=True)]
        parts = [Part(source(s.map), s.count, *where) for s, *where in zip(steps, places, widths, strict=True)]
        return RowsBelow(parts, length)

    def mixed() -> torch.Tensor:
        every = slice(None)
        return below(lambda item: item.rows if item.mixed is None else StoredRows(item.mixed)).take(every, every, every)

    queries, keys = _axes(steps, base, length)
    made = AttentionMap(
        below(lambda item: item.rows),
        name=first.map.name,
        queries=queries,
        keys=keys,
        fused=all(step.map.fused for step in steps),
        forward=forward,
        mixed=mixed if any(step.map.labels.mixed is not None for step in steps) else None,
        rank=first.map.rank,
    )
    made._model = first.map._model  # noqa: SLF001  # no label: a copy in a file has none
    return made


def _axes(steps: Sequence[Step], base: int, length: int) -> tuple[Axis | None, Axis | None]:
    """Return the tokens that were read, and those that they could see."""
    first, last = steps[0], steps[-1]
    own = [(step.map.queries, 0, step.count) for step in steps]
    if _is_across(steps):
        return _text(own, first.start), last.map.keys
    # The last step knows the words of the whole text, unless its cache holds only the end.
    whole = [(last.map.keys, 0, length)]
    keys = _text(whole if last.place == base else [(first.map.keys, 0, first.start - base), *own], base)
    if keys is None or first.start == base:
        return keys, keys
    return _text([(keys, first.start - base, length)], first.start), keys


def _text(pieces: Sequence[tuple[Axis, int, int]], start: int) -> Tokens | None:
    """Return the tokens of pieces of a text, each from a place on up to another; None where one is not known."""
    known = [(axis, slice(at, end)) for axis, at, end in pieces if isinstance(axis, Tokens)]
    return Tokens.join(known, start) if len(known) == len(pieces) else None
