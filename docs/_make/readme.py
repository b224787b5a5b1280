"""Check the README of a package: that its links work on any site, and that what it shows runs.

``nox -s release`` runs ``python readme.py links FILE …``, and ``python readme.py run FILE`` by the Python that has the
package's wheel alone. Needs nothing but Python.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"")


def relative_links(text: str) -> list[str]:
    """Return the links that lead nowhere where a README is shown without its repository, as on PyPI."""
    links = [inline or html for inline, html in LINK.findall(text)]
    return [link for link in links if urlsplit(link).scheme != "https" or not urlsplit(link).netloc]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the language and the text of each block of code, each at its own line."""
    for found in BLOCK.finditer(text):
        yield found[1], "\n" * text.count("\n", 0, found.start(2)) + found[2]


def run(file: Path) -> int:
    """Run all Python of a file, from top to bottom, and its commands; return the number of blocks."""
    names: dict[str, object] = {"__name__": "__main__"}
    count = 0
    for language, code in blocks(file.read_text("utf-8")):
        if language == "python":
            exec(compile(code, str(file), "exec"), names)  # noqa: S102  # what is shown is to be run
        elif language == "console":
            for line in code.splitlines():
                if line.startswith("$ python "):
                    command = [sys.executable, *shlex.split(line)[2:]]
                    subprocess.run(command, check=True)  # noqa: S603  # our own README
        count += language in {"python", "console"}
    return count


def main(command: str, *files: str) -> int:
    """Run a command of this script, and return its exit status."""
    failed = False
    for file in map(Path, files):
        text = file.read_text("utf-8")
        if command == "links":
            dead = relative_links(text)
            print(f"{file}: {', '.join(dead)}" if dead else f"{file}: no relative links.")
            failed |= bool(dead)
        else:
            count = run(file)
            print(f"{file}: {count} blocks ran.")
            failed |= not count
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
