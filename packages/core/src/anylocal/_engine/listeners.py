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
from anylocal._engine.dynamo import ROOT, top
from anylocal._engine.frames import thread_and_frame
from anylocal._engine.keep import detached, on_cpu
from anylocal._engine.records import HEADER_LENGTH, RecordHeader
from anylocal._engine.spec import UNBOUND, Role
from anylocal._engine.subscription import Subscription
from anylocal._engine.tensors import NO_TASK

OnStart: TypeAlias = Callable[[Any], None]
OnReturn: TypeAlias = Callable[..., None]
OnAssignment: TypeAlias = Callable[[int, Any, Any], None]
OnRest: TypeAlias = Callable[[int, Any, tuple[Any, ...]], None]
OnRecord: TypeAlias = Callable[[RecordHeader, int, Any, tuple[Any, ...]], None]
OnEdit: TypeAlias = Callable[[int, str, Any, Any], Any]
OnCallee: TypeAlias = Callable[[int, str, Any, Any], Callable[[Any, Any], None] | None]


def on_start(subscription: Subscription) -> OnStart:
    """Return the listener for starts of calls."""
    if subscription.request.role is Role.COMPILED_VALUES:
        return ignore
    return _on_noted_start(subscription) if subscription.hears_starts else _on_counted_start(subscription)


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
    tracing, graph_task = dynamo.tracing, tensors.task_function()
    log, matches, counter = subscription.log, subscription.matches, subscription.log.starts.counter
    may_be_quick = subscription.records and log.thread is None

    def start(owner: Any) -> None:
        if tracing():
            return
        try:
            is_quick = may_be_quick and log.room > 0 and graph_task() == NO_TASK and (matches is None or matches(owner))
        except Exception:  # noqa: BLE001  # an object of the user's, whose `__hash__` or `__eq__` may raise
            is_quick = False
        if is_quick:
            subscription.called = True
            next(counter)
        else:
            subscription.start(owner)

    return start


def on_raise(subscription: Subscription) -> OnStart:
    """Return the listener for calls that raise, where no start is told: they have started."""
    return ignore if subscription.request.role is Role.COMPILED_VALUES else _on_counted_start(subscription)


def on_return(subscription: Subscription, places: tuple[int, ...], *, alone: bool, starts: bool) -> OnReturn:
    """Return the listener for returns, whose names are at some places of the arguments.

    `alone` says whether no other names are there, and `starts` whether the starts of calls are told apart.
    """
    if subscription.request.role is Role.COMPILED_VALUES:
        return _on_compiled_return(subscription, places)
    is_plain = subscription.log.thread is None and subscription.on_call is None
    if not is_plain or subscription.request.role is not Role.VALUES:
        return _on_return_of_anything(subscription, places, starts=starts)
    if not places and subscription.request.call_kind == "assigned":
        return _on_end(subscription, starts=starts)
    quick = (
        _on_value(subscription, "returned", *subscription.spec.returned, starts=starts) if alone and places else None
    )
    if quick is not None:
        return quick
    tensor_type = tensors.tensor_type()
    if tensor_type is None or not places or subscription.keep is not detached:
        return _on_return_of_anything(subscription, places, starts=starts)
    return _on_return_of_tensors(subscription, tensor_type, places, starts=starts)


def _on_return_of_anything(subscription: Subscription, places: tuple[int, ...], *, starts: bool) -> OnReturn:
    otherwise = _otherwise(subscription, "returned", subscription.spec.returned, starts=starts)

    def take(line: int, owner: Any, *values: Any) -> None:
        otherwise(line, owner, tuple([values[i] for i in places]))

    return take


def _on_compiled_return(subscription: Subscription, places: tuple[int, ...]) -> OnReturn:
    tracing, names = dynamo.tracing, subscription.spec.returned

    def take(line: int, owner: Any, *values: Any) -> None:
        if tracing():
            _leave(subscription, "returned", line, owner, names, tuple([values[i] for i in places]))

    return take


def _leave(  # noqa: PLR0917  # as `dynamo.leave`
    subscription: Subscription, kind: str, line: int, owner: Any, names: tuple[str, ...], values: tuple[Any, ...]
) -> None:
    if subscription.records:
        bound = [(name, value) for name, value in zip(names, values, strict=True) if value is not UNBOUND]
        kept = tuple([subscription.keep(value) for _, value in bound])
        dynamo.leave(subscription, kind, line, owner, tuple([name for name, _ in bound]), kept)


def _on_end(subscription: Subscription, *, starts: bool) -> OnReturn:
    """Return the listener for returns of calls whose assignments are recorded: they are only counted."""
    tracing, log, matches = dynamo.tracing, subscription.log, subscription.matches
    graph_task, counter, started = tensors.task_function(), log.ends.counter, log.starts.counter

    # Another subscription's names may come with it.
    def end(line: int, owner: Any, *_: Any) -> None:
        if tracing():
            _leave(subscription, "returned", line, owner, (), ())
            return
        try:
            is_quick = log.room > 0 and graph_task() == NO_TASK and (matches is None or matches(owner))
        except Exception:  # noqa: BLE001  # an object of the user's, whose `__hash__` or `__eq__` may raise
            is_quick = False
        if is_quick or (subscription.counts(owner) and log.active):
            subscription.last_line = line
            next(counter)
            if not starts:
                next(started)

    return end


# The common case: tensors and plain values, in all threads. Outside of backward passes, a record for which the log has
# room is made here; `otherwise` makes all others, which are few. Python copies the variables of a closure at each call,
# so what is the same for all of them is a global.


def _otherwise(subscription: Subscription, kind: str, names: tuple[str, ...], *, starts: bool) -> OnRest:
    """Return what records the values of names in every case, however slowly."""
    tracing, on_call = dynamo.tracing, subscription.on_call if kind == "returned" else None

    def otherwise(line: int, owner: Any, values: tuple[Any, ...]) -> None:
        if tracing():
            _leave(subscription, kind, line, owner, names, values)
        elif subscription.counts(owner):
            if not starts:
                subscription.count_start()
            if on_call is not None:
                on_call(owner)
            subscription.add(kind, line, owner, names, values)

    return otherwise


def _on_value(subscription: Subscription, kind: str, name: str, *, starts: bool) -> OnAssignment | None:
    """Return what records the value of one name, as its function returns or assigns it, if that is a common case."""
    if subscription.log.thread is not None or subscription.request.reused:
        return None
    if subscription.keep is detached:
        return _on_detached(subscription, kind, name, starts=starts)
    return _on_copied(subscription, kind, name, starts=starts) if subscription.keep is on_cpu else None


def _on_detached(subscription: Subscription, kind: str, name: str, *, starts: bool) -> OnAssignment:
    tracing, graph_task = dynamo.tracing, tensors.task_function()
    where = thread_and_frame if subscription.joined else get_ident
    log, raw, matches = subscription.log, subscription.log.raw, subscription.matches
    tensor_type: Any = tensors.tensor_type()
    module_type = tensors.module_base() or ()
    are_modules = subscription.are_modules
    header = RecordHeader(subscription.request, kind, (name,), starts)
    otherwise = _otherwise(subscription, kind, (name,), starts=starts)

    def take(line: int, owner: Any, value: Any) -> None:
        if not tracing():
            # An object of the user's may raise as it is compared, an inference tensor as it is asked for its version.
            try:
                if (
                    (len(raw) < log.room or log.has_room((value,), HEADER_LENGTH + 2))
                    and graph_task() == NO_TASK
                    and top[0] is ROOT
                    and (matches is None or matches(owner))
                ):
                    module = owner if are_modules or issubclass(type(owner), module_type) else None
                    if type(value) is tensor_type:
                        value = value.detach()
                        raw.extend((header, line, module, where(), value, value._version))
                        return
                    if type(value) in PLAIN and value is not UNBOUND:
                        raw.extend((header, line, module, where(), value, None))
                        return
            except Exception:  # noqa: BLE001, S110  # as above
                pass
        otherwise(line, owner, (value,))

    return take


def _on_copied(subscription: Subscription, kind: str, name: str, *, starts: bool) -> OnAssignment:
    tracing, graph_task = dynamo.tracing, tensors.task_function()
    where = thread_and_frame if subscription.joined else get_ident
    log, raw, matches = subscription.log, subscription.log.raw, subscription.matches
    tensor_type: Any = tensors.tensor_type()
    module_type = tensors.module_base() or ()
    are_modules = subscription.are_modules
    header = RecordHeader(subscription.request, kind, (name,), starts)
    otherwise = _otherwise(subscription, kind, (name,), starts=starts)

    def take(line: int, owner: Any, value: Any) -> None:
        if not tracing():
            try:
                if (
                    (type(value) is tensor_type or (type(value) in PLAIN and value is not UNBOUND))
                    and (len(raw) < log.room or log.has_room((value,), HEADER_LENGTH + 2))
                    and graph_task() == NO_TASK
                    and top[0] is ROOT
                    and (matches is None or matches(owner))
                ):
                    if type(value) is tensor_type:
                        # A quarter faster than `to` where it is there already.
                        value = value.detach().clone() if value.is_cpu else value.detach().to("cpu")
                    module = owner if are_modules or issubclass(type(owner), module_type) else None
                    raw.extend((header, line, module, where(), value, None))
                    return
            except Exception:  # noqa: BLE001, S110  # as above
                pass
        otherwise(line, owner, (value,))

    return take


def _on_return_of_tensors(
    subscription: Subscription, tensor_type: type[Any], places: tuple[int, ...], *, starts: bool
) -> OnReturn:
    # The loop of `_record_of_tensors` again, for tensors alone: a call of it would cost a fifth of a record.
    tracing, graph_task, names = dynamo.tracing, tensors.task_function(), subscription.spec.returned
    where = thread_and_frame if subscription.joined else get_ident
    log, raw, matches = subscription.log, subscription.log.raw, subscription.matches
    module_type, are_modules = tensors.module_base() or (), subscription.are_modules
    header = RecordHeader(subscription.request, "returned", names, starts)
    otherwise = _otherwise(subscription, "returned", names, starts=starts)

    def take(line: int, owner: Any, *values: Any) -> None:
        if not tracing():
            try:
                if (
                    (len(raw) < log.room or log.has_room(values, HEADER_LENGTH + 2 * len(places)))
                    and graph_task() == NO_TASK
                    and top[0] is ROOT
                    and (matches is None or matches(owner))
                ):
                    made: list[Any] = [
                        header,
                        line,
                        owner if are_modules or issubclass(type(owner), module_type) else None,
                        where(),
                    ]
                    versions: list[int] = []
                    for place in places:
                        value = values[place]
                        if type(value) is not tensor_type:
                            break
                        value = value.detach()
                        made.append(value)
                        versions.append(value._version)
                    else:
                        raw.extend(made + versions)
                        return
            except Exception:  # noqa: BLE001, S110  # as above
                pass
        otherwise(line, owner, tuple([values[place] for place in places]))

    return take


def _record_of_tensors(subscription: Subscription, tensor_type: type[Any]) -> OnRecord:
    """Return what records values that are tensors, which are detached, or plain; others more slowly."""
    top, root, log = dynamo.top, dynamo.ROOT, subscription.log
    where = thread_and_frame if subscription.joined else get_ident
    extend, module_type, copies = log.raw.extend, tensors.module_base() or (), subscription.copies

    def record(header: RecordHeader, line: int, owner: Any, values: tuple[Any, ...]) -> None:
        if not log.active:
            return
        made: list[Any] = [header, line, owner if issubclass(type(owner), module_type) else None, where()]
        versions: list[int | None] = []
        for value in values:
            is_tensor = type(value) is tensor_type
            if value is UNBOUND or not (is_tensor or type(value) in PLAIN):
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
        if len(log.raw) > log.room:
            log.look(values, len(made) + len(versions))

    return record


def on_assignment(subscription: Subscription, name: str) -> OnAssignment:
    """Return the listener for assignments of a name."""
    if subscription.records and (quick := _on_value(subscription, "assigned", name, starts=True)):
        return quick

    otherwise = _otherwise(subscription, "assigned", (name,), starts=True)

    def assign(line: int, owner: Any, value: Any) -> None:
        otherwise(line, owner, (value,))

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
            elif not subscription.counts(owner):
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
