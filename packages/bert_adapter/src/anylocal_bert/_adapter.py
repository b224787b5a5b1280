"""Where attention lives in transformers' BERT, and how the axes are read off its input."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import transformers.models.bert.modeling_bert as bert
from transformers.integrations import sdpa_attention

from anylocal._resolve import functions_in
from anylocal._torch import module_names
from anylocal.adapter import Adapter, Axes, Scene, attention_functions
from anylocal.attention import Tokens

if TYPE_CHECKING:
    from anylocal import Call

# Almost every model's fused call goes through one shared function; transformers 4 had classes of BERT's own for it.
_OF_BERT = ("eager_attention_forward", "BertSelfAttention", "BertSdpaSelfAttention")


class TransformersAdapter(Adapter):
    """Captures the attention of Hugging Face's BERT, and of forks of its source."""

    distribution: ClassVar[str] = "anylocal-bert"
    zoo: ClassVar[str] = "transformers"
    hints: ClassVar[tuple[str, ...]] = ("attention_mask", "q_length")

    def functions(self) -> Iterator[types.FunctionType]:
        """Give the function that runs the fused kernel, and those of BERT that make the map or run it themselves."""
        yield from attention_functions(
            getattr(sdpa_attention, "sdpa_attention_forward", None), *(getattr(bert, name, None) for name in _OF_BERT)
        )

    def also(self, model: torch.nn.Module) -> Iterable[tuple[types.FunctionType, tuple[str, ...]]]:
        """Ask the embeddings for the tokens that they look up."""
        if _word_embeddings(model) is not None:
            yield from ((function, ("input",)) for function in functions_in(torch.nn.Embedding.forward))

    def operands(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:
        """Undo the packing of grouped-query heads into the query axis, which a masked decoding step has.

        There the query is (batch, key heads, groups, features) instead of (batch, heads, 1, features), and so is a mask
        that differs between heads.
        """
        query, mask = given["query"], given.get("attn_mask")
        if call.values.get("q_length", query.shape[2]) == query.shape[2]:
            return given
        unpacked = dict(given, query=query.flatten(1, 2)[:, :, None])
        if mask is not None and mask.shape[1] != 1:
            unpacked["attn_mask"] = mask.flatten(1, 2)[:, :, None]
        return unpacked

    def axes(self, call: Call, shape: tuple[int, ...], scene: Scene) -> Axes:
        """Return the tokens of the text that was given, with its padding."""
        tokens = _tokens(call, scene)
        if tokens is None:
            return Axes(None, None)
        # A step that generates asks with its last token only, and its keys reach back into the cache.
        return Axes(*(tokens if len(tokens) == length else None for length in shape[2:]))


def _word_embeddings(model: torch.nn.Module) -> str | None:
    """Return the name of the module that looks up the tokens."""
    find = getattr(model, "get_input_embeddings", None)
    embeddings = find() if find is not None else getattr(getattr(model, "embeddings", None), "word_embeddings", None)
    return next((name for name, module in module_names(model) if module is embeddings), None)


def _tokens(call: Call, scene: Scene) -> Tokens | None:
    ids = scene.seen.get(_word_embeddings(scene.model) or "", {}).get("input")
    if ids is None or ids.dim() != 2:  # noqa: PLR2004  # (batch, token)
        return None
    rows = ids.tolist()
    padding = _padding(call.values.get("attention_mask"), *ids.shape)
    if scene.about is None:
        return Tokens([[str(token) for token in row] for row in rows], padding=padding)
    texts = [scene.about.convert_ids_to_tokens(row) for row in rows]
    special = [[token in scene.about.all_special_ids for token in row] for row in rows]
    return Tokens(texts, padding=padding, special=special)


def _padding(mask: torch.Tensor | None, batch: int, length: int) -> torch.Tensor | None:
    """Return the positions that no query of the sample may see, shape (batch, token)."""
    if mask is None or mask.dim() != 4 or mask.shape[-1] != length:  # noqa: PLR2004  # (batch, head, query, key)
        return None
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return ~visible.any(dim=2).any(dim=1).expand(batch, length)


adapter = TransformersAdapter()
