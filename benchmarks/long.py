"""Maps of images of 1,024 to 16,384 patches: the cost of reading rows, means and rollout.

A ViT-S/16 on an image of 2048 × 2048 pixels has 12 maps of 6 heads and 16,385 × 16,385 values. A model that computes
its maps would have to hold them all to return them. Captured from the fused model, a map is stored as q and k until
rows are requested.

Each cell is measured in its own process. Memory is the peak of the process minus what it held with the model loaded.
Seconds are CPU time on one thread; reading includes the forward pass before it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any, Final

import torch
from _report import facts, made, table, write

SIDES: Final = (512, 1024, 2048)
PATCH: Final = 16
LAYERS: Final = 12
HEADS: Final = 6
WHAT: Final = {
    "forward": "the forward pass alone",
    "capture": "the forward pass with its 12 maps captured",
    "row": "… plus one row of each map, all heads",
    "mean": "… plus the mean over heads of 64 rows of each map",
    "rollout": "… plus the rollout of the class token through all layers",
    "eager": "the forward pass unfused, with hooks that keep its 12 maps",
}
EAGER_MOST: Final = 1024
"""The longest side at which the unfused model is run: the maps of a longer one fill the memory of most machines."""


def peak() -> float:
    """Return the most memory that the process has held so far, in GB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e9


@torch.no_grad()
def measure(what: str, side: int) -> dict[str, Any]:
    """Run one cell of the table."""
    import timm

    torch.set_num_threads(1)
    torch.manual_seed(0)
    timm.layers.set_fused_attn(what != "eager")
    model = timm.create_model("vit_small_patch16_224", img_size=side).eval()
    image = torch.randn(1, 3, side, side)
    loaded, start = peak(), time.process_time()
    if what == "forward":
        model(image)
    elif what == "eager":
        run_eager(model, image)
    else:
        run_captured(model, image, what)
    return {"GB": peak() - loaded, "s": time.process_time() - start}


def run_eager(model: torch.nn.Module, image: torch.Tensor) -> None:
    """Keep every map of an unfused model with hooks."""
    maps: list[torch.Tensor] = []
    for name, part in model.named_modules():
        if name.endswith("attn_drop"):
            part.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    model(image)
    assert len(maps) == LAYERS, f"the hooks saw {len(maps)} maps"


def run_captured(model: torch.nn.Module, image: torch.Tensor, what: str) -> None:
    """Capture the maps, and read what the line says."""
    from anylocal_vit import capture_attention

    with capture_attention(model) as maps:
        model(image)
    size = maps[0].shape[3]
    assert (len(maps), maps[0].shape[1], size) == (LAYERS, HEADS, length(image.shape[3]) + 1)
    if what == "row":
        assert all(attention[0, :, 5].shape == (HEADS, size) for attention in maps)
    elif what == "mean":
        assert all(attention.head_mean(slice(0, 64)).shape == (1, 64, size) for attention in maps)
    elif what == "rollout":
        assert maps.rollout(queries=0).shape == (1, size)


def length(side: int) -> int:
    """Return the number of patches of a square image."""
    return (side // PATCH) ** 2


def gigabytes(side: int) -> float:
    """Return what all maps take at once in float32."""
    return float(LAYERS * HEADS * (length(side) + 1) ** 2 * 4 / 1e9)


def run_all() -> dict[str, dict[str, Any]]:
    """Measure each cell in a process of its own."""
    numbers: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        for what, words in WHAT.items():
            if what == "eager" and side > EAGER_MOST:
                continue
            print(f"{length(side):,} patches: {words} …", flush=True)
            command = [sys.executable, __file__, "--measure", what, str(side)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            numbers.setdefault(what, {})[str(side)] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def row(words: str, cells: dict[str, Any]) -> list[str]:
    """Return a line of the table; a cell that was not run is empty."""
    told = [words]
    for side in SIDES:
        cell = cells.get(str(side))
        told += [f"{cell['GB']:.2f}", f"{cell['s']:.1f}"] if cell else ["not run", ""]
    return told


def main() -> None:
    """Measure, and write the page."""
    numbers = run_all()
    described = made("long", ["torch", "timm"])
    rows = [row(words, numbers[what]) for what, words in WHAT.items()]
    eager = ["all maps at once in float32, as an eager model returns them (calculated, not run)"]
    for side in SIDES:
        eager += [f"{gigabytes(side):.2f}", ""]
    head = ["what"]
    for side in SIDES:
        head += [f"{length(side):,} patches: peak GB beyond the model", "seconds"]
    page = f"""# Long inputs

{__doc__.split(chr(10), 1)[1].strip()}

{table(head, [*rows, eager])}

{facts(described)}
"""
    sizes = {str(side): gigabytes(side) for side in SIDES}
    write("long", page, {"made": described, "numbers": numbers, "eager GB": sizes})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
