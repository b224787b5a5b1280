"""Create the pages of models whose maps were checked; ``nox -s zoo`` records them and runs this."""
# ruff: noqa: INP001  # `docs` is not a package

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NOTES = HERE / "zoo"
# The wide tables use the space of the list of sections.
WIDE = """---
html_theme.sidebar_secondary.remove: true
---

"""
TIMM = """{wide}# Models of timm

Each row is the smallest model of a family of timm {timm}, run unmodified with torch {torch} on two images, with every
parameter, bias table and norm statistic perturbed at random until its maps are far from uniform. *Error* is the largest
difference of any weight of any map from the softmax that a float64 copy of the layer, without the fused kernel,
computes from the same input. *Axes* are rows × columns of patches after the prefix tokens, for queries and for keys if
they differ; windows are counted per image. *Placed* says how many patches were tested, and how many of them respond
when the image changes at the place that they claim: in deep layers of convolutional networks others may respond
instead. The model's output is bit-equal while it is captured, every function has its own code back afterwards, and no
other layer of it computes a map. `nox -s zoo -- vit_adapter` checks all this and creates the table.

"""
TRANSFORMERS = """{wide}# Models of transformers

Every type of transformers {transformers} that `AutoModel` knows, built from a tiny configuration and run unmodified
with torch {torch}, with every parameter and buffer perturbed at random until the maps are far from uniform. *Error* is
the largest difference of any weight of any map from the float64 softmax of the kernel inputs that an independent tracer
saw, or from the softmax that it saw. `nox -s zoo -- bert_adapter` checks all this and creates the tables.

"""


def timm() -> str:
    """Return the page of timm's families."""
    note = _read("vit_adapter")
    rows = [_family(family) for family in note["families"]]
    head = ["family", "model", "maps", "of them fused", "error", "axes of the first layers", "placed", "notes"]
    return TIMM.format(wide=WIDE, **note) + _table(head, rows)


def transformers() -> str:
    """Return the page of the types of transformers."""
    note = _read("bert_adapter")
    of: dict[str, list[dict[str, Any]]] = {}
    for kind in note["types"]:
        of.setdefault(kind["verdict"], []).append(kind)
    parts = [TRANSFORMERS.format(wide=WIDE, **note)]
    for verdict, kinds in sorted(of.items(), key=lambda item: -len(item[1]) if item[0] != "exact" else -(10**6)):
        parts.append(f"## {verdict.capitalize()}: {len(kinds)}\n\n")
        if verdict == "exact":
            head = ["type", "maps", "of them fused", "error", "axes", "given", "notes"]
            parts.append(_table(head, [_exact(kind) for kind in kinds]))
        else:
            parts.append(_table(["type", "reason"], [[f"`{kind['type']}`", _plain(kind["note"])] for kind in kinds]))
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def _read(name: str) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((NOTES / f"{name}.json").read_text("utf-8"))
    # The local part of a version says how torch was built.
    return {key: value.partition("+")[0] if isinstance(value, str) else value for key, value in note.items()}


def _family(family: dict[str, Any]) -> list[str]:
    axes = family["axes"].split("; ")
    listed = "; ".join(axes[:3]) + ("; …" if len(axes) > 3 else "")  # noqa: PLR2004  # as many as fit into a cell
    counts = [str(family["maps"]), str(family["fused"]), f"{family['error']:.0e}"]
    notes = "; ".join([*([family["note"]] if family["note"] else []), *family["wrong"]])
    return [family["family"], f"`{family['model']}`", *counts, listed, family["placed"], notes]


def _exact(kind: dict[str, Any]) -> list[str]:
    counts = [str(kind["maps"]), str(kind["fused"]), f"{kind['error']:.0e}"]
    return [f"`{kind['type']}`", *counts, kind["axes"], kind["given"], _plain(kind["note"])]


def _plain(text: str, most: int = 160) -> str:
    """Return text with markup escaped, short enough for a cell."""
    text = re.sub(r"\s+", " ", text)
    short = text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} …"
    return re.sub(r"([\\`*_{}\[\]<>|$])", r"\\\1", short)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for name, page in (("vit_adapter", timm), ("bert_adapter", transformers)):
        if (NOTES / f"{name}.json").exists():
            target = HERE / ("zoo.md" if page is timm else "zoo-transformers.md")
            target.write_text(page(), encoding="utf-8")
