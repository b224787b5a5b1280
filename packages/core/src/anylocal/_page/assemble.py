"""The script of the page: plain modules, which run as such in node, put together into one."""

from __future__ import annotations

import functools
import json
import re
from importlib.resources import files
from typing import Final

# A statement of its own each, as every module of the page writes them.
_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export ", re.MULTILINE)


@functools.cache
def script() -> str:
    """Return the script of the page: each module after those that it imports, in one scope without a global name."""
    return f'"use strict";\n(() => {{\n{_together("main")}}})();\n'


@functools.cache
def bundle() -> str:
    """Return the module of the widget, as anywidget wants it: the page as a function of what holds it."""
    page = f"const page = (host) => {{\n{_together('main', without='host')}}};\n"
    call = f"export default {{ render: (given) => render(page, {json.dumps(_style())}, given) }};\n"
    return page + _together("widget") + call


def _together(first: str, *, without: str = "") -> str:
    """Return a module after those that it imports, all but one."""
    folder = files("anylocal") / "_page" / "js"
    order = {without: ""}

    def add(name: str) -> None:
        if name in order:
            return
        text = (folder / f"{name}.js").read_text("utf-8")
        for other in _IMPORT.findall(text):
            add(other)
        order[name] = _EXPORT.sub("", _IMPORT.sub("", text))

    add(first)
    return "\n".join(order.values())


def _style() -> str:
    """Return the style of the page within an element, which may be narrower than the window."""
    text = (files("anylocal") / "_page" / "page.css").read_text("utf-8")
    for page, widget in ((":root", ".shell"), ("body {", ".shell { container-type: inline-size;")):
        text = text.replace(page, widget)
    return text.replace("@media (min-width", "@container (min-width")
