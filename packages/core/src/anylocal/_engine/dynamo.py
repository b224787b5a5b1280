"""What compiled code leaves behind for the recorder.

dynamo traces what rewritten code calls, and guards on all that it reads: were a record appended to a list, the list's
length would be guarded, and every call would compile anew. Two things it does not look into: an object that is only
put somewhere else, and what an object that is replaced does as it goes. So traced code builds a chain. Each record is
a new `Cell` on top of those before, and a new `_Tick` replaces the last one, whose end brings the chain in while the
compiled call is still being left.

A chain that another thread's replaces before it is brought in brings itself in as it goes.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from anylocal._engine.lock import lock
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

from anylocal._engine.tensors import from_torch, is_tensor


def tracing() -> bool:
    """Return whether dynamo is tracing; the compiler's own function stands here as soon as torch is there."""
    return False


class LinkedRecord:
    """One record, on top of those before.

    Parameters
    ----------
    below : LinkedRecord or None
        The one before.
    listener : object
        Whose `receive` takes the record.
    record : tuple
        What that is called with.
    """

    # dynamo makes one without attributes, as an example for itself.
    below: LinkedRecord | None = None
    listener: Any = None
    record: tuple[Any, ...] = ()

    def __init__(self, below: LinkedRecord | None, listener: Any, record: tuple[Any, ...]) -> None:
        self.below = below
        self.listener = listener
        self.record = record

    def __del__(self) -> None:
        """Hand over what nobody has brought in."""
        if self.listener is not None:
            _bring_in(self)


class _Tick:
    """What a compiled call replaces as it ends."""

    def __del__(self) -> None:
        """Bring in what compiled calls have left."""
        # As the interpreter goes down, the names of a module are None.
        if top is not None:
            collect()


ROOT: Final = LinkedRecord(None, None, ())


class _Top:
    """Where compiled code finds the chain."""

    def __init__(self) -> None:
        self.cell = ROOT
        self.tick = _Tick()


top: Final = _Top()


def refuse_export() -> None:
    """Raise if torch.export is writing a model down."""
    if is_exporting():
        msg = (
            "torch.export writes a model down without its Python code, and a capture would end up in it or see no real"
            " values. Export the model outside of the scope."
        )
        raise UnsupportedError(msg)


def is_pending() -> bool:
    """Return whether compiled code has left something that was not brought in, as its first call does."""
    return top.cell is not ROOT


def leave(listener: Any, *record: Any) -> None:
    """Leave a record, from traced code.

    Raises
    ------
    UnsupportedError
        If torch.export traces, whose graph has no place to leave it in.
    """
    refuse_export()
    # In this order, in which it is replayed too: the tick must find the cell in its place.
    top.cell = LinkedRecord(top.cell, listener, record)
    top.tick = _Tick()


def collect() -> None:
    """Bring in what compiled code has left."""
    if is_pending():
        cell, top.cell = top.cell, ROOT
        _bring_in(cell)


def _bring_in(last: LinkedRecord) -> None:
    with lock:
        left = []
        cell: LinkedRecord | None = last
        while cell is not None and cell.listener is not None:
            left.append((cell.listener, cell.record))
            below, cell.below, cell.listener, cell.record = cell.below, None, None, ()
            cell = below
        for listener, record in reversed(left):
            listener.receive(*record)


def watch() -> None:
    """Take the compiler's own word for whether it is tracing, once torch is there."""
    global tracing  # noqa: PLW0603  # dynamo knows its own function, and no wrapper of it
    known = compiler()
    if known is not None and tracing is not known.is_tracing:
        tracing = known.is_tracing
        # What runs as an object goes would be compiled as well.
        for function in (LinkedRecord.__del__, _Tick.__del__):
            known.skip(function.__code__)


class Compiler(NamedTuple):
    """What we need of dynamo: a function that it knows, and a way to keep it away from a code and what that calls."""

    is_tracing: Callable[[], bool]
    skip: Callable[[types.CodeType], None]


def compiler() -> Compiler | None:
    """Return what we need of dynamo, if torch is imported; dynamo itself need not be."""
    is_tracing = getattr(from_torch("compiler"), "is_dynamo_compiling", None)
    if is_tracing is None:
        return None
    frames = from_torch("_C")._dynamo.eval_frame
    action = frames._FrameAction.SKIP  # noqa: SLF001  # there is no public way that does not import dynamo
    strategy = frames._FrameExecStrategy(action, action)  # noqa: SLF001  # as above
    return Compiler(is_tracing, lambda code: frames.set_code_exec_strategy(code, strategy))


def is_exporting() -> bool:
    """Return whether torch.export is writing a model down."""
    # Not the public function: where dynamo traces, torch 2.9 takes it to be true whatever is being done.
    return bool(getattr(from_torch("compiler"), "_is_exporting_flag", False))


def refuse_to_retain_gradient(value: object, message: Callable[[], Exception]) -> None:
    """Have a tensor that has left a compiled graph refuse to wait for a gradient that will never come."""
    grad_fn = value.grad_fn if is_tensor(value) else None
    if grad_fn is None or grad_fn.name() != "CompiledFunctionBackward":
        return

    def retain_grad() -> None:
        raise message()

    value.retain_grad = retain_grad  # type: ignore[attr-defined]  # of this one tensor


def code_changed(*, captured: bool, variants: int = 0) -> None:
    """Make compiled models notice that the code of a function is another now.

    dynamo does not guard on the code of functions that it has inlined, so what it compiled is dropped.

    Parameters
    ----------
    captured : bool
        Whether any function is captured now.
    variants : int
        For how many modules one function may have to be compiled, each by itself.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return
    settings = vars(_settings(dynamo.config, variants)) if captured else {}
    for name in set(_before) - set(settings):
        setattr(dynamo.config, name, _before.pop(name))
    for name, value in settings.items():
        _before.setdefault(name, getattr(dynamo.config, name))
        setattr(dynamo.config, name, value)
    if _has_compiled():
        dynamo.reset()


# dynamo's settings as they were before a capture was opened.
_before: Final[dict[str, Any]] = {}


def _settings(config: Any, variants: int) -> types.SimpleNamespace:
    """Return how dynamo is to be set while functions are captured."""
    settings = types.SimpleNamespace()
    # dynamo does not compile a checkpoint that records, unless it records in the forward and not when that is
    # recomputed: as an eager one does.
    if hasattr(config, "skip_fwd_side_effects_in_bwd_under_checkpoint"):
        settings.skip_fwd_side_effects_in_bwd_under_checkpoint = True
    if variants and hasattr(config, "recompile_limit"):
        settings.recompile_limit = _before.get("recompile_limit", config.recompile_limit) + variants
    return settings


def _has_compiled() -> bool:
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    return bool(counters.get("frames") or counters.get("stats"))
