"""Tables: aligned text for a console, HTML for a notebook, and shortened for either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

Row: TypeAlias = Sequence[str]

ENDS: Final = 12
"""Rows kept at the start and at the end of a long table."""


def counted(number: int, thing: str) -> str:
    """Return a number of things, such as ``1 call`` or ``2 calls``."""
    return f"{number} {thing}{'s' * (number != 1)}"


def short(rows: Sequence[Row]) -> list[Row]:
    """Return the first and the last rows of many, with dots between them."""
    if len(rows) <= 2 * ENDS:
        return list(rows)
    return [*rows[:ENDS], ("…", *[""] * (len(rows[0]) - 1)), *rows[-ENDS:]]


def text(title: str, rows: Sequence[Row], more: Sequence[str] = ()) -> str:
    """Return a table for a console, with a title above it and further lines below."""
    kept = short(rows)
    widths = [max(map(len, column)) for column in zip(*kept, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in kept]
    return "\n  ".join([title, *lines, *more])


def markup(titles: Row, rows: Sequence[Row], caption: str = "") -> str:
    """Return a table for a notebook; its cells are text, whatever they hold."""
    # Only notebooks need it.
    import html

    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in short(rows)]
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{cell}</tr>" for cell in cells)
    caption = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
