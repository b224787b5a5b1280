"""From a text to its maps: tokenized, run once, captured."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import torch

from anylocal.errors import OptionError
from anylocal_bert._adapter import adapter
from anylocal_bert._positions import Encoded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from anylocal.attention import AttentionMaps


# What zoos call their tables of positions, and GPT-2 by initials.
_OF_POSITIONS = re.compile(r"(?:pos[^.]*|wpe)$")


def capture_text(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    text: str | Sequence[str],
    pair: str | Sequence[str] | None = None,
    *,
    target: str | Sequence[str] | None = None,
    **options: Any,
) -> AttentionMaps:
    """Run a model on a text, without gradients, and return every attention map with its tokens as axes.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model. Call its ``eval()`` first; it is run as it is.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    text : str or sequence of str
        One text, or a batch, which is padded to one length.
    pair : str or sequence of str, optional
        What stands behind each text, in models that read two.
    target : str or sequence of str, optional
        What the decoder of an encoder-decoder has written; by default only its start token.
    **options
        As `capture_attention` has them.

    Returns
    -------
    AttentionMaps
        The maps of all layers, in the order in which they ran.

    Raises
    ------
    OptionError
        If several texts are to be padded by a tokenizer that has no padding token, the model has no decoder for the
        target, or a text is longer than the model reads.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel, ByT5Tokenizer
    >>> from anylocal_bert import capture_text
    >>> config = BertConfig(num_hidden_layers=1, hidden_size=48, num_attention_heads=3, intermediate_size=96)
    >>> model = BertModel(config).eval()
    >>> maps = capture_text(model, ByT5Tokenizer(), "owl")
    >>> maps[0].keys.labels()
    ['o', 'w', 'l', '</s>']
    """
    several = not isinstance(text, str) and len(text) > 1
    if several and getattr(tokenizer, "pad_token", None) is None:
        raise OptionError(
            f"{type(tokenizer).__name__} has no padding token, and {len(text)} texts are to be padded to one length."
            " Set one, tokenizer.pad_token = tokenizer.eos_token, or give one text at a time."
        )
    read: Any = tokenizer
    texts = text if isinstance(text, str) else list(text)
    encoding = read(texts, pair if pair is None or isinstance(pair, str) else list(pair), **_options(several))
    given = dict(encoding)
    # Models without token types are not told where the second text begins, but the tokenizer knows it.
    about = tokenizer if pair is None else Encoded(tokenizer, given["input_ids"], _segments(encoding))
    given |= _for_decoder(model, tokenizer, len(given["input_ids"]), target)
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in _taken(model, given).items()}
    _check_call(model, inputs)
    with adapter.capture_attention(model, about=about, **options) as maps, torch.no_grad():
        try:
            model(**inputs)
        except (IndexError, RuntimeError) as error:
            most = longest(model)
            length = max(given[name].shape[1] for name in ("input_ids", "decoder_input_ids") if name in given)
            if most is None or length <= most:
                raise
            raise OptionError(
                f"{type(model).__name__} reads {most} tokens at most, and the text has {length}. Give a shorter one, or"
                " capture_attention what your own tokenizer(..., truncation=True) leaves of it."
            ) from error
    return maps


def longest(model: torch.nn.Module) -> int | None:
    """Return for how many tokens a model has positions; None where it has no table of them, as with rotary ones."""
    tables = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and _OF_POSITIONS.search(name)
    ]
    # RoBERTa and its kin count positions from behind the one of padding.
    lengths = [table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables]
    said = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if lengths and isinstance(said, int) and said > 0:
        lengths.append(said)
    return min(lengths, default=None)


def _options(several: bool) -> dict[str, Any]:  # noqa: FBT001  # what it is for is its only argument
    return {"padding": several, "return_tensors": "pt"}


def _for_decoder(model: Any, tokenizer: Any, batch: int, target: str | Sequence[str] | None) -> dict[str, torch.Tensor]:
    config = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False):
        if target is not None:
            raise OptionError(f"{type(model).__name__} has no decoder for a target. Leave target out.")
        return {}
    start = getattr(config, "decoder_start_token_id", None)
    first = torch.full((batch, 1), (tokenizer.pad_token_id or 0) if start is None else start)
    if target is None:
        return {"decoder_input_ids": first}
    texts = [target] * batch if isinstance(target, str) else list(target)
    # The decoder reads its own text behind the start token.
    encoding = tokenizer(text_target=texts, **_options(batch > 1))
    given = {"decoder_input_ids": torch.cat([first, encoding["input_ids"]], dim=1)}
    if batch == 1:
        return given
    # Without it, nothing tells that a shorter target is padded.
    given["decoder_attention_mask"] = torch.cat([torch.ones_like(first), encoding["attention_mask"]], dim=1)
    return given


def _segments(encoding: Any) -> list[list[int | None]]:
    """Return which of two texts each token is of; only tokenizers that keep count of words know it."""
    texts = range(len(encoding["input_ids"]))
    if not encoding.is_fast:
        return [[None] * len(encoding["input_ids"][0]) for _ in texts]
    return [encoding.sequence_ids(text) for text in texts]


def _check_call(model: torch.nn.Module, given: Mapping[str, Any]) -> None:
    """Refuse a model that asks for what no tokenizer gives, as those do that hold one of transformers'."""
    takes = inspect.signature(model.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [p.name for p in takes if p.default is p.empty and p.kind in kinds and p.name not in given]
    if missing:
        inside = next((name for name, module in model.named_modules() if name and hasattr(module, "config")), None)
        cure = f"Give the model inside of it, its .{inside}" if inside else "Run it yourself"
        raise OptionError(
            f"{type(model).__name__} asks for {', '.join(missing)}, which is nothing that a tokenizer gives. {cure}, or"
            " capture_attention while you run it."
        )


def _taken(model: torch.nn.Module, given: dict[str, Any]) -> dict[str, Any]:
    """Return what the model takes of what the tokenizer gives: some give token types to models that know none."""
    takes = inspect.signature(model.forward).parameters
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
    unknown = {"token_type_ids"} - takes.keys() if anything else given.keys() - takes.keys()
    return {name: value for name, value in given.items() if name not in unknown}
