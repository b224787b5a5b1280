"""A sample of the classes that `attention_scan.py` scans."""

from __future__ import annotations

import pytest

from .attention_scan import verdicts


@pytest.mark.parametrize(
    ("name", "cls", "verdict"),
    [
        ("timm:xcit_nano_12_p16_224", "ClassAttentionBlock", "map"),
        ("timm:nextvit_small", "EfficientAttention", "map"),
        ("timm:skresnet18", "SelectiveKernelAttn", "refused"),
        ("torchvision:maxvit_t", "RelativePositionalMultiHeadAttention", "map"),
    ],
)
def test_no_class_is_silent(name: str, cls: str, verdict: str) -> None:
    """Each has a map, or is told to have none."""
    found = verdicts(name)
    assert all("silent" not in each for each in found.values())
    of_class = next(each for key, each in found.items() if key.endswith(f".{cls}"))
    assert {each.partition(":")[0] for each in of_class} == {verdict}
