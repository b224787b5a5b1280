"""Scan the classes called attention in transformers: each has a map, or is told to have none.

Run as a script it prints a line for each class, and returns 1 if one is silent. Arguments are types of models.
"""

from __future__ import annotations

import importlib
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

import anylocal_bert
from anylocal.testing import attention_verdicts, print_verdicts


def verdicts(model_type: str) -> Mapping[str, frozenset[str]]:
    """Return the verdicts on the classes of a tiny model of a type."""
    from .exactness import build, run, runs

    level, given = runs(model_type)
    return attention_verdicts(
        build(model_type, level, 0.3), lambda model: run(model, given), anylocal_bert.capture_attention
    )


def _in_time(model_type: str) -> Mapping[str, frozenset[str]]:
    from .exactness import SECONDS

    signal.alarm(SECONDS)
    try:
        return verdicts(model_type)
    finally:
        signal.alarm(0)


def main(types: Sequence[str]) -> int:
    """Scan types, and return 1 if a class is silent."""
    from .exactness import quietly

    quietly()
    return int(bool(print_verdicts(types or sorted(MODEL_MAPPING_NAMES), _in_time)))


if __name__ == "__main__":
    # A script belongs to no package, but the files beside it use relative imports.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    warnings.simplefilter("ignore")
    sys.exit(importlib.import_module("tests.attention_scan").main(sys.argv[1:]))
