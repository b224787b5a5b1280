"""Families of timm, one for each kind of layout and axes; `zoo.py` checks all 50."""

from __future__ import annotations

import functools

import pytest
import timm

from .zoo import FAMILIES, Finding, check

TRAPS = {
    "byoanet": "overlapping blocks of keys, heads in the batch",
    "cait": "talking heads, and the class token as the only query",
    "convit": "two softmaxes in a helper",
    "efficientvit_msra": "a loop over heads",
    "hiera": "reordered patches in windows, pooled queries",
    "iformer": "operands under other names, and one head",
    "maxxvit": "operands that are expressions, and strided windows",
    "mobilevit": "windows of every other pixel",
    "nest": "five axes, heads before blocks",
    "pvt_v2": "pooled keys",
    "swin_transformer": "shifted windows, a softmax that is a module",
    "tnt": "pixels within patches",
    "twins": "five axes, windows before heads",
    "vision_transformer_relpos": "a bias given as a mask",
    "xcit": "layers without a map among those with one",
}


@functools.cache
def finding(name: str) -> Finding:
    family = next(family for family in FAMILIES if family.module == name)
    if not timm.is_model(family.model):
        pytest.skip(f"timm {timm.__version__} has no {family.model}")
    return check(family)


@pytest.mark.parametrize("name", TRAPS)
def test_family(name: str) -> None:
    """All maps of the default model are the eager softmax in float64, and their patches are where the axes say."""
    assert finding(name).wrong == []


def test_all_families_are_listed_once() -> None:
    """The table has the 50 files of timm whose models compute a softmax of query and key."""
    assert len({family.module for family in FAMILIES}) == len(FAMILIES) == 50


def test_layers_without_a_map_are_counted() -> None:
    """Layers without a map are listed apart from those with one."""
    assert (finding("xcit").maps, finding("xcit").unsupported) == (2, 12)
