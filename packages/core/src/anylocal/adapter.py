"""The base class of adapters for model zoos, and the registry of installed ones.

An adapter knows where attention lives in its zoo and how the axes are read off a model and its input. The base does the
rest: it finds the attention functions of a model, records the operands of each map, checks versions before it touches
anything, separates forward passes, and marks a zoo's own functions for `get_local`.

An adapter is registered by the entry point group ``anylocal.adapters``, which names its module; the module holds it as
``adapter``.
"""

from __future__ import annotations

from anylocal.errors import DependencyError

try:
    from anylocal._engine.functions import functions_in
    from anylocal._engine.rewrite import argument_names
    from anylocal._engine.spec import CaptureSpec
    from anylocal._engine.tensors import module_names
    from anylocal._maps.layers import check_forward
    from anylocal._maps.tokens import Flags
    from anylocal._readout.adapter import Adapter, Mixed
    from anylocal._readout.context import InputContext, MapAxes, Observation
    from anylocal._readout.kernels import stands_for_flash, stands_for_flex
    from anylocal._readout.layout import split_heads
    from anylocal._readout.reading import Reading
    from anylocal._readout.registry import adapters, attention_functions
    from anylocal._readout.scope import AttentionCapture
    from anylocal._readout.softmax import reading_of
    from anylocal._readout.source import source_up_to_softmax
except ModuleNotFoundError as error:
    if error.name not in {"packaging", "torch"}:
        raise
    raise DependencyError(
        f'anylocal.adapter needs {error.name}: pip install "anylocal[torch]".', name=error.name
    ) from error

__all__ = [
    "Adapter",
    "AttentionCapture",
    "CaptureSpec",
    "Flags",
    "InputContext",
    "MapAxes",
    "Mixed",
    "Observation",
    "Reading",
    "adapters",
    "argument_names",
    "attention_functions",
    "check_forward",
    "functions_in",
    "module_names",
    "reading_of",
    "source_up_to_softmax",
    "split_heads",
    "stands_for_flash",
    "stands_for_flex",
]


def __dir__() -> list[str]:
    return __all__
