"""Maps of an image of 16,384 patches: what reading rows, means and rollout of them needs.

A ViT-S/16 with an image of 2048 × 2048 pixels makes 12 maps of 6 heads and 16,385 × 16,385 values. A model that makes
its maps would hold them all to return them. Captured from the fused model, a map is q and k until rows are asked for.

Each line is a process of its own, whose peak is that of the process less what it held with the model loaded. Seconds
are those of the clock on the wall: where the machine has other work, as it had here, they say little.
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

SIDE: Final = 2048
WHAT: Final = {
    "forward": "the forward alone",
    "capture": "the forward, its 12 maps captured",
    "row": "… and one row of each map, all heads",
    "mean": "… and the mean over heads of 64 rows of each map",
    "rollout": "… and the rollout of the class token through all layers",
}


def peak() -> float:
    """Return the most memory that the process has held so far, in GB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e9


@torch.no_grad()
def measure(what: str) -> dict[str, Any]:
    """Run one line of the table."""
    import timm

    from anylocal_vit import capture_attention

    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", img_size=SIDE).eval()
    image = torch.randn(1, 3, SIDE, SIDE)
    loaded, start, shape = peak(), time.perf_counter(), [0, 0, 0, 0]
    if what == "forward":
        model(image)
        return {"GB": peak() - loaded, "s": time.perf_counter() - start, "shape": shape}
    with capture_attention(model) as maps:
        model(image)
    shape = list(maps[0].shape)
    if what == "row":
        assert all(attention[0, :, 5].shape == (6, shape[3]) for attention in maps)
    elif what == "mean":
        assert all(attention.head_mean(slice(0, 64)).shape == (1, 64, shape[3]) for attention in maps)
    elif what == "rollout":
        assert maps.rollout(queries=0).shape == (1, shape[3])
    return {"GB": peak() - loaded, "s": time.perf_counter() - start, "shape": shape, "maps": len(maps)}


def main() -> None:
    """Measure each line in a process of its own, and write the page."""
    numbers = {}
    for what, words in WHAT.items():
        print(f"{words} …", flush=True)
        command = [sys.executable, __file__, "--measure", what]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        numbers[what] = json.loads(done.stdout.splitlines()[-1])
    maps, shape = numbers["capture"]["maps"], numbers["capture"]["shape"]
    eager = maps * shape[1] * shape[2] * shape[3] * 4 / 1e9
    described = made("long", ["torch", "timm"])
    rows = [[words, f"{numbers[what]['GB']:.2f}", f"{numbers[what]['s']:.0f}"] for what, words in WHAT.items()]
    rows.append(["all maps at once in float32, as an eager model returns them (computed, not run)", f"{eager:.0f}", ""])
    page = f"""# Long inputs

{__doc__.split(chr(10), 1)[1].strip()}

{table(["what", "GB at most, besides the model", "seconds"], rows)}

{facts(described)}
"""
    write("long", page, {"made": described, "numbers": numbers, "eager GB": eager})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main()
