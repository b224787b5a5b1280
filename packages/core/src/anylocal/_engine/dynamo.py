"""Records of compiled code.

dynamo traces what rewritten code calls, and guards on all that it reads: if a record were appended to a list, the
list's length would be guarded, and every call would compile again. It does not look into an object that is only stored,
nor into the finalizer of an object that is replaced. So traced code builds a linked list. Each record is a new
`LinkedRecord` in front of those before, and a new `_Tick` replaces the last one, whose finalizer collects the list as
the compiled call returns.

A list that another thread's replaces before it is collected delivers its own records as it is finalized.
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
    """Return whether dynamo is tracing; replaced by dynamo's own function once torch is imported."""
    return False


class LinkedRecord:
    """One record, in front of those `before`: the arguments of its subscription's `receive`."""

    # dynamo makes an instance without running `__init__`.
    before: LinkedRecord | None = None
    subscription: Any = None
    record: tuple[Any, ...] = ()

    def __init__(self, before: LinkedRecord | None, subscription: Any, record: tuple[Any, ...]) -> None:
        self.before = before
        self.subscription = subscription
        self.record = record

    def __del__(self) -> None:
        """Deliver the records if nothing has collected them."""
        if self.subscription is not None:
            _deliver(self)


class _Tick:
    """Replaced by a compiled call as it returns."""

    def __del__(self) -> None:
        """Collect the records of compiled calls."""
        # As the interpreter exits, the names of a module are None.
        if top is not None:
            collect()


ROOT: Final = LinkedRecord(None, None, ())


# Where compiled code finds the linked list: its last record, and the tick. No object with two attributes: what dynamo
# stores in one both before and after an operator that has functions for arguments (`flex_attention`, `cond`) is lost.
top: Final[list[Any]] = [ROOT, _Tick()]


def refuse_export() -> None:
    """Raise if torch.export is tracing a model."""
    if is_exporting():
        raise UnsupportedError(
            "torch.export stores a model without its Python code, and a capture would become a part of it or see no"
            " real values. Export the model outside the with block."
        )


def is_pending() -> bool:
    """Return whether compiled code has left records that are not collected, as its first call does."""
    return top[0] is not ROOT


def leave(subscription: Any, *record: Any) -> None:
    """Leave a record, from traced code, unless torch.export is tracing, whose graph cannot hold it."""
    refuse_export()
    # The replay stores both at once: the tick must find the record in its place.
    top[0] = LinkedRecord(top[0], subscription, record)
    top[1] = _Tick()


def collect() -> None:
    """Deliver the records that compiled code has left."""
    if is_pending():
        last, top[0] = top[0], ROOT
        _deliver(last)


def _deliver(last: LinkedRecord) -> None:
    with lock:
        left = []
        link: LinkedRecord | None = last
        while link is not None and link.subscription is not None:
            left.append((link.subscription, link.record))
            before, link.before, link.subscription, link.record = link.before, None, None, ()
            link = before
        for subscription, record in reversed(left):
            subscription.receive(*record)


def watch() -> None:
    """Use dynamo's own function for whether it is tracing, once torch is imported."""
    global tracing  # noqa: PLW0603  # dynamo knows its own function, and no wrapper of it
    if tracing is getattr(from_torch("compiler"), "is_dynamo_compiling", None):
        return
    known = compiler()
    if known is not None and tracing is not known.is_tracing:
        tracing = known.is_tracing
        # Otherwise finalizers would be compiled as well.
        for function in (LinkedRecord.__del__, _Tick.__del__):
            known.skip(function.__code__)


class Compiler(NamedTuple):
    """The functions of dynamo that are used: whether it is tracing, and one to skip a code and all that it calls."""

    is_tracing: Callable[[], bool]
    skip: Callable[[types.CodeType], None]


def compiler() -> Compiler | None:
    """Return the functions of dynamo, if torch is imported; dynamo itself need not be."""
    is_tracing = getattr(from_torch("compiler"), "is_dynamo_compiling", None)
    if is_tracing is None:
        return None
    frames = from_torch("_C")._dynamo.eval_frame
    action = frames._FrameAction.SKIP  # noqa: SLF001  # no public way does without importing dynamo
    strategy = frames._FrameExecStrategy(action, action)  # noqa: SLF001  # as above
    return Compiler(is_tracing, lambda code: frames.set_code_exec_strategy(code, strategy))


def is_used() -> bool:
    """Return whether anything was ever compiled, or given to ``torch.compile``, as far as dynamo can tell."""
    global _was_used  # noqa: PLW0603  # dynamo forgets it as it is reset, and models compiled before are still there
    backends = getattr(sys.modules.get("torch._dynamo.eval_frame"), "cached_backends", None)
    _was_used = _was_used or bool(backends) or _has_compiled()
    return _was_used


_was_used = False


def is_exporting() -> bool:
    """Return whether torch.export is tracing a model."""
    # Not the public function: in torch 2.9 it is true wherever dynamo traces.
    return bool(getattr(from_torch("compiler"), "_is_exporting_flag", False))


def refuse_to_retain_gradient(value: object, message: Callable[[], Exception]) -> None:
    """Make `retain_grad` of a tensor out of a compiled graph raise, because no gradient will ever come."""
    grad_fn = value.grad_fn if is_tensor(value) else None
    if grad_fn is None or grad_fn.name() != "CompiledFunctionBackward":
        return

    def retain_grad() -> None:
        raise message()

    value.retain_grad = retain_grad  # type: ignore[attr-defined]  # of this tensor alone


def code_changed(*, captured: bool, variants: int = 0) -> None:
    """Make compiled models notice that the code of a function was replaced.

    dynamo does not guard on the code of functions that it has inlined, so all that it compiled is dropped. `captured`
    says whether any function is captured now, `variants` for how many modules one may have to be compiled separately.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return
    settings = _settings(dynamo.config, variants) if captured else {}
    for name in set(_before) - set(settings):
        setattr(dynamo.config, name, _before.pop(name))
    for name, value in settings.items():
        _before.setdefault(name, getattr(dynamo.config, name))
        setattr(dynamo.config, name, value)
    if _has_compiled():
        dynamo.reset()


# dynamo's settings as they were before a capture was opened.
_before: Final[dict[str, Any]] = {}


def _settings(config: Any, variants: int) -> dict[str, object]:
    """Return the settings of dynamo while functions are captured."""
    settings: dict[str, object] = {}
    # dynamo refuses to compile a checkpoint with side effects, unless they are left out as the forward pass is
    # recomputed: as in eager mode.
    if hasattr(config, "skip_fwd_side_effects_in_bwd_under_checkpoint"):
        settings["skip_fwd_side_effects_in_bwd_under_checkpoint"] = True
    if variants and hasattr(config, "recompile_limit"):
        settings["recompile_limit"] = _before.get("recompile_limit", config.recompile_limit) + variants
    return settings


def _has_compiled() -> bool:
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    return bool(counters.get("frames") or counters.get("stats"))
