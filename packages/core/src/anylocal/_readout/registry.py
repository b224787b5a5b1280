"""The adapters that are installed."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

from anylocal._engine.functions import functions_in
from anylocal._readout.adapter import Adapter
from anylocal._readout.library import entry_points
from anylocal._readout.softmax import reading_of
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator


def attention_functions(*candidates: object) -> Iterator[types.FunctionType]:
    """Yield the functions that compute attention, among functions and classes of modules.

    Parameters
    ----------
    *candidates : function, class or None
        A class stands for its ``forward``; None, for a class that a version of the zoo lacks, is ignored.

    Examples
    --------
    >>> from anylocal.adapter import attention_functions
    >>> def attend(q, k, v):
    ...     attn = (q @ k.mT).softmax(-1)
    ...     return attn @ v
    >>> [function.__name__ for function in attention_functions(attend, dict.get, None)]
    ['attend']
    """
    for candidate in candidates:
        forward = vars(candidate).get("forward") if isinstance(candidate, type) else candidate
        yield from (function for function in functions_in(forward) if reading_of(function) is not None)


def adapters() -> dict[str, Adapter]:
    """Return the installed adapters, by the library that each reads.

    Raises
    ------
    UnsupportedError
        If an entry point does not hold an adapter.

    Examples
    --------
    >>> from anylocal.adapter import adapters
    >>> {name: adapter.zoo for name, adapter in adapters().items()}
    {...}
    """
    return {library: load(entry) for library, entry in entry_points().items()}


def load(entry: importlib.metadata.EntryPoint) -> Adapter:
    """Import an adapter.

    Raises
    ------
    UnsupportedError
        If what is registered is no adapter.
    """
    adapter = getattr(importlib.import_module(entry.module), "adapter", None)
    if not isinstance(adapter, Adapter):
        raise UnsupportedError(f"{entry.module}, registered as {entry.name!r}, holds no Adapter called adapter.")
    return adapter
