"""The CPU time of opening and closing a scope on a model seen before, in which nothing runs."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import TYPE_CHECKING, Any, Final

import torch
from _maps import bert, vit
from _turns import serve

if TYPE_CHECKING:
    from collections.abc import Callable

OPENINGS: Final = 300
WARM: Final = 20
DEEP: Final = 48
NARROW: Final = 48
"""The width of deep models: opening a scope depends on the number of modules, and not on their size."""

DOORS: Final = {"attention": "`capture_attention(model)`", "name": "`capture(model, name)`"}
TITLES: Final = {
    "vit": "ViT-S/16, 12 layers",
    "bert": "BERT-base, 12 layers",
    "vit-deep": f"a ViT of {DEEP} layers",
    "bert-deep": f"a BERT of {DEEP} layers",
}
GOALS_MS: Final = {"vit": 0.3, "bert": 0.5, "vit-deep": 1.0, "bert-deep": 1.0}


def model(name: str) -> tuple[Any, str]:
    """Return a model, and a local of its attention."""
    import timm
    from transformers import BertConfig, BertModel

    if name.startswith("vit"):
        deep: dict[str, Any] = {"depth": DEEP, "embed_dim": NARROW, "num_heads": 3}
        made = timm.create_model("vit_small_patch16_224", **deep) if name.endswith("deep") else vit(fused=True)
        return made.eval(), "attn"
    settings: dict[str, Any] = {
        "num_hidden_layers": DEEP,
        "hidden_size": NARROW,
        "num_attention_heads": 3,
        "intermediate_size": 4 * NARROW,
    }
    made = BertModel(BertConfig(**settings)) if name.endswith("deep") else bert(fused=True)
    return made.eval(), "attention_mask"


def scopes(name: str) -> dict[str, Callable[[], Any]]:
    """Return what opens a scope, for each door."""
    from anylocal import capture
    from anylocal.attention import capture_attention

    made, local = model(name)
    return {"attention": lambda: capture_attention(made), "name": lambda: capture(made, local)}


def milliseconds(make: Callable[[], Any]) -> float:
    """Return how long it takes to open a scope and close it."""
    start = time.process_time()
    with make():
        pass
    return (time.process_time() - start) * 1000


def measure() -> dict[str, Any]:
    """Return the quartiles of each scope, which take turns."""
    ways = {f"{name} {door}": make for name in TITLES for door, make in scopes(name).items()}
    times: dict[str, list[float]] = {key: [] for key in ways}
    # That nothing ran is worth a warning.
    with warnings.catch_warnings(action="ignore"):
        for number in range(WARM + OPENINGS):
            for key, make in ways.items():
                took = milliseconds(make)
                times[key] += [took] if number >= WARM else []
    return {key: statistics.quantiles(each, n=4) for key, each in times.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(lambda: (measure(), lambda: 0.0))
