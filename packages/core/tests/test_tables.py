"""What captures and findings look like in a console and in a notebook: short tables, whatever they hold."""

from __future__ import annotations

import re

import numpy as np

from anylocal import capture, find


def scaled(values: object, factor: float = 2.0) -> object:
    result = np.asarray(values) * factor
    return result


def named(text: str) -> str:
    shout = text.upper()
    return shout


class Ninety:
    """So many functions that nobody wants to see them all."""


for _number in range(90):
    exec(f"def method_{_number}(self):\n    found = 1\n    return found", globals())
    setattr(Ninety, f"method_{_number}", globals()[f"method_{_number}"])


def cells(markup: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", markup.partition("<tbody>")[2])
    return [re.findall(r"<td>(.*?)</td>", row) for row in rows]


def test_what_is_found_is_a_table() -> None:
    """Each function has a row: its name, and the names that it binds."""
    assert repr(find(scaled)) == "Sites\n  scaled  values, factor, result"


def test_what_is_found_is_a_list_all_the_same() -> None:
    """A table is only how it looks."""
    found = find(scaled)
    assert isinstance(found, list)
    assert found[0].names == ("values", "factor", "result")


def test_a_long_table_is_shortened() -> None:
    """Of ninety functions the first and last twelve are shown."""
    lines = repr(find(Ninety)).splitlines()
    assert len(lines) == 1 + 12 + 1 + 12
    assert [lines[12].split()[0], lines[13].strip(), lines[14].split()[0]] == ["method_11", "…", "method_78"]
    assert len(cells(find(Ninety)._repr_html_())) == 25


def test_a_notebook_shows_where_it_was_found() -> None:
    """The row of a function tells its file and line."""
    ((name, names, modules, where),) = cells(find(named)._repr_html_())
    assert (name, names, modules) == ("named", "text, shout", "")
    assert where.endswith(f"test_tables.py:{named.__code__.co_firstlineno}")


def test_a_notebook_shows_each_call() -> None:
    """The row of a call tells its values: arrays by their shape, others in short."""
    with capture(scaled, "result", "factor") as cap:
        scaled([1.0, 2.0])
        scaled(np.ones((3, 4)), 0.5)
    assert cells(cap._repr_html_()) == [
        ["0", "scaled", "", "result: (2,), factor: 2.0"],
        ["1", "scaled", "", "result: (3, 4), factor: 0.5"],
    ]


def test_values_in_a_notebook_are_text() -> None:
    """A string that looks like a tag is shown, not run, and a long one is cut."""
    with capture(named, "shout") as cap:
        named("<b>" + 1000 * "x")
    ((_, _, _, shown),) = cells(cap._repr_html_())
    assert shown.startswith("shout: &#x27;&lt;B&gt;XX")
    assert len(shown) < 100
