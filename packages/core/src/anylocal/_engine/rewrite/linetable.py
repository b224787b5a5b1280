"""The line table of a code object; CPython's ``Objects/locations.md`` describes its format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE_LINE: Final = range(10, 13)  # how many lines further, plus ten; the two columns are a byte each
NO_COLUMNS: Final = 13
LONG: Final = 14
NONE: Final = 15


def repair(table: bytes) -> bytes:
    """Return an unambiguous line table.

    The first byte of an entry has its highest bit set, and readers of lines only (tracebacks, tracers, ``co_lines``)
    skip to the next such byte. `bytecode` (0.19) writes columns from 128 to 255 into a byte each, which
    those readers take for entries: from there on, all lines are wrong. CPython writes such an entry in its long form.
    """
    return b"".join(_in_long_form(entry) if _is_ambiguous(entry) else entry for entry in _entries(table))


def _entries(table: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(table):
        kind = _kind(table[start])
        if kind in ONE_LINE:
            end = start + 3
        elif kind < ONE_LINE.start:
            end = start + 2
        else:
            end = start + 1
            for _ in range({NO_COLUMNS: 1, LONG: 4, NONE: 0}[kind]):
                while table[end] & 0x40:
                    end += 1
                end += 1
        yield table[start:end]
        start = end


def _kind(header: int) -> int:
    return header >> 3 & 15


def _is_ambiguous(entry: bytes) -> bool:
    return any(byte & 0x80 for byte in entry[1:])


def _in_long_form(entry: bytes) -> bytes:
    header, column, end_column = entry
    # Signed, the number of lines further has its sign in the lowest bit. Columns are counted from one.
    numbers = (_kind(header) - ONE_LINE.start) << 1, 0, column + 1, end_column + 1
    return bytes([0x80 | LONG << 3 | header & 7, *(byte for number in numbers for byte in _varint(number))])


def _varint(number: int) -> Iterator[int]:
    while number > 63:  # noqa: PLR2004  # six bits a byte
        yield number & 63 | 0x40
        number >>= 6
    yield number
