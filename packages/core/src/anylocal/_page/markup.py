"""The HTML of the page, in which titles, tokens and module names stay text."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from anylocal._page.assemble import script
from anylocal._page.computed import MARGIN, SAMPLED

if TYPE_CHECKING:
    from collections.abc import Sequence


def page_of(title: str, data: dict[str, Any], blobs: Sequence[tuple[str, str]]) -> str:
    """Return the complete page."""
    folder = files("anylocal") / "_page"
    style, code = Markup((folder / "page.css").read_text("utf-8")), Markup(script())  # noqa: S704  # our own files
    note = f"{note_of(data)} Made by anylocal {version('anylocal')}."
    whole = (folder / "page.html").read_text("utf-8")
    return _rendered(whole, title=title, data=data, blobs=blobs, note=note, style=style, script=code)


def body_of(title: str, note: str) -> str:
    """Return what the page shows, without its data and its script."""
    whole = (files("anylocal") / "_page" / "page.html").read_text("utf-8")
    body = whole.partition("<body>")[2].partition('<script type="application/json"')[0]
    return _rendered(body, title=title, note=f"{note} Made by anylocal {version('anylocal')}.")


def as_text(title: str) -> str:
    """Return a title with its half characters: two make one, and a single one, which no file holds, is shown."""
    return title.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _rendered(template: str, **values: Any) -> str:
    # Autoescape, because titles, tokens and module names may contain markup.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(version=version("anylocal"), **values)


def note_of(data: dict[str, Any]) -> str:
    """Return what the page says about its error."""
    forms = [layer["operands"] for layer in data["layers"] if layer["operands"]]
    off = f"Weights on this page differ from the model's by at most {data['error']:.1g}"
    stored = "kept in one byte: the square root of its share of the greatest weight of its head"
    if not forms:
        return f"{off}. Each is {stored}."
    few, many = min(form["bits"] for form in forms), max(form["bits"] for form in forms)
    bits = f"{few}" if few == many else f"{few} to {many}"
    share = 100 * max(form["relative"] for form in forms)
    every = len(forms) == len(data["layers"])
    where = "" if every else f" of {len(forms)} layers"
    others = "" if every else f" In the other layers each is {stored}."
    return (
        f"{off}, and {share:.1g} % of the greatest of their row. Both are {MARGIN} times the largest errors found in"
        f" {SAMPLED} rows of every head. The page computes them from query and key{where}, kept in {bits} bits a"
        f" number.{others}"
    )
