"""Every attention map of a Hugging Face model, from the model as it runs.

>>> import torch
>>> from transformers import BertConfig, BertModel
>>> from anylocal_bert import capture_attention
>>> config = BertConfig(num_hidden_layers=2, hidden_size=48, num_attention_heads=3, intermediate_size=96)
>>> model = BertModel(config).eval()
>>> with capture_attention(model) as maps, torch.no_grad():
...     output = model(torch.tensor([[101, 7592, 102]]))
>>> maps[1]
AttentionMap('encoder.layer.1.attention.self', batch=1, heads=3, queries=3, keys=3, fused)
>>> maps[1].keys.labels()
['101', '7592', '102']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anylocal_bert._adapter import adapter
from anylocal_bert._text import capture_text

if TYPE_CHECKING:
    import torch
    from transformers import FeatureExtractionMixin, PreTrainedTokenizerBase, ProcessorMixin

    from anylocal.adapter import AttentionCapture
    from anylocal.view import explore
    from anylocal_bert import plot
    from anylocal_bert._bertviz import bertviz

install = adapter.install
uninstall = adapter.uninstall


def capture_attention(
    model: torch.nn.Module,
    *,
    tokenizer: PreTrainedTokenizerBase | ProcessorMixin | FeatureExtractionMixin | None = None,
    **options: Any,
) -> AttentionCapture:
    """Return a scope that captures every attention map of a model.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model, or a fork of one.
    tokenizer : PreTrainedTokenizerBase, ProcessorMixin or feature extractor, optional
        Labels the axes with the text of the tokens; without it, with their ids. A processor has a tokenizer, and its
        feature extractor tells when each frame of a sound begins.
    **options
        ``modules``, ``keep``, ``limit``, ``threads``, ``reduce`` and ``any_version``; see `Adapter.capture_attention`.

    Returns
    -------
    AttentionCapture
        For a ``with`` statement, which yields the maps.

    Raises
    ------
    VersionError
        If the installed version of transformers is too old.
    TargetError
        If the model computes no attention map.
    UnsupportedError
        If it computes one in a way that cannot be read exactly.

    Examples
    --------
    >>> import torch
    >>> from transformers import BertConfig, BertModel, ByT5Tokenizer
    >>> from anylocal_bert import capture_attention
    >>> config = BertConfig(num_hidden_layers=1, hidden_size=48, num_attention_heads=3, intermediate_size=96)
    >>> model = BertModel(config).eval()
    >>> tokenizer = ByT5Tokenizer()
    >>> with capture_attention(model, tokenizer=tokenizer) as maps, torch.no_grad():
    ...     output = model(**tokenizer("owl", return_tensors="pt"))
    >>> maps[0].keys.labels()
    ['o', 'w', 'l', '</s>']
    """
    return adapter.capture_attention(model, about=tokenizer, **options)


__all__ = ["adapter", "bertviz", "capture_attention", "capture_text", "explore", "install", "plot", "uninstall"]


# Who captures without a picture does not wait for matplotlib. Type checkers know all names.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "plot":
            return import_module("anylocal_bert.plot")
        if name == "explore":
            return import_module("anylocal.view").explore
        if name == "bertviz":
            return import_module("anylocal_bert._bertviz").bertviz
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
