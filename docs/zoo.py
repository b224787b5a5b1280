"""Makes the page of the model families whose maps were checked; ``nox -s zoo`` notes them and runs it."""
# ruff: noqa: INP001  # `docs` is no package

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NOTES = HERE / "zoo"
PAGE = HERE / "zoo.md"
HEAD = """# Supported models

Each row is the smallest model of a family, run as it comes on two images, every parameter, bias table and norm
statistic moved at random until its maps are far from uniform. *Error* is the greatest difference of any weight of any
map from the softmax that a float64 copy of the layer, which does not run the fused kernel, makes of the same input.
*Placed* says how many patches were asked for, and how many of them answer when the image changes where they say they
lie. The model's output is the same to the bit while it is captured, every function has its own code back afterwards,
and no other layer of it computes a map. `nox -s zoo` checks all this and makes the table.

"""
TIMM = """## timm {timm}

With torch {torch}. *Axes* are rows × columns of patches behind prefix tokens, those of queries and of keys where they
differ; of windows there are as many in each image.

"""


def page() -> str:
    """Return the page of all zoos that were noted."""
    timm = json.loads((NOTES / "vit_adapter.json").read_text("utf-8"))
    rows = [_timm(family) for family in timm["families"]]
    head = ["family", "model", "maps", "of them fused", "error", "axes of the first layers", "placed", "notes"]
    versions = {name: version.partition("+")[0] for name, version in timm.items() if isinstance(version, str)}
    return HEAD + TIMM.format(**versions) + _table(head, rows)


def _timm(family: dict[str, Any]) -> list[str]:
    axes = family["axes"].split("; ")
    listed = "; ".join(axes[:3]) + ("; …" if len(axes) > 3 else "")  # noqa: PLR2004  # so many have room
    maps, fused = str(family["maps"]), str(family["fused"])
    notes = "; ".join([*([family["note"]] if family["note"] else []), *family["wrong"]])
    return [
        family["family"],
        f"`{family['model']}`",
        maps,
        fused,
        f"{family['error']:.0e}",
        listed,
        family["placed"],
        notes,
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
