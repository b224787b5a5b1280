"""The sources of positions: the models within a model that embed a text or an image."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from anylocal.adapter import module_names

if TYPE_CHECKING:
    from collections.abc import Iterator

_CROSS: Final = re.compile(r"cross|encoder_attn|encdec|enc_dec|encoder_decoder", re.IGNORECASE)
# Embeddings of inner models without get_input_embeddings().
_EMBEDDINGS: Final = ("word_embeddings", "token_embedding", "patch_embedding", "patch_embeddings")
# Tables of token types, which tell the sentence of each token.
_TYPES: Final = ("token_type_embeddings", "token_type_embeddings_0", "segment_embedding", "segment_emb")
_CLASS_TOKENS: Final = ("cls_token", "class_token", "class_embedding")
_SECOND_TOKENS: Final = ("distillation_token", "dist_token")
_REGISTERS: Final = ("register_tokens", "reg_token")


@dataclass(frozen=True)
class Source:
    """The names of a model and of the module that embeds its input.

    `module` is an embedding of tokens, or the convolution that divides an image into patches, which come after the
    tokens in `prefix`. `types` is the name of the embedding of token types, and equals `embeds` in models that look
    them up as if they were tokens, as GPT-2 does.
    """

    owner: str
    embeds: str
    module: torch.nn.Module
    prefix: tuple[str, ...] = ()
    types: str | None = None


def sources(model: torch.nn.Module) -> dict[str, Source]:
    """Return the sources of positions in a model, by the names of the models that own them."""
    names = {id(module): name for name, module in module_names(model)}
    found: dict[str, Source] = {}
    for owner, module in module_names(model):
        embeddings = _embeddings(module)
        if isinstance(embeddings, torch.nn.Embedding):
            if id(embeddings) in names:
                name = names[id(embeddings)]
                found[owner] = Source(owner, name, embeddings, types=_types(model, module, name))
        elif embeddings is not None and (cutting := _cutting(embeddings)) is not None and id(cutting) in names:
            found[owner] = Source(owner, names[id(cutting)], cutting, _prefix(module))
    return found


def _embeddings(module: torch.nn.Module) -> Any:
    find = getattr(module, "get_input_embeddings", None)
    try:
        if find is not None:
            return find()
    # Models that hold several others raise, as some towers do, or look for a missing part, as some encoders do before
    # transformers 5.
    except (NotImplementedError, AttributeError):
        pass
    holder = getattr(module, "embeddings", None)
    held = (getattr(module, "embed_tokens", None), *(getattr(holder, name, None) for name in _EMBEDDINGS))
    return next((part for part in held if isinstance(part, torch.nn.Module)), None)


def _cutting(embeddings: Any) -> torch.nn.Module | None:
    """Return the convolution whose steps do not overlap, each of which is a patch."""
    modules = embeddings.modules() if isinstance(embeddings, torch.nn.Module) else ()
    convolutions = [module for module in modules if isinstance(module, torch.nn.Conv2d)]
    return next((c for c in convolutions if c.kernel_size == c.stride and c.stride > (1, 1)), None)


def _types(model: torch.nn.Module, owner: torch.nn.Module, embeds: str) -> str | None:
    """Return the name of the embedding of token types: beside that of the tokens, or the same one."""
    modules = dict(module_names(model))
    holder = embeds.rpartition(".")[0]
    for name in (f"{holder}.{types}".removeprefix(".") for types in _TYPES):
        types = modules.get(name)
        # Some models keep the table of the one they derive from, with a single row.
        if isinstance(types, torch.nn.Embedding) and types.num_embeddings > 1:
            return name
    beside = any(hasattr(part, types) for part in (owner, getattr(owner, "embeddings", None)) for types in _TYPES)
    return embeds if not beside and "token_type_ids" in inspect.signature(owner.forward).parameters else None


def _prefix(model: torch.nn.Module) -> tuple[str, ...]:
    """Return the names of the tokens that a vision model puts before the patches."""
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
    """Return whether a module is cross-attention, by its name."""
    return bool(_CROSS.search(name))


def around(name: str) -> Iterator[str]:
    """Yield the name of a module and those of the modules around it, innermost first; the model's own name is empty."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""
