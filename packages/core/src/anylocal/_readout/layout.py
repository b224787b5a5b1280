"""Heads that a function has made a part of the batch: which of the two comes first.

Nearly all have the heads of a sample one after the other. Where the source tells of the other order, it is taken apart
in that.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import types

    import torch

_HEADS: Final = r"(?:n_?|num_?)?(?:h|heads?)"
_HEADS_LEAD: Final = re.compile(
    # (batch, position, head, feature), with the heads in front, as queries and as keys.
    r"permute\((?:[A-Za-z_][\w.]*(?:\([^()]*\))?, )?[(\[]?2, 0, (?:1, 3|3, 1)[)\]]"
    r"|(?:transpose|swapaxes)\(0, 1\)(?:\.contiguous\(\))?\.flatten\(0, 1\)"
    # In a pattern of einops.
    rf"|\({_HEADS} (?:b|bs|bsz|batch\w*)\)"
    # The parts of a tensor, put together along the first axis.
    r"|(?:cat|concat)\([^()]*(?:split|chunk)\((?:[^()]|\([^()]*\))*\)(?:, (?:dim=|axis=)?0)?\)"
    rf"|(?:cat|concat)\(\[.* in .*\b{_HEADS}\b.*\](?:, (?:dim=|axis=)?0)?\)"
)
"""What merges heads and batch so that all samples of the first head come first."""

_MAP: Final = re.compile(r"^(?! *(?:async )?def ).*(?:[Ss]oftmax|scaled_dot_product_attention|bmm)\(.*$", re.MULTILINE)
"""The line that makes the map: those behind it may lay out whatever comes of it."""


def heads_come_first(function: types.FunctionType) -> bool:
    """Say whether a function that makes heads a part of the batch has them in front of the samples."""
    return _HEADS_LEAD.search(source_up_to_softmax(function)) is not None


@lru_cache(maxsize=1024)
def source_up_to_softmax(function: types.FunctionType) -> str:
    """Return the source of a function up to its map, without comments and in one style; nothing where it has none."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            # A docstring may speak of other layouts.
            node.value = ast.Constant(None)
    source = ast.unparse(tree)
    made = _MAP.search(source)
    return source if made is None else source[: made.end()]


def split_heads(tensor: torch.Tensor, heads: int, function: types.FunctionType) -> torch.Tensor:
    """Return as (batch, head, …) what a function has as (batch × head, …), or as (head × batch, …)."""
    lead = heads_come_first(function)
    parted: torch.Tensor = tensor.unflatten(0, (heads, -1) if lead else (-1, heads))
    return parted.transpose(0, 1) if lead else parted
