"""The picture of the benchmarks page: what all maps of a ViT cost, by method, from the numbers of ``nox -s bench``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sphinx.application import Sphinx

NUMBERS: Final = Path(__file__).parents[2] / "benchmarks" / "maps.json"
METHODS: Final = {
    "captured": "anylocal, captured, not read",
    "captured_rows": "anylocal, one row of each map read",
    "captured_read": "anylocal, all maps read",
    "nnsight_operands": "nnsight, q and k of the kernel",
    "captured_unfused": "anylocal, all maps read",
    "hooks": "forward hooks",
    "extract_hook": "timm AttentionExtract",
    "nnsight": "nnsight, one trace",
    "record": "torchlens.record",
    "trace": "torchlens.trace",
}
UNFUSED: Final = "captured_unfused"
"""The first method that is measured with the attention unfused."""


def draw(app: Sphinx) -> None:
    """Draw a bar for each method, the model alone at 1."""
    import matplotlib.pyplot as plt

    found = json.loads(NUMBERS.read_text("utf-8"))["numbers"]["vit-1"]
    alone = found["alone"]["times"]
    ratios = [statistics.median(t / a for t, a in zip(found[key]["times"], alone, strict=True)) for key in METHODS]
    first = list(METHODS).index(UNFUSED)
    places = [place + (place >= first) for place in range(len(ratios))]
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    colours = ["tab:orange" if title.startswith("anylocal") else "0.6" for title in METHODS.values()]
    bars = axes.barh(places, ratios, color=colours, height=0.8)
    longest = 5
    for bar, ratio in zip(bars, ratios, strict=True):
        words = f"{ratio:.2f}" if ratio < longest else f"{ratio:.2f}, cut"
        axes.text(min(ratio, longest) + 0.05, bar.get_y() + bar.get_height() / 2, words, va="center")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks([*places, first], [*METHODS.values(), "attention unfused:"])
    axes.get_yticklabels()[-1].set_fontstyle("italic")
    axes.set(xlim=(0, longest), xlabel="× the time of the forward pass alone")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.invert_yaxis()
    picture = Path(app.srcdir) / "_generated" / "speed.png"
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, dpi=200)
    plt.close(figure)
