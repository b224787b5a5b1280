"""What the positions of a map are: tokens that a model looks up, or patches that it cuts an image into.

A layer's positions are those of the nearest model around it that has embeddings: a text model's, a vision model's, an
encoder's or a decoder's. In a cross-attention the keys are those of the encoder's own layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal._torch import module_names
from anylocal.adapter import Axes, Scene
from anylocal.attention import Axis, Patches, Tokens
from anylocal_bert._words import Split, split

if TYPE_CHECKING:
    from anylocal import Call

_CROSS: Final = re.compile(r"cross|encoder_attn|encdec|enc_dec|encoder_decoder", re.IGNORECASE)
# Of models within models that do not say themselves what embeds their input.
_EMBEDDINGS: Final = ("word_embeddings", "token_embedding", "patch_embedding", "patch_embeddings")
_CLASS_TOKENS: Final = ("cls_token", "class_token", "class_embedding")
_SECOND_TOKENS: Final = ("distillation_token", "dist_token")
_REGISTERS: Final = ("register_tokens", "reg_token")


@dataclass(frozen=True)
class Source:
    """Where positions come from: a model, and the module that embeds its input.

    Attributes
    ----------
    owner : str
        The name of the model within the captured one.
    embeds : str
        The name of the module that looks up tokens, or of the convolution that cuts an image into patches.
    module : torch.nn.Module
        That module.
    prefix : tuple of str
        The names of the tokens in front of the patches.
    """

    owner: str
    embeds: str
    module: torch.nn.Module
    prefix: tuple[str, ...] = ()


def sources(model: torch.nn.Module) -> dict[str, Source]:
    """Return the sources of positions in a model, by the names of the models that own them."""
    names = {id(module): name for name, module in module_names(model)}
    found: dict[str, Source] = {}
    for owner, module in module_names(model):
        embeddings = _embeddings(module)
        if isinstance(embeddings, torch.nn.Embedding):
            if id(embeddings) in names:
                found[owner] = Source(owner, names[id(embeddings)], embeddings)
        elif embeddings is not None and (cutting := _cutting(embeddings)) is not None and id(cutting) in names:
            found[owner] = Source(owner, names[id(cutting)], cutting, _prefix(module))
    return found


def _embeddings(module: torch.nn.Module) -> Any:
    find = getattr(module, "get_input_embeddings", None)
    try:
        if find is not None:
            return find()
    # Those that hold several models raise, or look for a part that is not there.
    except (NotImplementedError, AttributeError):
        return None
    holder = getattr(module, "embeddings", None)
    held = (getattr(holder, name, None) for name in _EMBEDDINGS)
    return next((part for part in held if isinstance(part, torch.nn.Module)), None)


def _cutting(embeddings: Any) -> torch.nn.Module | None:
    """Return the convolution whose every step is a patch of its own."""
    modules = embeddings.modules() if isinstance(embeddings, torch.nn.Module) else ()
    convolutions = [module for module in modules if isinstance(module, torch.nn.Conv2d)]
    return next((c for c in convolutions if c.kernel_size == c.stride and c.stride > (1, 1)), None)


def _prefix(model: torch.nn.Module) -> tuple[str, ...]:
    """Return the names of the tokens that a vision model puts in front of the patches."""
    holders = [model, *(getattr(model, name, None) for name in ("embeddings", "vision_model"))]
    holders += [getattr(holder, "embeddings", None) for holder in holders[1:]]

    def held(*names: str) -> Any:
        values = (getattr(holder, name, None) for holder in holders for name in names)
        return next((value for value in values if isinstance(value, torch.Tensor)), None)

    names = ["cls"] if held(*_CLASS_TOKENS) is not None else []
    names += ["dist"] if held(*_SECOND_TOKENS) is not None else []
    registers = held(*_REGISTERS)
    return (*names, *(f"reg{i + 1}" for i in range(0 if registers is None else registers.shape[-2])))


def is_cross(name: str) -> bool:
    """Say whether a module is a decoder's attention to what an encoder made, by its name."""
    return bool(_CROSS.search(name))


class Positions:
    """The positions of one call's map.

    Parameters
    ----------
    call : Call
        The call.
    shape : tuple of int
        The map's.
    scene : Scene
        The model, and what it was given.
    """

    def __init__(self, call: Call, shape: tuple[int, ...], scene: Scene) -> None:
        self.call = call
        self.batch, _, self.queries, self.keys = shape
        self.scene = scene
        known: dict[str, Source] = scene.memory.setdefault("sources", sources(scene.model))
        self.source = next((known[owner] for owner in _around(call.name) if owner in known), None)

    def axes(self) -> Axes:
        """Return the axes of the queries and the keys, None where it is not known what they are."""
        if self.source is None:
            return Axes(None, None)
        if isinstance(self.source.module, torch.nn.Embedding):
            queries, keys, _ = self._of_text(self.source)
            return Axes(_for_each(queries, self.batch), _for_each(keys, self.batch))
        shape = self.scene.seen.get(self.source.embeds, {}).get("input")
        if shape is None:
            return Axes(None, None)
        patches = self._patches(self.source, shape)
        queries, keys = _fitting(patches, self.queries), _fitting(patches, self.keys)
        if keys is None and self.batch % shape[0] == 0:
            return Axes(None, None, windows=self.batch // shape[0])
        return Axes(queries, keys)

    def _patches(self, source: Source, shape: tuple[int, ...]) -> Patches:
        patch: Any = source.module.kernel_size
        grid = (shape[-2] // patch[0], shape[-1] // patch[1])
        made = Patches(grid=grid, prefix=source.prefix, image_size=(shape[-2], shape[-1]))
        self._remember(made)
        return made

    def _of_text(self, source: Source) -> Axes:
        """Return the tokens of the text that was given, with its padding.

        A step that generates asks with its last tokens only, and its keys reach back into the cache: to the tokens of
        the forwards before it.
        """
        ids = self.scene.seen.get(source.embeds, {}).get("input")
        if not isinstance(ids, torch.Tensor) or ids.dim() != 2:  # noqa: PLR2004  # (batch, token)
            return Axes(None, None)
        if is_cross(self.call.name):
            before = self._memory(source).get("whole")
            start = 0 if before is None else before.shape[1] - ids.shape[1]
            queries = self._tokens(ids, start) if ids.shape[1] == self.queries else None
            return Axes(queries, _fitting(self.scene.memory.get("encoded"), self.keys))
        whole = _reaching_back(ids, self.keys, self._memory(source))
        keys = None if whole is None else self._tokens(whole)
        self._remember(keys)
        if self.queries != ids.shape[1]:
            return Axes(_fitting(keys, self.queries), keys)
        start = 0 if whole is None else whole.shape[1] - ids.shape[1]
        return Axes(keys if keys is not None and start == 0 else self._tokens(ids, start), keys)

    def _memory(self, source: Source) -> dict[str, Any]:
        """Return what is remembered of one text: an encoder and a decoder may share the module that looks it up."""
        texts: dict[str, dict[str, Any]] = self.scene.memory.setdefault("texts", {})
        return texts.setdefault(source.owner, {})

    def _remember(self, axis: Axis | None) -> None:
        """Keep the axis of an encoder's layer for the layers that attend to what the encoder made."""
        if axis is not None and not any(part.startswith("decoder") for part in self.call.name.split(".")):
            self.scene.memory["encoded"] = axis

    def _tokens(self, ids: torch.Tensor, start: int = 0) -> Tokens:
        rows = ids.tolist()
        values = self.call.values
        mask = values.get("attention_mask", values.get("mask"))
        padding = None if is_cross(self.call.name) or start else _padding(mask, *ids.shape)
        tokenizer = self.scene.about
        if tokenizer is None:
            return Tokens([[str(token) for token in row] for row in rows], padding=padding, start=start)
        texts = [tokenizer.convert_ids_to_tokens(row) for row in rows]
        special = [[token in tokenizer.all_special_ids for token in row] for row in rows]
        words = self._words(tokenizer, ids, rows)
        return Tokens(
            texts,
            padding=padding,
            special=special,
            start=start,
            words=[numbers for numbers, _ in words],
            spellings=[spellings for _, spellings in words],
        )

    def _words(self, tokenizer: Any, ids: torch.Tensor, rows: list[list[int]]) -> list[Split]:
        """Return how words were split into tokens; every layer asks for the same ones."""
        known: tuple[Any, list[Split]] | None = self.scene.memory.get("words")
        if known is None or known[0] is not ids:
            known = ids, [split(tokenizer, row) for row in rows]
            self.scene.memory["words"] = known
        return known[1]


def reorder(order: torch.Tensor, memory: dict[str, Any]) -> None:
    """Have what is remembered of each beam change places, as the caches do."""
    for text in memory.get("texts", {}).values():
        before = text.get("whole")
        # Several caches of one model change places at once; a text does so once between two forwards.
        if before is not None and len(before) == len(order) and text.get("reordered") is not text.get("ids"):
            text.update(whole=before[order.to(before.device)], reordered=text.get("ids"))


def _around(name: str) -> Iterator[str]:
    """Give the names of the modules that hold a module, innermost first; the last is the model's own."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""


def _fitting(axis: Axis | None, length: int) -> Axis | None:
    return axis if axis is not None and len(axis) == length else None


def _for_each(axis: Axis | None, batch: int) -> Axis | None:
    """Return tokens with a text for each sample: the beams of a text share what its encoder read."""
    if not isinstance(axis, Tokens) or len(axis.texts) in {1, batch}:
        return axis
    texts = range(len(axis.texts))
    if batch % len(texts):
        return None
    return axis.take([text for text in texts for _ in range(batch // len(texts))])


def _reaching_back(ids: torch.Tensor, length: int, memory: dict[str, Any]) -> torch.Tensor | None:
    """Return as many tokens as there are keys: those given, with those of the forwards before in front of them."""
    if memory.get("ids") is not ids:
        memory.update(ids=ids, before=memory.get("whole"), whole=None)
    before = memory["before"]
    candidates = [ids]
    if before is not None and len(before) == len(ids):
        candidates.append(torch.cat([before.to(ids.device), ids], dim=1))
    whole = next((candidate for candidate in candidates if candidate.shape[1] == length), None)
    # A layer that sees a part of the text only says nothing of the rest.
    memory["whole"] = memory["whole"] if whole is None else whole
    return whole


def _padding(mask: Any, batch: int, length: int) -> torch.Tensor | None:
    """Return the positions that no query of the sample may see, shape (batch, token)."""
    if not isinstance(mask, torch.Tensor) or mask.dim() != 4 or mask.shape[-1] != length:  # noqa: PLR2004  # (batch, head, query, key)
        return None
    if mask.dtype != torch.bool and not mask.is_floating_point():
        return None
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return ~visible.any(dim=2).any(dim=1).expand(batch, length)
