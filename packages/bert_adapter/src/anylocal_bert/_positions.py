"""The positions of a map: tokens that a model looks up, or patches that it divides an image into.

A layer's positions are those of the innermost model around it that has embeddings: a text model, a vision model, an
encoder or a decoder. In cross-attention the keys are those of the encoder's own layers.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from anylocal.adapter import InputContext, MapAxes
from anylocal.attention import Axis, Patches, PlacedPatches, Tokens
from anylocal_bert._caches import begin, note_start, reaching_back
from anylocal_bert._grids import grids_of
from anylocal_bert._media import media_between, note_media, with_placeholders
from anylocal_bert._places import behind_virtual_tokens, virtual_tokens, with_free_places, with_virtual_tokens
from anylocal_bert._sounds import frames_of
from anylocal_bert._sources import Source, around, is_cross, sources
from anylocal_bert._words import readable, split
from anylocal_bert.families import FAMILIES, family_of

if TYPE_CHECKING:
    from anylocal import Call


class Encoded(NamedTuple):
    """A batch of texts as its tokenizer encoded it: ids of shape (batch, token), and the sentence of each token."""

    tokenizer: Any
    ids: torch.Tensor
    segments: list[list[int | None]]


class Positions:
    """The positions of the map of one call."""

    def __init__(self, call: Call, shape: tuple[int, ...], context: InputContext) -> None:
        self.call = call
        self.batch, _, self.queries, self.keys = shape
        self.context = context
        self.virtual = 0
        known = _known(context)
        self.source = _of_layer(call.name, known)
        self.given: Any = context.seen.get(self.source.embeds, {}).get("input") if self.source is not None else None

    def axes(self) -> MapAxes:
        """Return the axes of the queries and the keys, None where they are not known."""
        special = self._windows() or self._sound() or self._grids()
        if special is not None:
            return special
        if self.source is None or isinstance(self.source.module, torch.nn.Embedding):
            text = None if self.source is None else self._of_source(self.source)
            queries, keys, _ = self._without_text() if text is None else text
            return MapAxes(_for_each(queries, self.batch), _for_each(keys, self.batch))
        if self.given is None:
            return MapAxes(None, None)
        patches = self._patches(self.source, self.given)
        queries, keys = _fitting(patches, self.queries), _fitting(patches, self.keys)
        if keys is None and self.batch % self.given[0] == 0:
            return MapAxes(None, None, windows=self.batch // self.given[0])
        return MapAxes(queries, keys)

    def _windows(self) -> MapAxes | None:
        """Return the patches of windows, None where the layer has none."""
        size = self.given[-2:] if isinstance(self.given, tuple) and len(self.given) == 4 else None  # noqa: PLR2004  # (batch, channel, row, column)
        tried = (f.windows(self.call, self.context, self.keys, size) for f in FAMILIES if f.windows is not None)
        axis = next((axis for axis in tried if axis is not None), None)
        count = axis.windows if isinstance(axis, PlacedPatches) else 1
        if axis is None or self.queries != self.keys or self.batch % count:
            return None
        return MapAxes(axis, axis, count)

    def _grids(self) -> MapAxes | None:
        found = grids_of(self.call.name, self.queries, self.keys, self.context)
        if found is None or self.batch % found.windows:
            return None
        return MapAxes(_for_each(found.queries, self.batch), _for_each(found.keys, self.batch), found.windows)

    def _sound(self) -> MapAxes | None:
        """Return the frames of a sound whose length is known, None where there is none."""
        found = frames_of(self.call.name, self.keys, self.context) if self.queries == self.keys else None
        if found is None:
            return None
        owner, frames = found
        padding = self._padding(self.batch, self.keys)
        if padding is not None and padding.any():
            texts = frames.take([0] * self.batch)
            frames = Tokens(texts.texts, padding=padding.cpu(), media=texts.media)
        self.context.memory.setdefault("encoded", {})[owner] = frames
        return MapAxes(frames, frames)

    def _patches(self, source: Source, shape: tuple[int, ...]) -> Patches:
        patch: Any = source.module.kernel_size
        grid = (shape[-2] // patch[0], shape[-1] // patch[1])
        made = Patches(grid=grid, prefix=source.prefix, image_size=(shape[-2], shape[-1]))
        self._remember(made)
        return made

    def _without_text(self) -> MapAxes:
        """Return the axes of a layer without tokens: of sounds, or of queries that a model learned."""
        if is_cross(self.call.name):
            return MapAxes(None, self._attended())
        padding = self._padding(self.batch, self.keys) if self.queries == self.keys else None
        if padding is None or not padding.any():
            return MapAxes(None, None)
        # Numbered, as without padding.
        frames = Tokens([[str(place) for place in range(self.keys)]] * self.batch, padding=padding)
        return MapAxes(frames, frames)

    def _attended(self) -> Axis | None:
        """Return the positions that cross-attention sees: those of the one other part that has as many."""
        encoded: dict[str, Axis] = self.context.memory.get("encoded", {})
        own = None if self.source is None else self.source.owner
        found = [axis for owner, axis in encoded.items() if owner != own and len(axis) == self.keys]
        return found[0] if len(found) == 1 else None

    def _of_source(self, source: Source) -> MapAxes | None:
        """Return the tokens of the text that was given, also where virtual tokens are before it."""
        found, count = self._of_text(source), virtual_tokens(self.context.model)
        if not count or found is None or found.keys is not None:
            return found
        inner, starts = copy.copy(self), self.queries == self.keys
        inner.virtual, inner.keys, inner.queries = count, self.keys - count, self.queries - count * starts
        queries, keys, _ = inner._of_text(source) or found  # noqa: SLF001  # a copy of this
        if not isinstance(queries, Tokens) or not isinstance(keys, Tokens):
            return found
        keys = with_virtual_tokens(keys, count)
        return MapAxes(keys if starts else behind_virtual_tokens(queries, count), keys)

    def _of_text(self, source: Source) -> MapAxes | None:
        """Return the tokens of the text that was given, with its padding; None where there is none.

        At a step of generation the queries are the last tokens only, and the keys include the tokens in the cache, of
        earlier forward passes.
        """
        ids = self._ids(source)
        if ids is None:
            return None
        memory = self._memory(source)
        begin(self.call, source.embeds, memory, self.context.memory)
        if is_cross(self.call.name):
            before = memory.get("whole")
            start = 0 if before is None else before.shape[1] - ids.shape[1]
            # The padding of the queries' text is known only from the layers that attend to it.
            queries = self._tokens(source, ids, memory.get("padding"), start)
            return MapAxes(_fitting(queries, self.queries), self._attended())
        whole = reaching_back(ids, self.keys, memory, getattr(self.call.module, "layer_idx", None))
        start = 0 if whole is None else whole.shape[1] - ids.shape[1]
        note_media(ids, start, source.owner, memory, self.context)
        if whole is not None and whole.shape[1] > self.keys:
            return self._of_window(source, ids, whole)
        free = 0 if whole is None else self.keys - whole.shape[1]
        if whole is not None:
            padding = self._padding(len(whole), self.keys)
            memory["padding"] = None if padding is None else padding[:, : whole.shape[1]]
        padding = memory.get("padding")
        keys = None if whole is None else self._tokens(source, whole, padding)
        self._remember_text(source, keys)
        if keys is not None and free:
            return MapAxes(self._tokens(source, ids, padding, len(keys) - ids.shape[1]), with_free_places(keys, free))
        if self.queries != ids.shape[1]:
            return MapAxes(_fitting(keys, self.queries), keys)
        return MapAxes(keys if keys is not None and start == 0 else self._tokens(source, ids, padding, start), keys)

    def _of_window(self, source: Source, ids: torch.Tensor, whole: torch.Tensor) -> MapAxes:
        """Return the tokens of a layer whose cache keeps the last ones of a text."""
        memory, length = self._memory(source), whole.shape[1]
        first = length - self.keys
        padding = self._padding(len(whole), self.keys)
        if padding is not None:
            padding = torch.nn.functional.pad(padding, (first, 0))
        known = memory.get("window")
        # Most layers have the same window: its tokens are looked up once.
        if known is None or known[0] is not whole or len(known[1]) != self.keys:
            known = memory["window"] = whole, self._tokens(source, whole[:, first:], padding, first)
        keys = known[1]
        if self.queries != ids.shape[1]:
            return MapAxes(_fitting(keys, self.queries), keys)
        return MapAxes(self._tokens(source, ids, padding, length - ids.shape[1]), keys)

    def _ids(self, source: Source) -> torch.Tensor | None:
        """Return the tokens that were looked up, (batch, token).

        A model that attends by blocks may look up the padding of the last block apart, after the text.
        """
        lookups: tuple[torch.Tensor, ...] = self.context.memory.get("lookups", {}).get(source.embeds, ())
        if not lookups or lookups[-1].dim() != 2:  # noqa: PLR2004  # (batch, token)
            return None
        text, fill = lookups[0], lookups[-1]
        self.context.memory.setdefault("read", set()).add(source.embeds)
        if source.types == source.embeds:
            # The second lookup in a forward pass is that of token types, which have the shape of the tokens.
            return text
        memory = self._memory(source)
        family = family_of(self.call.function)
        if family is None or not family.fills_blocks or text.shape[1] + fill.shape[1] != self.keys:
            memory.pop("filled", None)
            return with_placeholders(fill, source.owner, self.context)
        # One tensor for all layers: its identity shows that they read the same text.
        if "filled" not in memory or memory["filled"][0] is not fill:
            memory["filled"] = fill, torch.cat([text, fill], dim=1)
        filled: torch.Tensor = memory["filled"][1]
        return filled

    def _remember_text(self, source: Source, keys: Tokens | None) -> None:
        """Keep the text for the layers that attend to the encoder's output, without the padding of its blocks."""
        memory = self._memory(source)
        if "filled" not in memory:
            self._remember(keys)
        elif memory.get("cut") is not memory["filled"]:
            memory["cut"] = fill, whole = memory["filled"]
            self._remember(self._tokens(source, whole[:, : -fill.shape[1]], memory["padding"]))

    def _padding(self, batch: int, length: int) -> torch.Tensor | None:
        """Return which keys are padding, (batch, token), None where that is not known."""
        values, length = self.call.values, length + self.virtual
        for padding in (family.padding(values) for family in FAMILIES if family.padding is not None):
            if padding is not None and padding.shape == (batch, length):
                return padding[:, self.virtual :]
        found = _unseen(values.get("attention_mask", values.get("mask")), batch, length)
        return None if found is None else found[:, self.virtual :]

    def _memory(self, source: Source) -> dict[str, Any]:
        """Return the state of one text: an encoder and a decoder may share the module that looks it up."""
        texts: dict[str, dict[str, Any]] = self.context.memory.setdefault("texts", {})
        return texts.setdefault(source.owner, {})

    def _remember(self, axis: Axis | None) -> None:
        """Keep the axis of an encoder's layer for the layers that attend to the encoder's output."""
        if axis is not None and self.source is not None:
            self.context.memory.setdefault("encoded", {})[self.source.owner] = axis

    def _tokens(self, source: Source, ids: torch.Tensor, padding: torch.Tensor | None, start: int = 0) -> Tokens:
        """Return tokens that begin at `start` in a text, given the padding of the whole text."""
        rows = ids.tolist()
        flags = None if padding is None else padding[:, start : start + ids.shape[1]].cpu()
        known: dict[str, Any] = {"start": start, "segments": self._segments(source, ids, flags)}
        known |= media_between(start, ids.shape[1], self._memory(source))
        known["padding"] = flags if flags is not None and flags.shape == ids.shape else None
        about = self.context.about
        # A processor has a tokenizer.
        tokenizer = about if hasattr(about, "convert_ids_to_tokens") else getattr(about, "tokenizer", None)
        if tokenizer is None:
            return Tokens([[str(token) for token in row] for row in rows], **known)
        texts = [tokenizer.convert_ids_to_tokens(row) for row in rows]
        special = [[token in tokenizer.all_special_ids for token in row] for row in rows]
        words = self._words(tokenizer, ids, rows, texts)
        numbers, spellings = [numbers for numbers, _, _ in words], [spellings for _, spellings, _ in words]
        shown = [shown for _, _, shown in words]
        return Tokens(texts, special=special, words=numbers, spellings=spellings, readable=shown, **known)

    def _segments(
        self, source: Source, ids: torch.Tensor, padding: torch.Tensor | None
    ) -> list[list[int | None]] | None:
        """Return the sentence of each token: from the model's token types, else from the tokenizer."""
        types = self._types(source)
        if isinstance(types, torch.Tensor) and types.shape in {ids.shape, (1, ids.shape[1])}:
            rows = types.expand(ids.shape).tolist()
        elif isinstance(self.context.about, Encoded) and torch.equal(self.context.about.ids.cpu(), ids.cpu()):
            rows = self.context.about.segments
        else:
            return None
        if padding is None or padding.shape != ids.shape:
            return rows
        pairs = (zip(row, flags, strict=True) for row, flags in zip(rows, padding.tolist(), strict=True))
        return [[None if is_padding else number for number, is_padding in pair] for pair in pairs]

    def _types(self, source: Source) -> Any:
        if source.types != source.embeds:
            return self.context.seen.get(source.types or "", {}).get("input")
        lookups = self.context.memory["lookups"][source.embeds]
        return lookups[1] if len(lookups) > 1 else None

    def _words(
        self, tokenizer: Any, ids: torch.Tensor, rows: list[list[int]], texts: list[list[str]]
    ) -> list[tuple[list[int | None], list[str], list[str]]]:
        """Return how words were split into tokens, and how these are shown, computed once for all layers."""
        known: tuple[Any, list[Any]] | None = self.context.memory.get("words")
        if known is None or known[0] is not ids:
            pairs = zip(rows, texts, strict=True)
            known = ids, [(*split(tokenizer, row), readable(tokenizer, row, text)) for row, text in pairs]
            self.context.memory["words"] = known
        return known[1]


def lookups_of(context: InputContext) -> set[str]:
    """Return the names of the modules that look up tokens."""
    return {source.embeds for source in _known(context).values()}


def _known(context: InputContext) -> dict[str, Source]:
    if "sources" not in context.memory:
        context.memory["sources"] = sources(context.model)
    found: dict[str, Source] = context.memory["sources"]
    return found


def note_lookup(call: Call, memory: dict[str, Any]) -> None:
    """Keep the last two inputs of an embedding: a model may look up its padding, or token types, apart.

    Inputs from before a layer read them belong to an earlier forward pass.
    """
    name, ids = call.name, call.values["input"]
    note_start(call, memory)
    if isinstance(ids, torch.Tensor):
        lookups: dict[str, tuple[torch.Tensor, ...]] = memory.setdefault("lookups", {})
        if name in memory.get("read", ()):
            memory["read"].discard(name)
            lookups.pop(name, None)
        lookups[name] = (*lookups.get(name, ())[-1:], ids)


def _of_layer(name: str, known: dict[str, Source]) -> Source | None:
    """Return what the positions of a layer are read off: the embeddings of the innermost model around it.

    A tower beside the language model is inside the model that both belong to, and reads no tokens of it.
    """
    source = next((known[owner] for owner in around(name) if owner in known), None)
    if source is None or not isinstance(source.module, torch.nn.Embedding):
        return source
    inside = f"{source.owner}." if source.owner else ""
    beside = (o for o, s in known.items() if o != source.owner and o.startswith(inside) and s.module is source.module)
    return None if next(beside, None) is not None else source


def _fitting(axis: Axis | None, length: int) -> Axis | None:
    return axis if axis is not None and len(axis) == length else None


def _for_each(axis: Axis | None, batch: int) -> Axis | None:
    """Return tokens with a text for each sample: all beams of a text attend to the same encoder output."""
    if not isinstance(axis, Tokens) or len(axis.texts) in {1, batch}:
        return axis
    texts = range(len(axis.texts))
    if batch % len(texts):
        return None
    return axis.take([text for text in texts for _ in range(batch // len(texts))])


def _unseen(mask: Any, batch: int, length: int) -> torch.Tensor | None:
    """Return the positions that no query of a sample may see, (batch, token)."""
    if not isinstance(mask, torch.Tensor) or mask.dim() != 4 or mask.shape[-1] != length:  # noqa: PLR2004  # (batch, head, query, key)
        return None
    if mask.dtype != torch.bool and not mask.is_floating_point():
        return None
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return ~visible.any(dim=2).any(dim=1).expand(batch, length)
