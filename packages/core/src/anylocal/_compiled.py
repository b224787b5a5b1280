"""What compiled code leaves behind for the recorder.

dynamo traces what rewritten code calls, and guards on all that it reads: were a record appended to a list, the list's
length would be guarded, and every call would compile anew. Two things it does not look into: an object that is only
put somewhere else, and what an object that is replaced does as it goes. So traced code builds a chain. Each record is
a new `Cell` on top of those before, and a new `_Tick` replaces the last one, whose end brings the chain in while the
compiled call is still being left.

A chain that another thread's replaces before it is brought in brings itself in as it goes.
"""

from __future__ import annotations

from typing import Any, Final

from anylocal import _torch
from anylocal._lock import lock
from anylocal.errors import UnsupportedError


def tracing() -> bool:
    """Say whether dynamo is tracing; the compiler's own function stands here as soon as torch is there."""
    return False


class Cell:
    """One record, on top of those before.

    Parameters
    ----------
    below : Cell or None
        The one before.
    listener : object
        Whose `receive` takes the record.
    record : tuple
        What that is called with.
    """

    # dynamo makes one without attributes, as an example for itself.
    below: Cell | None = None
    listener: Any = None
    record: tuple[Any, ...] = ()

    def __init__(self, below: Cell | None, listener: Any, record: tuple[Any, ...]) -> None:
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


ROOT: Final = Cell(None, None, ())


class _Top:
    """Where compiled code finds the chain."""

    def __init__(self) -> None:
        self.cell = ROOT
        self.tick = _Tick()


top: Final = _Top()


def refuse_export() -> None:
    """Raise if torch.export is writing a model down."""
    if _torch.is_exporting():
        msg = (
            "torch.export writes a model down without its Python code, and a capture would end up in it or see no real"
            " values. Export the model outside of the scope."
        )
        raise UnsupportedError(msg)


def is_pending() -> bool:
    """Say whether compiled code has left something that was not brought in, as its first call does."""
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
    top.cell = Cell(top.cell, listener, record)
    top.tick = _Tick()


def collect() -> None:
    """Bring in what compiled code has left."""
    if is_pending():
        cell, top.cell = top.cell, ROOT
        _bring_in(cell)


def _bring_in(last: Cell) -> None:
    with lock:
        left = []
        cell: Cell | None = last
        while cell is not None and cell.listener is not None:
            left.append((cell.listener, cell.record))
            below, cell.below, cell.listener, cell.record = cell.below, None, None, ()
            cell = below
        for listener, record in reversed(left):
            listener.receive(*record)


def watch() -> None:
    """Take the compiler's own word for whether it is tracing, once torch is there."""
    global tracing  # noqa: PLW0603  # dynamo knows its own function, and no wrapper of it
    compiler = _torch.compiler()
    if compiler is not None and tracing is not compiler.is_tracing:
        tracing = compiler.is_tracing
        # What runs as an object goes would be compiled as well.
        for function in (Cell.__del__, _Tick.__del__):
            compiler.skip(function.__code__)
