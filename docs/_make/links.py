"""Look for dead links in the built site, to files and to anchors; ``nox -s docs`` runs this.

Sphinx checks references only, not the links in templates, raw HTML and galleries.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Page:
    """The links of a page, and its anchors."""

    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"href", "src"} and value:
                self.page.links.append(value)
            elif name == "srcset" and value:
                self.page.links += [part.split()[0] for part in value.split(",") if part.strip()]
            elif value and (name == "id" or (tag == "a" and name == "name")):
                self.page.anchors.add(value)


def read(file: Path) -> Page:
    """Read one page."""
    reader = _Reader()
    reader.feed(file.read_text("utf-8"))
    return reader.page


def dead(site: Path) -> Iterator[str]:
    """Yield each dead link within the site, with the page that has it."""
    # The theme copies one of its own templates into the site.
    files = [file for file in sorted(site.rglob("*.html")) if file.name != "webpack-macros.html"]
    pages = {file.resolve(): read(file) for file in files}
    for file, page in pages.items():
        for link in sorted(set(page.links)):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            known = pages.get(target)
            if not target.exists() or (anchor and known is not None and anchor not in known.anchors):
                yield f"{file.relative_to(site.resolve())}: {link}"


def main() -> int:
    """Check the site in the given folder, and return the exit status."""
    found = list(dead(Path(sys.argv[1])))
    print("\n".join(found) or "No dead links.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
