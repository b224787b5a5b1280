"""The site for language models: ``llms.txt``, a list of its pages, and ``llms-full.txt``, all of them as text.

Extensions that do this copy the sources of the pages, in which a reference is no more than a directive; here each page
is written as Sphinx has resolved it, with docstrings and the output of its code.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from docutils import nodes
from docutils.io import StringOutput
from sphinx import addnodes
from sphinx.builders.text import TextBuilder
from sphinx.writers.text import TextTranslator, TextWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

SUMMARY: Final = """# anylocal

> Capture any local variable of any Python function by name, without editing the function; and every attention map of a
> PyTorch model as it runs (timm, Hugging Face transformers, torch's own layers), fused kernels included.

`pip install anylocal` has `capture`, `find` and `get_local`, and needs neither torch nor NumPy. `anylocal-vit` adds
timm, `anylocal-bert` adds transformers; `anylocal.attention.capture_attention(model)` works for either.
{full} has all pages in one file.
"""
TABLES: Final = {"corpus", "zoo", "zoo-transformers"}
"""Pages of long tables, which are listed but not in the full text."""


class _Writer(TextTranslator):
    """Writes a page as plain text, and leaves out what has no text, such as pictures and buttons of a theme."""

    def unknown_visit(self, node: nodes.Node) -> None:
        """Write what is in it."""

    def unknown_departure(self, node: nodes.Node) -> None:
        """Write nothing after it."""

    def visit_raw(self, node: nodes.Element) -> None:  # noqa: ARG002  # docutils calls it
        raise nodes.SkipNode

    visit_image = visit_raw

    def visit_code_links_block(self, node: nodes.Element) -> None:
        # What sphinx-gallery makes of a block of code, whose words are links.
        self.new_state()
        self.add_text(node.astext())
        self.end_state(wrap=False)
        raise nodes.SkipNode


def write(app: Sphinx, failure: Exception | None) -> None:
    """Write both files into a finished site."""
    if failure is not None or app.builder.name != "html":
        return
    builder = TextBuilder(app, app.env)
    builder.secnumbers = {}
    listed, full = [SUMMARY.format(full=f"{app.config.html_baseurl}llms-full.txt")], [SUMMARY.format(full="This file")]
    for depth, name in _pages(app, app.config.root_doc):
        title = app.env.titles[name].astext()
        link = f"[{title}]({app.config.html_baseurl}{app.builder.get_target_uri(name)})"
        doctree = app.env.get_and_resolve_doctree(name, builder, doctree=_without_downloads(app, name))
        listed.append(f"\n## {title}\n\n- {link}" if depth == 0 else f"- {link}")
        listed[-1] += f": {summary}" if (summary := _summary(doctree)) else ""
        if name not in TABLES:
            full.append(f"\n\n{'=' * 80}\n{name}\n{'=' * 80}\n\n{_text(doctree, builder)}")
    (Path(app.outdir) / "llms.txt").write_text("\n".join(listed) + "\n", "utf-8")
    (Path(app.outdir) / "llms-full.txt").write_text("".join(full), "utf-8")


def _without_downloads(app: Sphinx, name: str) -> nodes.document:
    """Return a page without what sphinx-gallery adds for a browser: notes and links to download it."""
    doctree = app.env.get_doctree(name)
    for node in list(doctree.findall(addnodes.only)):
        node.parent.remove(node)
    return doctree


def _pages(app: Sphinx, root: str, depth: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the pages below one in the order of the site, with their depth; references have a page for each name."""
    for name in app.env.toctree_includes.get(root, []):
        yield depth, name
        yield from _pages(app, name, depth + 1)


def _summary(doctree: nodes.document) -> str:
    """Return the first sentence of a page."""
    first = next(doctree.findall(nodes.paragraph), None)
    return "" if first is None else " ".join(first.astext().split()).partition(". ")[0].rstrip(".:")


def _text(doctree: nodes.document, builder: TextBuilder) -> str:
    writer = TextWriter(builder)
    builder.create_translator = lambda *args: _Writer(*args)  # type: ignore[method-assign]  # noqa: PLW0108  # its class is the builder's
    writer.write(doctree, StringOutput(encoding="unicode"))
    return str(writer.output)
