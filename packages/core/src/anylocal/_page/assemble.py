"""The script of the page: plain modules, which run as such in node, put together into one."""

from __future__ import annotations

import functools
import re
from importlib.resources import files
from typing import Final

# A statement of its own each, as every module of the page writes them.
_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export ", re.MULTILINE)


@functools.cache
def script() -> str:
    """Return the script of the page: each module after those that it imports, in one scope without a global name."""
    folder = files("anylocal") / "_page" / "js"
    order: dict[str, str] = {}

    def add(name: str) -> None:
        if name in order:
            return
        text = (folder / f"{name}.js").read_text("utf-8")
        for other in _IMPORT.findall(text):
            add(other)
        order[name] = _EXPORT.sub("", _IMPORT.sub("", text))

    add("main")
    return '"use strict";\n(() => {\n' + "\n".join(order.values()) + "})();\n"
