"""The numeric modules of the page, run by node without a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def in_node(folder: Path, code: str, given: Any = None) -> Any:
    """Run code beside the modules of the page, with `given` as a value, and return the value of its `made`."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("No node on PATH, which runs the page's modules")
    with as_file(files("anylocal") / "_page" / "js") as modules:
        shutil.copytree(modules, folder, dirs_exist_ok=True)
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    (folder / "given.json").write_text(json.dumps(given), "utf-8")
    head = 'import { readFileSync } from "node:fs";\nconst given = JSON.parse(readFileSync("given.json"));\n'
    (folder / "try.js").write_text(f"{head}{code}\nconsole.log(JSON.stringify(made));\n", "utf-8")
    done = subprocess.run([node, "try.js"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
