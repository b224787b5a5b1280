"""Check every type of transformers' AutoModel, and write what was found to a JSON file, for a table of the docs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # A script is in no package, and the files beside it import each other as in one.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(importlib.import_module("tests.exactness").main())
