"""The functions that rewritten code calls: one for each subscription and kind of record.

They run at each call, so they are written for speed, which ``benchmarks/engine.py`` measures: a listener is a closure
over all that can be decided beforehand. Where dynamo traces a listener, it leaves a record for later (see `dynamo`).
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any, TypeAlias

from anylocal._engine import dynamo, tensors
from anylocal._engine.buffers import is_marked
from anylocal._engine.containers import PLAIN
from anylocal._engine.frames import thread_and_frame
from anylocal._engine.keep import KEPT_QUICKLY, detached, on_cpu
from anylocal._engine.records import HEADER_LENGTH, RecordHeader
from anylocal._engine.spec import UNBOUND, Role
from anylocal._engine.subscription import Subscription

OnStart: TypeAlias = Callable[[Any], None]
OnReturn: TypeAlias = Callable[..., None]
OnAssignment: TypeAlias = Callable[[int, str, Any, Any], None]
OnRecord: TypeAlias = Callable[[RecordHeader, int, Any, tuple[Any, ...]], None]
OnEdit: TypeAlias = Callable[[int, str, Any, Any], Any]
OnCallee: TypeAlias = Callable[[int, str, Any, Any], Callable[[Any, Any], None] | None]


def on_start(subscription: Subscription) -> OnStart:
    """Return the listener for starts of calls."""
    if subscription.request.role is Role.COMPILED_VALUES:
        return ignore
    is_counted_only = subscription.records and not subscription.records_start and subscription.log.thread is None
    if not is_counted_only or subscription.on_call is not None:
        return _on_noted_start(subscription)
    return _on_counted_start(subscription)


def _on_noted_start(subscription: Subscription) -> OnStart:
    tracing, on_call = dynamo.tracing, subscription.on_call
    line = subscription.function.__code__.co_firstlineno
    leaves_start = subscription.records_start or subscription.request.role is Role.PRESENCE

    def start(owner: Any) -> None:
        if not tracing():
            subscription.start(owner)
        elif leaves_start:
            dynamo.leave(subscription, "entered", line, owner)

    def start_and_call(owner: Any) -> None:
        if tracing():
            start(owner)
        elif subscription.start(owner) and on_call is not None:
            on_call(owner)

    # A call that raises is not present: its return is noted.
    return start if on_call is None or subscription.request.role is Role.PRESENCE else start_and_call


def _on_counted_start(subscription: Subscription) -> OnStart:
    tracing, graph_task, no_task = dynamo.tracing, tensors.task_function(), tensors.NO_TASK
    log, recomputing, counter = subscription.log, subscription.recomputing, subscription.log.starts.counter
    matches = subscription.matches

    def start(owner: Any) -> None:
        if tracing():
            return
        try:
            is_ours = matches is None or matches(owner)
        except Exception:  # noqa: BLE001  # an object of the user's, whose `__hash__` or `__eq__` may raise
            is_ours = False
        if not is_ours or recomputing or graph_task() != no_task:
            subscription.start(owner)
        elif log.active:
            subscription.called = True
            next(counter)

    return start


def on_return(subscription: Subscription, places: tuple[int, ...], *, alone: bool) -> OnReturn:
    """Return the listener for returns, whose names are at some places of the arguments."""
    is_plain = subscription.log.thread is None and subscription.on_call is None
    if not is_plain or subscription.request.role is not Role.VALUES:
        return _on_return_of_anything(subscription, places)
    if not places and subscription.request.call_kind == "assigned":
        return _on_end(subscription)
    if alone and places and subscription.keep in KEPT_QUICKLY and not subscription.request.reused:
        return _on_value(subscription, "returned", subscription.spec.returned[0])
    tensor_type = tensors.tensor_type()
    if tensor_type is None or not places or subscription.keep is not detached:
        return _on_return_of_anything(subscription, places)
    return _on_return_of_tensors(subscription, tensor_type, places)


def _on_return_of_anything(subscription: Subscription, places: tuple[int, ...]) -> OnReturn:
    tracing, names, on_call = dynamo.tracing, subscription.spec.returned, subscription.on_call

    def take(line: int, owner: Any, *values: Any) -> None:
        if tracing():
            _leave(subscription, line, owner, tuple([values[i] for i in places]))
        elif subscription.concerns(owner):
            subscription.add("returned", line, owner, names, tuple([values[i] for i in places]))

    def take_and_call(line: int, owner: Any, *values: Any) -> None:
        if tracing():
            take(line, owner, *values)
        elif subscription.concerns(owner) and on_call is not None:
            on_call(owner)
            subscription.add("returned", line, owner, names, tuple([values[i] for i in places]))

    def take_compiled(line: int, owner: Any, *values: Any) -> None:
        if tracing():
            take(line, owner, *values)

    if subscription.request.role is Role.COMPILED_VALUES:
        return take_compiled
    return take if on_call is None else take_and_call


def _leave(subscription: Subscription, line: int, owner: Any, values: tuple[Any, ...]) -> None:
    if subscription.records:
        names = subscription.spec.returned
        bound = [(name, value) for name, value in zip(names, values, strict=True) if value is not UNBOUND]
        kept = tuple([subscription.keep(value) for _, value in bound])
        dynamo.leave(subscription, "returned", line, owner, tuple([name for name, _ in bound]), kept)


def _on_end(subscription: Subscription) -> OnReturn:
    """Return the listener for returns of calls whose assignments are recorded: they are only counted."""
    tracing, log, recomputing = dynamo.tracing, subscription.log, subscription.recomputing
    counter = log.ends.counter

    # Another subscription's names may come with it.
    def end(line: int, owner: Any, *_: Any) -> None:
        if tracing():
            _leave(subscription, line, owner, ())
        elif subscription.concerns(owner) and log.active and get_ident() not in recomputing:
            subscription.last_line = line
            next(counter)

    return end


# The common case: tensors and plain values, in all threads. The first is for one name.


def _on_value(  # noqa: C901  # the branches are those of the function in it
    subscription: Subscription, kind: str, name: str
) -> Callable[[int, Any, Any], None]:
    """Return what records the value of one name, as its function returns or assigns it."""
    tracing, top, root = dynamo.tracing, dynamo.top, dynamo.ROOT
    log, recomputing, names, keep = subscription.log, subscription.recomputing, (name,), subscription.keep
    where = thread_and_frame if subscription.joined else get_ident
    matches, extend, module_type = subscription.matches, log.raw.extend, tensors.module_base() or ()
    tensor_type, is_copied = tensors.tensor_type(), keep is on_cpu
    header = RecordHeader(subscription.request, kind, names)
    length = HEADER_LENGTH + 2

    def take(line: int, owner: Any, value: Any) -> None:  # noqa: C901  # smaller functions would have to be called
        if tracing():
            if value is not UNBOUND:
                dynamo.leave(subscription, kind, line, owner, names, (keep(value),))
            else:
                dynamo.leave(subscription, kind, line, owner)
            return
        value_type, version = type(value), None
        try:
            is_quick = (matches is None or matches(owner)) and not recomputing
            if value_type is not tensor_type:
                recorded, is_quick = value, is_quick and value_type in PLAIN and value is not UNBOUND
            elif is_quick:
                recorded = value.detach()
                try:
                    recorded, version = (
                        (recorded.to("cpu", copy=True), None) if is_copied else (recorded, recorded._version)
                    )
                except RuntimeError:
                    is_quick = not is_copied  # an inference tensor does not count its changes
        except Exception:  # noqa: BLE001  # an object of the user's, whose `__hash__` or `__eq__` may raise
            is_quick = False
        if not is_quick:
            if subscription.concerns(owner):
                subscription.add(kind, line, owner, names, (value,))
        elif log.active:
            if top[0] is not root:
                dynamo.collect()
            extend((header, line, owner if issubclass(type(owner), module_type) else None, where(), recorded, version))
            log.ahead -= 1
            if log.ahead < 0:
                log.look((recorded,), length)

    return take


def _on_return_of_tensors(subscription: Subscription, tensor_type: type[Any], places: tuple[int, ...]) -> OnReturn:
    # The loop of `_record_of_tensors` again, for tensors alone: a call of it would cost a fifth of a record.
    tracing, top, root = dynamo.tracing, dynamo.top, dynamo.ROOT
    log, recomputing, names = subscription.log, subscription.recomputing, subscription.spec.returned
    where = thread_and_frame if subscription.joined else get_ident
    extend, module_type = log.raw.extend, tensors.module_base() or ()
    header = RecordHeader(subscription.request, "returned", names)
    length = HEADER_LENGTH + 2 * len(places)

    def take(line: int, owner: Any, *values: Any) -> None:
        if tracing():
            _leave(subscription, line, owner, tuple([values[i] for i in places]))
            return
        if not subscription.concerns(owner) or not log.active:
            return
        made: list[Any] = [header, line, owner if issubclass(type(owner), module_type) else None, where()]
        versions: list[int | None] = []
        for place in places:
            value = values[place]
            if type(value) is not tensor_type or recomputing:
                subscription.add("returned", line, owner, names, tuple([values[i] for i in places]))
                return
            value = value.detach()
            made.append(value)
            try:
                versions.append(value._version)
            except RuntimeError:
                versions.append(None)
        if top[0] is not root:
            dynamo.collect()
        extend(made + versions)
        log.ahead -= 1
        if log.ahead < 0:
            log.look(made[HEADER_LENGTH:], length)

    return take


def _record_of_tensors(subscription: Subscription, tensor_type: type[Any]) -> OnRecord:
    """Return what records values that are tensors, which are detached, or plain; others more slowly."""
    top, root, log, recomputing = dynamo.top, dynamo.ROOT, subscription.log, subscription.recomputing
    where = thread_and_frame if subscription.joined else get_ident
    extend, module_type, copies = log.raw.extend, tensors.module_base() or (), subscription.copies

    def record(header: RecordHeader, line: int, owner: Any, values: tuple[Any, ...]) -> None:
        if not log.active:
            return
        made: list[Any] = [header, line, owner if issubclass(type(owner), module_type) else None, where()]
        versions: list[int | None] = []
        for value in values:
            is_tensor = type(value) is tensor_type
            if recomputing or value is UNBOUND or not (is_tensor or type(value) in PLAIN):
                subscription.add(header.kind, line, owner, header.names, values)
                return
            made.append(value.detach() if is_tensor else value)
            try:
                version = made[-1]._version if is_tensor else None
            except RuntimeError:
                version = -1 if is_marked(value) else None
            if version:
                made[-1], version = copies.of(header.names[len(versions)], made[-1], version)
            versions.append(version)
        if top[0] is not root:
            dynamo.collect()
        extend(made + versions)
        log.ahead -= 1
        if log.ahead < 0:
            log.look(values, len(made) + len(versions))

    return record


def on_assignment(subscription: Subscription, recorded: frozenset[str]) -> OnAssignment:
    """Return the listener for assignments."""
    tracing = dynamo.tracing
    is_plain = subscription.keep in KEPT_QUICKLY and subscription.log.thread is None
    if is_plain and subscription.records and not subscription.request.reused:
        takers = {name: _on_value(subscription, "assigned", name) for name in recorded}

        def assign_quickly(line: int, name: str, owner: Any, value: Any) -> None:
            taker = takers.get(name)
            if taker is not None:
                taker(line, owner, value)

        return assign_quickly

    def assign(line: int, name: str, owner: Any, value: Any) -> None:
        if name not in recorded:
            return
        if tracing():
            dynamo.leave(subscription, "assigned", line, owner, (name,), (subscription.keep(value),))
        elif subscription.concerns(owner):
            subscription.add("assigned", line, owner, (name,), (value,))

    return assign


def on_edit(subscription: Subscription) -> OnEdit:
    tracing, edited = dynamo.tracing, subscription.spec.edited

    def edit(line: int, name: str, owner: Any, value: Any) -> Any:
        if name not in edited or not subscription.concerns(owner):
            return value
        edits = subscription.edits_at(line, name)
        if not edits:
            return value
        new = value
        for each in edits:
            new = subscription.edit(each, line, name, new)
        # None in place of None changes nothing: a fused kernel leaves a name like that.
        kind = "kept none" if value is None and new is None else "edited"
        if tracing():
            dynamo.leave(subscription, kind, line, owner, (name,))
        else:
            subscription.note_edit(kind, name)
        return new

    return edit


def on_callee(subscription: Subscription) -> OnCallee:
    """Return the listener for functions about to be called, which returns what takes the arguments after the call."""
    tracing, binder, called = dynamo.tracing, subscription.request.binder, subscription.spec.called
    tensor_type = tensors.tensor_type() if subscription.keep is detached else None
    record = None if tensor_type is None else _record_of_tensors(subscription, tensor_type)

    def offer(line: int, name: str, owner: Any, function: Any) -> Callable[[Any, Any], None] | None:
        bind = binder(function) if name in called else None
        if bind is None:
            return None

        def take(args: Any, kwargs: Any) -> None:
            names, values = bind(*args, **kwargs)
            if tracing():
                kept = tuple([subscription.keep(value) for value in values])
                dynamo.leave(subscription, "called", line, owner, names, kept)
            elif not subscription.concerns(owner):
                pass
            elif record is None:
                subscription.add("called", line, owner, names, values)
            else:
                record(RecordHeader(subscription.request, "called", names), line, owner, values)

        return take

    return offer


def ignore(*_: Any) -> None:
    """Do nothing."""


def unchanged(_line: int, _name: str, _owner: Any, value: Any) -> Any:
    """Return a value that nothing edits."""
    return value
