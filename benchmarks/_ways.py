"""The methods of recording one local variable that `engine` compares."""

from __future__ import annotations

import gc
import itertools
import sys
import time
import types
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

import torch
from _count import run
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAYERS: Final = 32
MOST_CALLS: Final = 1000
# Python discards the specializations of a code object when a profiler is set or removed.
WARM_CALLS: Final = 150

PLAIN: Final = "plain"
HAND: Final = "hand"
HOOK: Final = "hook"
CAPTURE: Final = "capture"


cache: list[Any] = []


def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
    q = x
    k = x
    attn = q * k
    return attn  # noqa: RET504  # the local that is captured


def forward_by_hand(_: Any, x: torch.Tensor) -> torch.Tensor:
    q = x
    k = x
    attn = q * k
    cache.append(attn.detach())
    return attn


def forward_by_three_hands(_: Any, x: torch.Tensor) -> torch.Tensor:
    q = x
    k = x
    attn = q * k
    cache.append(q.detach())
    cache.append(k.detach())
    cache.append(attn.detach())
    return attn


# What rewritten code may call, as a user could have written it; the names are those of `designed`.


def forward_told(_: Any, x: torch.Tensor) -> torch.Tensor:
    q = x
    k = x
    attn = q * k
    recorder.returned(0, _, attn)  # type: ignore[name-defined]  # noqa: F821
    return attn


def forward_started(_: Any, x: torch.Tensor) -> torch.Tensor:
    recorder.started()  # type: ignore[name-defined]  # noqa: F821
    q = x
    k = x
    attn = q * k
    recorder.returned(0, _, attn)  # type: ignore[name-defined]  # noqa: F821
    return attn


def forward_appended(_: Any, x: torch.Tensor) -> torch.Tensor:
    q = x
    k = x
    attn = q * k
    recorder.returned((0, _, recorder.detach(attn)))  # type: ignore[name-defined]  # noqa: F821
    return attn


def module(function: Any = forward, decorate: Callable[[Any], Any] = lambda function: function, **names: object) -> Any:
    """Return a module of its own class, whose code has not been specialized by calls of other modules."""
    own = types.FunctionType(function.__code__.replace(), {**globals(), **names}, "forward")
    own.__qualname__ = "Small.forward"
    small = type("Small", (nn.Module,), {"forward": decorate(own)})()
    # Sets an attribute, as happens to every module in use: from then on the module has a materialized `__dict__`,
    # which is slower to read, and which a capture would create too.
    return small.eval()


def nothing() -> None:
    """Do nothing."""


@dataclass
class Variant:
    """One way to record.

    Parameters
    ----------
    name : str
        One of `TITLES`.
    call : callable
        Takes the input; what is timed.
    clear : callable
        Discards what was recorded.
    count : callable
        Returns how much was recorded; it must be `each` for a call.
    on, off : callable
        Run before and after each batch.
    base : str
        The variant whose time is subtracted.
    share : int
        The number of values by which the rest is divided.
    """

    name: str
    call: Callable[[torch.Tensor], Any]
    clear: Callable[[], object] = cache.clear
    count: Callable[[], int] = cache.__len__
    each: int = 0
    on: Callable[[], object] = nothing
    off: Callable[[], object] = nothing
    base: str = PLAIN
    share: int = 1
    calls: int = MOST_CALLS

    def batch(self, x: torch.Tensor) -> float:
        """Return the CPU seconds that a call takes."""
        self.on()
        run(self.call, x, min(self.calls, WARM_CALLS))
        self.clear()
        gc.collect()
        start = time.process_time()
        run(self.call, x, self.calls)
        took = time.process_time() - start
        self.off()
        self.clear()
        return took / self.calls

    def check(self, x: torch.Tensor) -> None:
        """Check that it records what it is measured for."""
        self.on()
        run(self.call, x, 5)
        self.off()
        found = self.count()
        self.clear()
        if found != 5 * self.each:
            raise AssertionError(f"{self.name} recorded {found} values in 5 calls; {self.each} per call are expected")


def argument() -> torch.Tensor:
    """Return what every module is called with."""
    return torch.ones(4, 4, requires_grad=True)


# The groups


def limits() -> Iterator[Variant]:
    """Yield what each group has: the plain module and the hand-written line."""
    yield Variant(PLAIN, module())
    yield Variant(HAND, module(forward_by_hand), each=1)


def hooked() -> Any:
    """Return a module with a forward hook that records the output."""
    hooked_module = module()
    hooked_module.register_forward_hook(lambda _module, _inputs, output: cache.append(output.detach()))
    return hooked_module


def released() -> Any:
    """Return a module that was captured, and has its own code back."""
    from anylocal import capture

    known = module()
    code = type(known).forward.__code__
    with capture(known, "attn") as captured:
        run(known, argument(), 100)
    if type(known).forward.__code__ is not code or not captured["attn"]:
        raise AssertionError("the function does not have its own code object back")
    return known


def of_anylocal() -> Iterator[Variant]:
    """Yield our own methods, and those of plain PyTorch."""
    from anylocal import capture, get_local

    yield from limits()
    yield Variant("another", module())
    yield Variant("released", released())
    yield Variant("hand3", module(forward_by_three_hands), each=3)
    yield Variant(HOOK, hooked(), each=1)

    def captured(name: str, target: Any, called: Any, *names: str, every: bool = False) -> Variant:
        scope = capture(target, *names, every=every).open()

        def count() -> int:
            return sum(len(scope[each]) for each in names)

        return Variant(name, called, scope.clear, count, len(names))

    for name, names in ((CAPTURE, ("attn",)), ("three", ("q", "k", "attn"))):
        model = module()
        yield captured(name, model, model, *names)
    model = module()
    yield captured("class", type(model).forward, model, "attn")
    model = module()
    yield captured("every", model, model, "attn", every=True)
    model = module(decorate=get_local("attn"))
    get_local.activate()
    yield Variant("get_local", model, get_local.clear, lambda: len(get_local.cache["Small.forward"]), 1)


def of_designs() -> Iterator[Variant]:
    """Yield ways that rewritten code could go, of which anylocal's is one."""
    from anylocal import capture
    from anylocal._engine import dynamo

    yield from limits()
    cache_of: dict[str, list[Any]] = {}

    def designed(name: str, function: Any, returned: Callable[[list[Any]], Any], each: int) -> Variant:
        kept: list[Any] = []
        cache_of[name] = kept
        recorder = types.SimpleNamespace(
            returned=returned(kept), started=itertools.count().__next__, detach=torch.Tensor.detach
        )
        made = module(function, recorder=recorder)
        return Variant(name, made, kept.clear, lambda: len(kept) // each, 1)

    def bare(kept: list[Any]) -> Any:
        def returned(_line: int, _owner: Any, value: torch.Tensor) -> None:
            kept.append(value.detach())

        return returned

    def full(kept: list[Any]) -> Any:
        def returned(line: int, owner: Any, value: torch.Tensor) -> None:
            value = value.detach()
            kept.extend((None, line, owner, get_ident(), value, value._version))

        return returned

    yield designed("design_append", forward_appended, lambda kept: kept.append, 1)
    yield designed("design_bare", forward_told, bare, 1)
    yield designed("design_full", forward_told, full, 6)
    yield designed("design_counted", forward_started, full, 6)
    for name, used in (("design_raised", False), ("design_entered", True)):
        model = module()
        before, dynamo.is_used = dynamo.is_used, lambda used=used: used  # type: ignore[misc]  # for this one alone
        scope = capture(model, "attn").open()
        dynamo.is_used = before
        yield Variant(name, model, scope.clear, lambda scope=scope: len(scope["attn"]), 1)  # type: ignore[misc]  # as above


def of_python() -> Iterator[Variant]:
    """Yield Python's own tracers; a profiler slows down everything else, so it is on in its own batches only."""
    yield from limits()
    profiled = module()
    code = type(profiled).forward.__code__

    def profile(frame: types.FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is code:
            cache.append(frame.f_locals["attn"].detach())

    yield Variant("setprofile", profiled, each=1, on=lambda: sys.setprofile(profile), off=lambda: sys.setprofile(None))
    if sys.version_info >= (3, 12):
        monitored = module()
        tool = sys.monitoring.PROFILER_ID
        events = sys.monitoring.events.PY_RETURN

        def returned(_code: types.CodeType, _offset: int, _value: Any) -> None:
            cache.append(sys._getframe(1).f_locals["attn"].detach())  # noqa: SLF001  # the way to a caller's locals

        sys.monitoring.use_tool_id(tool, "engine")
        sys.monitoring.register_callback(tool, events, returned)
        sys.monitoring.set_local_events(tool, type(monitored).forward.__code__, events)
        yield Variant("monitoring", monitored, each=1)


def of_anycapture() -> Iterator[Variant]:
    """Yield AnyCapture's decorator, as its documentation says."""
    from anycapture import get_local

    yield from limits()
    model = module(decorate=get_local("attn"))
    values = get_local.cache.setdefault("Small.forward.attn", [])

    def clear() -> None:
        values.clear()

    yield Variant("anycapture", model, clear, values.__len__, 1, on=get_local.activate, off=get_local.deactivate)
    yield Variant("anycapture_off", model, clear, values.__len__)


class Layers(nn.Module):
    """Layers that a trace goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(module() for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            y = layer(x)
        return y  # type: ignore[no-any-return]  # as a user writes it


def of_nnsight() -> Iterator[Variant]:
    """Yield nnsight's trace, as its documentation says, one for a call and one for many layers."""
    from nnsight import NNsight, save

    yield from limits()
    model, sourced, layers = NNsight(module()), NNsight(module()), NNsight(Layers())

    def trace(x: torch.Tensor) -> None:
        with model.trace(x):
            attn = save(model.output.detach())
        cache.append(attn)

    def trace_source(x: torch.Tensor) -> None:
        with sourced.trace(x):
            attn = save(sourced.source.attn_0.output.detach())
        cache.append(attn)

    def trace_layers(x: torch.Tensor) -> None:
        with layers.trace(x):
            attns = save([layer.source.attn_0.output.detach() for layer in layers.layers])
        cache.extend(attns)

    yield Variant("nnsight", trace, each=1)
    yield Variant("nnsight_source", trace_source, each=1)
    yield Variant("layers", Layers())
    yield Variant("nnsight_layers", trace_layers, each=LAYERS, base="layers", share=LAYERS)


GROUPS: Final[dict[str, Callable[[], Iterator[Variant]]]] = {
    "anylocal": of_anylocal,
    "designs": of_designs,
    "Python": of_python,
    "AnyCapture": of_anycapture,
    "nnsight": of_nnsight,
}
PEERS: Final = ("AnyCapture", "nnsight")
