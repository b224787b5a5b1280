"""Scan the classes called attention in timm and other libraries: each has a map, or is told to have none.

Run as a script it prints a line for each class, and returns 1 if one is silent. Arguments are names of models, such as
``timm:vit_tiny_patch16_224``. What is not installed is left out.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from anylocal.attention import capture_attention
from anylocal.testing import attention_verdicts, print_verdicts


def verdicts(name: str) -> Mapping[str, frozenset[str]]:
    """Return the verdicts on the classes of a model."""
    from .libraries import LIBRARIES

    torch.manual_seed(0)
    library, _, of_library = name.partition(":")
    model, inputs = LIBRARIES[library].build(of_library)

    def run(model: torch.nn.Module) -> object:
        with torch.no_grad():
            return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)

    return attention_verdicts(model.eval(), run, capture_attention)


def main(names: Sequence[str]) -> int:
    """Scan models, and return 1 if a class is silent."""
    from .libraries import LIBRARIES

    warnings.simplefilter("ignore")
    found = [f"{each}:{name}" for each, library in LIBRARIES.items() if not names for name in library.names()]
    return int(bool(print_verdicts(names or found, verdicts)))


if __name__ == "__main__":
    # A script belongs to no package, but the file beside it is imported relatively.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    warnings.simplefilter("ignore")
    sys.exit(importlib.import_module("tests.attention_scan").main(sys.argv[1:]))
