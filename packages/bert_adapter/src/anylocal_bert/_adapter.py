"""Where attention lives in transformers' BERT, and how the axes are read off its input."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import transformers.models.bert.modeling_bert as bert
from transformers.cache_utils import Cache
from transformers.integrations import sdpa_attention

from anylocal._resolve import functions_in
from anylocal._torch import module_names
from anylocal.adapter import Adapter, Also, Axes, Scene, attention_functions
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

    def also(self, model: torch.nn.Module) -> Iterable[Also]:
        """Ask the embeddings for the tokens that they look up, and caches whose beams change places for the order."""
        if _word_embeddings(model) is not None:
            yield from (Also(function, ("input",)) for function in functions_in(torch.nn.Embedding.forward))
            yield from (Also(function, ("beam_idx",)) for function in functions_in(Cache.reorder_cache))

    def heard(self, call: Call, scene: Scene) -> None:
        """Have what was remembered of each beam change places as well."""
        order, before = call.values.get("beam_idx"), scene.memory.get("whole")
        if order is not None and before is not None:
            scene.memory["whole"] = before[order.to(before.device)]

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
        """Return the tokens of the text that was given, with its padding.

        A step that generates asks with its last tokens only, and its keys reach back into the cache: to the tokens of
        the forwards before it.
        """
        ids = scene.seen.get(_word_embeddings(scene.model) or "", {}).get("input")
        if ids is None or ids.dim() != 2:  # noqa: PLR2004  # (batch, token)
            return Axes(None, None)
        whole = _reaching_back(ids, shape[3], scene.memory)
        keys = None if whole is None else _tokens(whole, call, scene)
        if shape[2] != ids.shape[1]:
            return Axes(keys if len(keys or ()) == shape[2] else None, keys)
        start = 0 if whole is None else whole.shape[1] - ids.shape[1]
        return Axes(keys if keys is not None and start == 0 else _tokens(ids, call, scene, start), keys)


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


def _word_embeddings(model: torch.nn.Module) -> str | None:
    """Return the name of the module that looks up the tokens."""
    find = getattr(model, "get_input_embeddings", None)
    embeddings = find() if find is not None else getattr(getattr(model, "embeddings", None), "word_embeddings", None)
    return next((name for name, module in module_names(model) if module is embeddings), None)


def _tokens(ids: torch.Tensor, call: Call, scene: Scene, start: int = 0) -> Tokens:
    rows = ids.tolist()
    padding = _padding(call.values.get("attention_mask"), *ids.shape) if start == 0 else None
    if scene.about is None:
        return Tokens([[str(token) for token in row] for row in rows], padding=padding, start=start)
    texts = [scene.about.convert_ids_to_tokens(row) for row in rows]
    special = [[token in scene.about.all_special_ids for token in row] for row in rows]
    return Tokens(texts, padding=padding, special=special, start=start)


def _padding(mask: torch.Tensor | None, batch: int, length: int) -> torch.Tensor | None:
    """Return the positions that no query of the sample may see, shape (batch, token)."""
    if mask is None or mask.dim() != 4 or mask.shape[-1] != length:  # noqa: PLR2004  # (batch, head, query, key)
        return None
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return ~visible.any(dim=2).any(dim=1).expand(batch, length)


adapter = TransformersAdapter()
