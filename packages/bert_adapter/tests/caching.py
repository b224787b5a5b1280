"""The cache of a model, under the name that the installed version of transformers gives it."""

from __future__ import annotations

import inspect
from typing import Any, Final

from transformers import LlamaModel

# Renamed in transformers 5, which warns of the old name.
NAME: Final = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"


def with_cache(cache: Any) -> dict[str, Any]:
    """Return the argument that passes a cache to a model, or to its ``generate()``."""
    return {NAME: cache}


def cache_of(output: Any) -> Any:
    """Return the cache in the output of a model."""
    return getattr(output, NAME)
