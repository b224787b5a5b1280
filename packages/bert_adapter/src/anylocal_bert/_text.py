"""From a text to its maps: tokenize, run once, capture."""

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


# Names of tables of positions; GPT-2 abbreviates "word position embedding".
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
        A transformers model, run in the mode that it is in: call ``eval()`` first.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    text : str or sequence of str
        One text, or a batch, which is padded to one length.
    pair : str or sequence of str, optional
        The second text of each pair, for models that read two.
    target : str or sequence of str, optional
        The decoder's text, for encoder-decoders; by default only the start token.
    **options
        Passed to `capture_attention`.

    Returns
    -------
    AttentionMaps
        The maps of all layers, in order of execution.

    Raises
    ------
    OptionError
        If a batch must be padded and the tokenizer has no padding token, a target is given to a model without a
        decoder, or a text is longer than the model reads.

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
    if hasattr(text, "convert_ids_to_tokens"):
        msg = "capture_text takes the model, the tokenizer and then the text; the tokenizer was given as the text."
        raise OptionError(msg)
    several = not isinstance(text, str) and len(text) > 1
    if several and getattr(tokenizer, "pad_token", None) is None:
        raise OptionError(
            f"{type(tokenizer).__name__} has no padding token, and {len(text)} texts must be padded to one length."
            " Set one, tokenizer.pad_token = tokenizer.eos_token, or give one text at a time."
        )
    read: Any = tokenizer
    texts = text if isinstance(text, str) else list(text)
    pairs = pair if pair is None or isinstance(pair, str) else list(pair)
    encoding = read(texts, pairs, padding=several, return_tensors="pt")
    given = dict(encoding)
    # Only the tokenizer knows where the second text begins, in models without token types.
    about = tokenizer if pair is None else Encoded(tokenizer, given["input_ids"], _segments(encoding))
    given |= _for_decoder(model, tokenizer, len(given["input_ids"]), target)
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in _accepted(model, given).items()}
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
                " truncate it by tokenizer(..., truncation=True), and run the model inside capture_attention."
            ) from error
    return maps


def longest(model: torch.nn.Module) -> int | None:
    """Return the most tokens that a model has positions for; None without a table, as with rotary positions."""
    found = (module for name, module in model.named_modules() if _OF_POSITIONS.search(name))
    tables = [module for module in found if isinstance(module, torch.nn.Embedding)]
    # RoBERTa and models like it count positions from after the one of padding.
    lengths = [table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables]
    said = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if lengths and isinstance(said, int) and said > 0:
        lengths.append(said)
    return min(lengths, default=None)


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
    # The decoder reads its text after the start token.
    encoding = tokenizer(text_target=texts, padding=batch > 1, return_tensors="pt")
    given = {"decoder_input_ids": torch.cat([first, encoding["input_ids"]], dim=1)}
    if batch > 1:
        # Without it, the padding of shorter targets would be taken for tokens.
        given["decoder_attention_mask"] = torch.cat([torch.ones_like(first), encoding["attention_mask"]], dim=1)
    return given


def _segments(encoding: Any) -> list[list[int | None]]:
    """Return which of two texts each token belongs to, known to fast tokenizers only."""
    ids = encoding["input_ids"]
    return [encoding.sequence_ids(text) if encoding.is_fast else [None] * len(row) for text, row in enumerate(ids)]


def _check_call(model: torch.nn.Module, given: Mapping[str, Any]) -> None:
    """Refuse a model with required arguments that no tokenizer returns, such as one that wraps a transformers model."""
    takes = inspect.signature(model.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [p.name for p in takes if p.default is p.empty and p.kind in kinds and p.name not in given]
    if missing:
        inside = next((name for name, module in model.named_modules() if name and hasattr(module, "config")), None)
        remedy = f"Pass the model inside it, its .{inside}, or run" if inside else "Run"
        raise OptionError(
            f"{type(model).__name__} requires {', '.join(missing)}, which no tokenizer returns. {remedy} it yourself"
            " inside capture_attention."
        )


def _accepted(model: torch.nn.Module, given: dict[str, Any]) -> dict[str, Any]:
    """Return those outputs of the tokenizer that the model takes: some tokenizers add token types for any model."""
    takes = inspect.signature(model.forward).parameters
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
    unknown = {"token_type_ids"} - takes.keys() if anything else given.keys() - takes.keys()
    return {name: value for name, value in given.items() if name not in unknown}
