"""The maps of `nn.MultiheadAttention`, which torch computes in one of three places.

The slow path is a plain function, whose operands are recorded. Two fused paths project query and key in C: that of the
module, and that of a whole encoder layer. Both, and nothing else, call `merge_masks`, so its arguments are recorded,
and the projection is repeated when the map is read. The same is done with the arguments of the module's forward in
compiled code, because dynamo does not trace the function of the slow path.

Neither function takes the module. Their calls belong to the module whose forward has started and not ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anylocal._engine.patch import own_code
from anylocal._engine.resolve import Resolution
from anylocal._engine.spec import CaptureSpec, IdentityFilter, Match, Request, Role
from anylocal._maps.map import AttentionMap
from anylocal._maps.rows import StoredRows
from anylocal._readout.kernels import KERNELS, MASKS, OPERANDS, binder, operands_in
from anylocal._readout.multihead.functions import (
    COMPILED_SPEC,
    FAST,
    FAST_SPEC,
    FORWARD,
    OF_LAYER,
    SLOW,
    WEIGHTS,
    is_real_call,
    kept_with_version,
    slow_spec,
)
from anylocal._readout.multihead.projected import ProjectedRows
from anylocal._readout.multihead.weights import RecordedWeights

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

    from anylocal._engine.calls import Call


class MultiHead:
    """All modules of a model that run torch's multi-head attention, of which the `chosen` are captured."""

    def __init__(self, resolution: Resolution, chosen: Resolution) -> None:
        self.chosen = {id(module) for module in chosen.modules.values()}
        self.weights = RecordedWeights()
        self._parts = IdentityFilter(resolution.modules.values())
        found = [item.function for item in resolution.matches if item.filter is not None]
        self.callers = {function for function in found if SLOW.__name__ in own_code(function).co_names}
        self.layers = {function for function in found if OF_LAYER in own_code(function).co_names}
        if not self.callers.intersection(item.function for item in chosen.matches):
            self.callers, self.layers = set(), set()

    def for_one_capture(self) -> MultiHead:
        """Return the same, with weights of its own to note."""
        # Ten times as fast as by `copy`, at each opening of a scope.
        made = object.__new__(type(self))
        vars(made).update(vars(self))
        made.weights = RecordedWeights()
        return made

    @property
    def functions(self) -> tuple[types.FunctionType, ...]:
        """The forwards whose calls make maps; none where the model has no multi-head attention."""
        return (*self.callers, *self.layers)

    def requests(self, keep: object = None) -> Iterator[Request]:
        """Yield the requests: for starts and ends of forwards, and for the operands in between.

        `keep` is the option of the capture.
        """
        if not self.callers:
            return
        note = self.weights.note
        # First, because its records must come before the end of the same call.
        if FORWARD in self.callers:
            match = Match(FORWARD, self._parts)
            yield Request(match, COMPILED_SPEC, role=Role.COMPILED_VALUES, on_call=note)
        for function in self.callers:
            yield Request(Match(function, self._parts), CaptureSpec(), role=Role.BOUNDARIES)
        for function in self.layers:
            yield Request(Match(function, self._parts), CaptureSpec(), role=Role.BOUNDARIES, on_call=note)
        joined = frozenset({WEIGHTS}) | OPERANDS
        yield Request(Match(SLOW, is_real_call), slow_spec(), joined, binder=binder, reused=MASKS)
        kept = kept_with_version if keep == "detach" else None
        yield Request(Match(FAST, self._parts), FAST_SPEC, keep=kept, on_call=note)

    def owns(self, function: types.FunctionType) -> bool:
        """Return whether a function is one of torch's multi-head attention."""
        return function in {SLOW, FAST, FORWARD}

    def made_map(self, call: Call) -> bool:
        """Return whether such a call reached a softmax or a kernel."""
        return call.function is not SLOW or WEIGHTS in call.values or not OPERANDS.isdisjoint(call.values)

    def map_of(self, call: Call, **labels: Any) -> AttentionMap:
        """Return the map of a call."""
        values = call.values
        if call.function is not SLOW:
            fused = not values.get("need_weights", False)
            return AttentionMap(ProjectedRows(call, self.weights), name=call.name, fused=fused, **labels)
        if WEIGHTS in values:
            weights = values[WEIGHTS]
            rows = StoredRows(weights.unflatten(0, (-1, values["num_heads"])))
            # Only the model's own tensor has a gradient.
            rows.given = weights
            return AttentionMap(rows, name=call.name, fused=False, **labels)
        kernel, given = operands_in(values)
        return KERNELS[kernel].map(given, name=call.name, fused=True, **labels)
