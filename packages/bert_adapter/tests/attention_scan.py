"""Scan the classes called attention in transformers: each has a map, or is told to have none.

Run as a script it prints a line for each class, and returns 1 if one is silent. Arguments are types of models.
"""

from __future__ import annotations

import importlib
import signal
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

import anylocal_bert
from anylocal.testing import attention_verdicts


def verdicts(model_type: str) -> Mapping[str, frozenset[str]]:
    """Return the verdicts on the classes of a tiny model of a type."""
    from .exactness import build, run, runs

    level, given = runs(model_type)
    return attention_verdicts(
        build(model_type, level, 0.3), lambda model: run(model, given), anylocal_bert.capture_attention
    )


def main(types: Sequence[str]) -> int:
    """Scan types, and return 1 if a class is silent."""
    from .exactness import SECONDS, quietly

    quietly()
    found: defaultdict[str, set[str]] = defaultdict(set)
    for model_type in types or sorted(MODEL_MAPPING_NAMES):
        signal.alarm(SECONDS)
        try:
            of_type = verdicts(model_type)
        except Exception as error:  # noqa: BLE001  # a type that cannot be built or run
            print(f"{model_type} not run: {type(error).__name__}: {error}"[:160], file=sys.stderr)  # noqa: T201  # a script
            continue
        finally:
            signal.alarm(0)
        for cls, each in of_type.items():
            found[cls] |= each
    for cls in sorted(found):
        print(f"{cls:90} {'; '.join(sorted(found[cls]))}")  # noqa: T201  # a script
    silent = [cls for cls, each in found.items() if "silent" in each]
    print(f"{len(found)} classes, {len(silent)} of them silent")  # noqa: T201  # a script
    return int(bool(silent))


if __name__ == "__main__":
    # A script belongs to no package, but the files beside it use relative imports.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    warnings.simplefilter("ignore")
    sys.exit(importlib.import_module("tests.attention_scan").main(sys.argv[1:]))
