"""What rewritten code calls, and who hears of it.

The name ``__anylocal__`` in the builtins stands for `recorder`, which has an attribute for each thing that each
rewriting tells: ``__anylocal__.returned_17(42, self, attn)``. What a frame tells that still runs a rewriting after its
function has its own code back is nobody's business.

This runs at each call, so it is written for speed, which ``benchmarks/engine.py`` measures: a listener is a closure
over all that can be decided beforehand. Where dynamo traces a listener, it takes another way (see `_compiled`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from anylocal._engine import dynamo, tensors
from anylocal._engine.frames import thread_and_frame
from anylocal._engine.records import HEADER_LENGTH, RecordHeader
from anylocal._engine.rewrite import UNBOUND
from anylocal._engine.subscription import Subscription

if TYPE_CHECKING:
    import types

    from anylocal._engine.spec import CaptureSpec

# What is heard of a call. A listener is made for one subscription to one rewriting, out of all that is known then.
OnStart: TypeAlias = Callable[[Any], None]
OnReturn: TypeAlias = Callable[..., None]
OnAssignment: TypeAlias = Callable[[int, str, Any, Any], None]
OnEdit: TypeAlias = Callable[[int, str, Any, Any], Any]


def _on_start(subscription: Subscription) -> OnStart:
    tracing, graph_task, no_task = dynamo.tracing, tensors.task_function(), tensors.NO_TASK
    log, recomputing, tells = subscription.log, subscription.recomputing, subscription.tells_start
    line, counter = subscription.function.__code__.co_firstlineno, log.starts.counter
    accepts = subscription.filter
    members = getattr(accepts, "members", None)

    def start(owner: Any) -> None:
        if not tracing():
            subscription.start(owner)
        elif tells:
            dynamo.leave(subscription, "entered", line, owner)

    def start_of_any(owner: Any) -> None:
        if tracing():
            return
        if recomputing or graph_task() != no_task or not (accepts is None or accepts(owner)):
            subscription.start(owner)
        elif log.active:
            subscription.called = True
            next(counter)

    if not subscription.records or tells or log.thread is not None:
        return start
    return start_of_any if members is None else _on_start_of_member(subscription, members)


def _on_start_of_member(subscription: Subscription, members: frozenset[object]) -> OnStart:
    tracing, graph_task, no_task = dynamo.tracing, tensors.task_function(), tensors.NO_TASK
    log, recomputing, counter = subscription.log, subscription.recomputing, subscription.log.starts.counter

    def start(owner: Any) -> None:
        if tracing():
            return
        try:
            is_ours = owner in members
        except Exception:  # noqa: BLE001  # somebody else's object, which may do anything when asked
            is_ours = False
        if not is_ours or recomputing or graph_task() != no_task:
            subscription.start(owner)
        elif log.active:
            subscription.called = True
            next(counter)

    return start


def _on_return(subscription: Subscription, places: tuple[int, ...], *, alone: bool) -> OnReturn:
    tracing, names = dynamo.tracing, subscription.spec.returned

    def take(line: int, owner: Any, *values: Any) -> None:
        if tracing():
            _leave(subscription, line, owner, tuple([values[i] for i in places]))
        elif subscription.concerns(owner):
            subscription.add("returned", line, owner, names, tuple([values[i] for i in places]))

    tensor_type = tensors.tensor_type()
    is_plain = subscription.keep is tensors.detached and subscription.log.thread is None
    if tensor_type is None or not names or not is_plain:
        return take
    if alone and getattr(subscription.filter, "members", None) is not None:
        return _on_return_of_tensor(subscription, tensor_type)
    return _on_return_of_tensors(subscription, tensor_type, places)


def _leave(subscription: Subscription, line: int, owner: Any, values: tuple[Any, ...]) -> None:
    if subscription.records:
        names = subscription.spec.returned
        bound = [(name, value) for name, value in zip(names, values, strict=True) if value is not UNBOUND]
        kept = tuple([subscription.keep(value) for _, value in bound])
        dynamo.leave(subscription, "returned", line, owner, tuple([name for name, _ in bound]), kept)


# What matters most: tensors that are detached, in all threads. The first is for one name in the modules of a model.


def _on_return_of_tensor(subscription: Subscription, tensor_type: type[Any]) -> OnReturn:
    tracing, top, root = dynamo.tracing, dynamo.top, dynamo.ROOT
    log, recomputing, names = subscription.log, subscription.recomputing, subscription.spec.returned
    where = thread_and_frame if subscription.joined else get_ident
    extend, members = log.raw.extend, getattr(subscription.filter, "members", ())
    head = RecordHeader(subscription, "returned", names)
    length = HEADER_LENGTH + 2

    def take(line: int, owner: Any, value: Any) -> None:
        if tracing():
            _leave(subscription, line, owner, (value,))
            return
        try:
            is_ours = owner in members
        except Exception:  # noqa: BLE001  # as above
            is_ours = False
        if type(value) is not tensor_type or recomputing or not is_ours:
            if subscription.concerns(owner):
                subscription.add("returned", line, owner, names, (value,))
        elif log.active:
            if top.cell is not root:
                dynamo.collect()
            value = value.detach()
            try:
                version = value._version
            except RuntimeError:
                version = None  # an inference tensor does not count its changes
            extend((head, line, owner, where(), value, version))
            log.ahead -= 1
            if log.ahead < 0:
                log.look((value,), length)

    return take


def _on_return_of_tensors(subscription: Subscription, tensor_type: type[Any], places: tuple[int, ...]) -> OnReturn:
    tracing, top, root = dynamo.tracing, dynamo.top, dynamo.ROOT
    log, recomputing, names = subscription.log, subscription.recomputing, subscription.spec.returned
    where = thread_and_frame if subscription.joined else get_ident
    extend, module_type = log.raw.extend, tensors.module_base() or ()
    head = RecordHeader(subscription, "returned", names)
    length = HEADER_LENGTH + 2 * len(places)

    def take(line: int, owner: Any, *values: Any) -> None:
        if tracing():
            _leave(subscription, line, owner, tuple([values[i] for i in places]))
            return
        if not subscription.concerns(owner) or not log.active:
            return
        record = [head, line, owner if issubclass(type(owner), module_type) else None, where()]
        versions = []
        for place in places:
            value = values[place]
            if type(value) is not tensor_type or recomputing:
                subscription.add("returned", line, owner, names, tuple([values[i] for i in places]))
                return
            value = value.detach()
            record.append(value)
            try:
                versions.append(value._version)
            except RuntimeError:
                versions.append(None)
        if top.cell is not root:
            dynamo.collect()
        extend(record + versions)
        log.ahead -= 1
        if log.ahead < 0:
            log.look(record[HEADER_LENGTH:], length)

    return take


def _on_assignment(subscription: Subscription, wanted: frozenset[str]) -> OnAssignment:
    tracing = dynamo.tracing

    def assign(line: int, name: str, owner: Any, value: Any) -> None:
        if name not in wanted:
            return
        if tracing():
            dynamo.leave(subscription, "assigned", line, owner, (name,), (subscription.keep(value),))
        elif subscription.concerns(owner):
            subscription.add("assigned", line, owner, (name,), (value,))

    return assign


def _on_edit(subscription: Subscription) -> OnEdit:
    tracing, wanted = dynamo.tracing, subscription.spec.edited

    def edit(line: int, name: str, owner: Any, value: Any) -> Any:
        if name not in wanted or not subscription.concerns(owner):
            return value
        value = subscription.edit(line, name, value)
        if tracing():
            dynamo.leave(subscription, "edited", line, owner, (name,))
        else:
            subscription.edited.add(name)
        return value

    return edit


class Recorder:
    """What rewritten code calls, an attribute for each thing that each rewriting tells.

    It can be called, for dynamo traces nothing else than callables and constants among the builtins.
    """

    def __call__(self) -> None:
        """Do nothing."""


recorder: Final = Recorder()
_KINDS: Final = ("entered", "returned", "assigned", "resulted", "edited")


def _nobody(*_: Any) -> None:
    pass


def _unchanged(_line: int, _name: str, _owner: Any, value: Any) -> Any:
    return value


def _remove(names: list[str]) -> None:
    for name in names:
        vars(recorder).pop(name, None)


def _each(listeners: tuple[Callable[..., None], ...]) -> Callable[..., None]:
    if not listeners:
        return _nobody

    def tell(*arguments: Any) -> None:
        for listener in listeners:
            listener(*arguments)

    return listeners[0] if len(listeners) == 1 else tell


def _one_after_another(edits: tuple[OnEdit, ...]) -> OnEdit:
    if not edits:
        return _unchanged

    def edit(line: int, name: str, owner: Any, value: Any) -> Any:
        for listener in edits:
            value = listener(line, name, owner, value)
        return value

    return edits[0] if len(edits) == 1 else edit


class Plan:
    """One rewriting of one function, by its number: what its calls of the recorder carry, and who listens.

    A listener is replaced as a whole when it changes, so that a running call sees one state or the other.
    """

    def __init__(self, number: int, spec: CaptureSpec) -> None:
        self.number = number
        self.spec = spec

    def end_with(self, code: types.CodeType) -> None:
        """Forget all about it as its code goes, which a frame may run long after nobody listens any more."""
        names = [f"{kind}_{self.number}" for kind in _KINDS]
        weakref.finalize(code, _remove, names).atexit = False

    def listen(self, subscriptions: list[Subscription]) -> None:
        """Serve those subscriptions whose spec this rewriting covers."""
        served = [s for s in subscriptions if self.spec.covers(s.spec)]
        place = {name: i for i, name in enumerate(self.spec.returned)}
        alone = len(place) == 1
        resulting = [(s, frozenset(result.key for result in s.spec.resulted)) for s in served]
        editing = [s for s in served if s.spec.edited]
        heard: dict[str, list[Callable[..., Any]]] = {
            "entered": [_on_start(s) for s in served],
            "returned": [_on_return(s, tuple(place[n] for n in s.spec.returned), alone=alone) for s in served],
            "assigned": [_on_assignment(s, wanted) for s in served if (wanted := s.spec.assigned | s.spec.given)],
            "resulted": [_on_assignment(s, wanted) for s, wanted in resulting if wanted],
            "edited": [_on_edit(s) for s in editing],
        }
        for kind, listeners in heard.items():
            join = _one_after_another if kind == "edited" else _each
            setattr(recorder, f"{kind}_{self.number}", join(tuple(listeners)))

    def forget(self) -> None:
        """Serve nobody any more."""
        self.listen([])
