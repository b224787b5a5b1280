"""The numeric part of the page's script, run by node: it computes what NumPy and Python do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from anylocal._drawing.norms import KNOTS, Rank
from anylocal._drawing.scale import EVEN, FEW_KEYS, FEW_VALUES, top_of
from anylocal._page.assemble import script

from .node import in_node

if TYPE_CHECKING:
    from pathlib import Path

RULES = {"few": {"keys": FEW_KEYS, "values": FEW_VALUES}, "even": EVEN}


def test_the_script_has_each_module_after_those_that_it_imports() -> None:
    """No statement of a module is left, and nothing is used before it is there."""
    text = script()
    assert not re.search(r"^(import|export)\b", text, re.MULTILINE)
    assert text.index("function bytesOf(") < text.index("const TABLES = ") < text.index("class Panel")


def test_a_scale_ends_where_that_of_python_does(tmp_path: Path) -> None:
    """Of weights with a few sinks, of nearly even ones, of few, and of none."""
    rng = np.random.default_rng(0)
    rows = [rng.random(300) ** 8, 1 + 0.01 * rng.random(300), np.r_[rng.random(99) / 100, 1], rng.random(20), []]
    sorted_rows = [np.sort(np.float32(row)).tolist() for row in rows]
    code = (
        'import { topOf } from "./scales.js";\n'
        "const made = given.rows.map((row) => topOf(row, row.length, given.rules));"
    )
    found = in_node(tmp_path, code, {"rows": sorted_rows, "rules": RULES})
    assert found == pytest.approx([top_of(np.array(row)) for row in sorted_rows])


def test_ranks_are_those_of_python(tmp_path: Path) -> None:
    """Also where weights are equal, and between those that are known."""
    values = np.sort(np.r_[np.zeros(10), np.random.default_rng(0).random(50) ** 4])
    code = (
        'import { rankOf } from "./scales.js";\n'
        "const made = given.asked.map(rankOf(Float32Array.from(given.values), given.knots));"
    )
    asked = [*values.tolist(), 0.1, 0.5]
    found = in_node(tmp_path, code, {"values": values.tolist(), "asked": asked, "knots": KNOTS})
    assert found == pytest.approx(np.asarray(Rank(values)(np.array(asked))), abs=1e-5)
