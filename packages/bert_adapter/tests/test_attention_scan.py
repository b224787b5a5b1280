"""A sample of the classes that `attention_scan.py` scans."""

from __future__ import annotations

import pytest

from .attention_scan import verdicts


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["bert", "clip", "longformer", "t5"])
def test_no_class_is_silent(model_type: str) -> None:
    """Each has a map, or is told to have none."""
    found = verdicts(model_type)
    assert found
    assert all("silent" not in each for each in found.values())
