"""What is known of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from anylocal._maps.map import AttentionMap

if TYPE_CHECKING:
    from collections.abc import Mapping

Recorded: TypeAlias = tuple[tuple[str, ...], tuple[Any, ...]]
"""The names under which operands of a call are recorded, and the operands."""


class Kernel(NamedTuple):
    """A kernel, whose functions may be several.

    Parameters
    ----------
    functions : tuple of str
        The names of its functions.
    names : tuple of str
        The names under which its operands are recorded.
    map : callable
        From the operands, by name, and labels to a map.
    exact : tuple of str
        The arguments that decide the map.
    neutral : tuple of str
        The arguments that do not.
    refused : tuple of str
        Some of the other arguments, all of which are refused.
    lays_out_heads : bool
        Whether its own signature says which axis the heads are on.
    """

    functions: tuple[str, ...]
    names: tuple[str, ...]
    map: Callable[..., AttentionMap]
    exact: tuple[str, ...]
    neutral: tuple[str, ...]
    refused: tuple[str, ...] = ()
    lays_out_heads: bool = False


def operand_names(kernel: str, *operands: str) -> tuple[str, ...]:
    """Return the names under which the operands of a kernel are recorded."""
    return tuple(f"{kernel}.{operand}" for operand in (*operands, "unknown"))


def listed(unknown: Mapping[str, Any], more: tuple[Any, ...] = ()) -> str:
    """Return the arguments that are not known, for a message."""
    return ", ".join([*unknown, *["more by position" for _ in more]])
