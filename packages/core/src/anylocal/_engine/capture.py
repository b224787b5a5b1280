"""The `with` block in which calls are recorded, and the reading of the records."""

from __future__ import annotations

import threading
import weakref
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from anylocal._engine import dynamo, empty_reasons, patch, tables, tensors
from anylocal._engine.calls import Assembler, Call
from anylocal._engine.functions import bound_names, found_by_name, is_defined_again
from anylocal._engine.keep import keeper
from anylocal._engine.lock import completely
from anylocal._engine.recording import Recording, check_name
from anylocal._engine.records import Log, Record, Sharing
from anylocal._engine.resolve import Resolution, resolve
from anylocal._engine.sites import Site, Sites, check_options, forward_first, only, requests, site
from anylocal._engine.spec import Request
from anylocal._engine.subscription import Subscription
from anylocal.errors import NameNotFoundError, StateError

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Container, Iterable

    from anylocal._engine.edits import Edits


class Capture(Recording):
    """A `with` block in which calls are recorded, and the recorded calls; made by `capture`.

    Opening it (``with``, or `open`) puts the rewritten code into the functions, closing it takes it out again. The
    calls can be read during and after. Opened again, it goes on recording.

    Examples
    --------
    >>> def mean(values):
    ...     total = sum(values)
    ...     return total / len(values)
    >>> cap = capture(mean, "total").open()
    >>> average = mean([1, 2, 3])
    >>> cap.close()
    >>> cap
    Capture(mean: total; 1 call, closed)
    >>> cap["total"]
    [6]
    """

    def __init__(
        self,
        resolution: Resolution,
        requests: Iterable[Request],
        *,
        keep: str | Callable[[Any], Any] = "detach",
        limit: int | str | None = "auto",
        threads: str = "all",
        sharing: Sharing | None = None,
    ) -> None:
        self._label = resolution.label
        self._modules = resolution.modules
        self._requests = tuple(requests)
        self._log = Log(limit, sharing)
        self._own_thread = threads == "own"
        # In torch.distributed, when it was opened.
        self.rank: int | None = None
        log, kept = self._log, keeper(keep)
        self._subscriptions = tuple([Subscription(r, log, keep=r.keep or kept) for r in self._requests])
        self._functions = tuple(dict.fromkeys([s.function for s in self._subscriptions]))
        self._finalizer: weakref.finalize[..., Any] | None = None
        # Functions that had other code as it was closed, and of which no warning has told yet.
        self._replaced: dict[types.FunctionType, None] = {}
        # Whether the end of the block has told which names have no value.
        self._told = False
        # Those that were where their names say as it was opened: one that is not any more was defined again.
        self._found: list[types.FunctionType] = []

    @cached_property
    def names_of(self) -> dict[int, str]:
        """The names of the submodules by their identity: of one that has several, the first."""
        return {id(module): name for name, module in reversed(list(self._modules.items()))}

    # Opening and closing

    def open(self) -> Self:
        """Start recording.

        Raises
        ------
        StateError
            If it is open already, or other code was put into a captured function.
        """
        if self.is_open:
            msg = f"This capture of {self._label} is open already. Make a second one with capture(…)."
            raise StateError(msg)
        self.rank = tensors.rank()
        self._log.thread = threading.get_ident() if self._own_thread else None
        self._replaced, self._told = {}, False
        try:
            # A capture that is dropped without being closed takes its patches with it, however few there are by then.
            self._finalizer = weakref.finalize(self, patch.detach, self._subscriptions)
            self._finalizer.atexit = False
            patch.attach(self._subscriptions)
            self._log.open = True
            self._log.active = not self._log.full
            self._found = [function for function in self._functions if found_by_name(function) is function]
            return self  # noqa: TRY300  # until then, Ctrl-C undoes it
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        """Stop recording and give every function its own code back; closing twice does nothing.

        A function into which other code was put meanwhile keeps that, and a `CodeReplacedWarning` says so.
        """
        self._end()
        self._warn_of_replaced()

    def _end(self) -> None:
        if self.is_open:
            completely(self._detach)

    def _detach(self) -> None:
        dynamo.collect()
        self._log.open = self._log.active = False
        self._replaced |= dict.fromkeys(patch.replaced(self._subscriptions))
        patch.detach(self._subscriptions)
        # Last, so that what was cut short can be repeated, by the garbage collector too.
        if self._finalizer is not None:
            self._finalizer.detach()

    def _warn_of_replaced(self) -> None:
        replaced = dict.fromkeys((*self._replaced, *filter(is_defined_again, self._found)))
        self._replaced, self._found = {}, []
        empty_reasons.warn_of_replaced(self._label, tuple(replaced))

    @property
    def is_open(self) -> bool:
        """Whether it records at the moment."""
        return self._finalizer is not None and self._finalizer.alive

    def __enter__(self) -> Self:
        """Start recording."""
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop recording, and warn if nothing was recorded and no exception explains it."""
        self._end()
        if kind is None:
            self._warn_of_replaced()
            self._log.warn_if_full(stacklevel=3)
            empty_reasons.warn_of_missing_names(
                self._label, self._subscriptions, self._log, self.names, of_model=bool(self._modules)
            )
            self._told = True

    def warn_if_empty(self, what: str, functions: Container[types.FunctionType]) -> None:
        """Warn if the limit was reached, or if none of some functions has finished a call; for adapters."""
        self._log.warn_if_full(stacklevel=4)
        concerned = [s for s in self._subscriptions if s.function in functions]
        if concerned:
            empty_reasons.warn_of_no_calls(self._label, what, concerned, self._log)

    def clear(self) -> None:
        """Forget what was recorded, and go on recording if it is open."""
        self._log.clear()
        self._log.active = self.is_open

    # Reading

    def __getitem__(self, name: str) -> list[Any]:
        """Return the values of a name, in the order in which the calls finished.

        Calls that never bound it are left out.

        Warns
        -----
        NothingRecordedWarning
            If there is no value, with the reason, unless the end of the block has told so.

        Raises
        ------
        NameNotFoundError
            If the name is not captured here.
        OptionError
            If it is not a name.
        """
        values = self._values(name)
        if not (values or self._told or self._log.full or self._log.forgotten_functions):
            empty_reasons.warn_of_no_value(self._label, self._subscriptions, [name])
        return values

    @property
    def label(self) -> str:
        """The target, in words."""
        return self._label

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are captured."""
        return tuple(dict.fromkeys(name for request in self._requests for name in request.names))

    @property
    def is_full(self) -> bool:
        """Whether it has stopped at its limit."""
        return self._log.full

    def drain_records(self) -> tuple[Record, ...]:
        """Return the records so far and forget them; those that other threads add meanwhile stay."""
        return self._log.drain()

    def has_called(self, function: types.FunctionType) -> bool:
        """Return whether a captured function was called."""
        return any(s.called for s in self._subscriptions if s.function is function)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The functions that are captured."""
        return tuple(
            site(
                r.match,
                tuple(n for n in self.names if n in r.names),
                self._modules,
            )
            for r in self._requests
        )

    @property
    def calls(self) -> list[Call]:
        """All calls that finished, in the order in which they did."""
        return list(Assembler(self.names_of, self.rank).calls(self.records))

    @property
    def records(self) -> tuple[Record, ...]:
        """The records, in the order in which they came; adapters read them."""
        return self._log.records

    def records_from(self, place: int) -> tuple[tuple[Record, ...], int]:
        """Return the records from a position on, and the position for the next reading; begin at 0."""
        return self._log.records_from(place)

    def at(self, module: str) -> list[Call]:
        """Return the calls of one submodule.

        Parameters
        ----------
        module : str
            Its name in ``model.named_modules()``.

        Raises
        ------
        NameNotFoundError
            If the model has no such submodule.
        OptionError
            If it is not a name.
        """
        check_name(module, "at() takes the name of a submodule")
        if module not in self._modules:
            raise NameNotFoundError(module, self._label, self._modules, kind="submodule")
        # Not by the call's name: it is empty for a call without a module, as the model's own name is.
        return [call for call in self.calls if call.module is self._modules[module]]

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of calls that started, finished, and raised or were left unfinished."""
        started, finished = self._log.counts()
        # Of a call that runs as the capture is opened, only the end is recorded.
        return {"started": started, "finished": finished, "unfinished": max(0, started - finished)}

    def __repr__(self) -> str:
        """Return what is captured and how much of it was recorded."""
        state = "open" if self.is_open else "closed"
        return f"Capture({self._label}: {', '.join(self.names)}; {tables.counted(len(self), 'call')}, {state})"


def capture(
    target: object,
    *names: str,
    every: bool = False,
    keep: str | Callable[[Any], Any] = "detach",
    modules: str | Callable[[str, Any], bool] | None = None,
    limit: int | str | None = "auto",
    edit: Edits | None = None,
    threads: str = "all",
) -> Capture:
    """Capture local variables of functions by name inside a `with` block.

    Parameters
    ----------
    target : object
        A function, method, class, ``nn.Module``, any other object, Python module, or a dotted name such as
        ``"package.module:Class.method"``. A class: calls on its instances. An object or a bound method: only calls on
        that very object, or on the submodules of a model.
    *names : str
        The local variables, arguments included. A value is recorded as the function returns.
    every : bool, default False
        Record each assignment that the function itself makes instead, arguments at entry.
    keep : {"detach", "graph", "clone", "cpu"} or callable, default "detach"
        How a value is recorded: the tensor without its graph (sharing memory), with its graph, a copy, a copy on the
        CPU, or the result of a function of the value. Tensors in nested lists, tuples, named tuples and dicts
        (`OrderedDict`, `defaultdict`, `ModelOutput`) are treated alike; the copies are of NumPy arrays, too.
    modules : str or callable, optional
        Only these submodules of a model: an `fnmatch` pattern, or a function of name and module.
    limit : int, str or None, default "auto"
        Stop recording, and warn once, when values hold this much: bytes, or text such as ``"2GiB"``. By default half of
        the memory that is available as the first value is recorded, and 100,000 calls; None for no limit. Tensors,
        arrays, bytes, texts, Pillow's images and built-in containers of them are counted, the first items of a long
        container for all of it; of other objects only themselves, without what their attributes hold.
    edit : mapping of str or Assignment to callable, optional
        For each name, a function of the value that is about to be assigned, which returns what is assigned instead.
        Arguments are edited at entry. Of a name that is assigned several times, `Assignment` says which are meant:
        ``{Assignment("hidden_states", uses="self_attn"): function}``.
    threads : {"all", "own"}, default "all"
        Record calls in all threads, or only in the one that opens the capture.

    Returns
    -------
    Capture
        To be used in a ``with`` statement.

    Raises
    ------
    NameNotFoundError
        If nothing in the target binds a name.
    TargetError
        If the target holds no Python code.
    OptionError
        If an option has an invalid value.

    Examples
    --------
    >>> def mean(values):
    ...     total = sum(values)
    ...     return total / len(values)
    >>> with capture(mean, "total") as cap:
    ...     mean([1, 2, 3])
    2.0
    >>> cap["total"]
    [6]
    """
    check_options(names, keep, edit, threads)
    resolution = resolve(target)
    if modules is not None:
        resolution = only(resolution, modules)
    made = requests(resolution, names, edit or {}, every=every)
    return Capture(resolution, made, keep=keep, limit=limit, threads=threads)


def find(target: object) -> Sites:
    """List the functions of a target and the names that can be captured.

    Parameters
    ----------
    target : object
        Anything that `capture` takes.

    Returns
    -------
    list of Site
        Each function with the names it binds, in the order in which they are found, but those of a
        forward pass first; shown as a table.

    Raises
    ------
    TargetError
        If the target holds no Python code.

    Examples
    --------
    >>> def mean(values):
    ...     total = sum(values)
    ...     return total / len(values)
    >>> find(mean)
    Sites
      mean  values, total
    """
    resolution = resolve(target)
    found = forward_first(resolution.matches)
    return Sites(site(match, bound_names(match.function), resolution.modules) for match in found)
