"""Check every type of transformers' AutoModel, and write the findings to a JSON file, for a table of the docs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # A script belongs to no package, but the files beside it use relative imports.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(importlib.import_module("tests.exactness").main())
