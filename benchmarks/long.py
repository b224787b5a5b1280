"""Maps of images of 1,024 to 16,384 patches, and of 32,768 and 131,072 keys: the cost of reading parts of them.

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
KEYS: Final = (32_768, 131_072)
FEATURES: Final = 64
STRONGEST: Final = 64
LONG_LAYERS: Final = 32
LONG_HEADS: Final = (32, 8)
OF_KEYS: Final = {
    "product": "all products of query and key, and nothing else",
    "column": "one column",
    "sum": "the sums of all columns",
    "top": f"the {STRONGEST} strongest weights, with their queries and keys",
}
OF_LAYERS: Final = {
    "row product": "the products of the last query with keys already in float32, and nothing else",
    "last row": "the last query's row of each head of each layer",
}
BLOCK: Final = 2**22
"""Elements of the block in which the bare product is made, as many as anylocal computes at a time."""
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


@torch.no_grad()
def measure_keys(what: str, length: int) -> dict[str, Any]:
    """Run one cell of the table of made queries and keys."""
    from anylocal.attention import AttentionMap

    torch.set_num_threads(1)
    torch.manual_seed(0)
    q, k = (torch.randn(1, 1, length, FEATURES) for _ in "qk")
    attention = AttentionMap.from_qk(q, k)
    loaded, start = peak(), time.process_time()
    if what == "product":
        rows = max(1, BLOCK // length)
        block = torch.empty(1, 1, rows, length)
        for part in q.split(rows, 2):
            torch.matmul(part, k.mT, out=block)
    elif what == "column":
        assert attention[0, 0, :, length // 2].shape == (length,)
    elif what == "sum":
        assert attention.sum(-2).shape == (1, 1, length)
    else:
        assert attention.topk(STRONGEST, (-2, -1)).indices.shape == (1, 1, STRONGEST, 2)
    return {"GB": peak() - loaded, "s": time.process_time() - start}


@torch.no_grad()
def measure_layers(what: str, length: int) -> dict[str, Any]:
    """Run one cell of the table of the last rows of many layers, which share their keys here."""
    from anylocal.attention import AttentionMap

    torch.set_num_threads(1)
    torch.manual_seed(0)
    heads, groups = LONG_HEADS
    q = torch.randn(1, heads, 1, 2 * FEATURES).bfloat16()
    k = torch.randn(1, groups, length, 2 * FEATURES, dtype=torch.bfloat16)
    attention = AttentionMap.from_qk(q.expand(-1, -1, length, -1), k)
    of_groups, in_full = q.float().unflatten(1, (groups, -1)).squeeze(3), k.float() if what == "row product" else None
    loaded, start = peak(), time.process_time()
    if in_full is not None:
        kept = [of_groups @ in_full.mT for _ in range(LONG_LAYERS)]
    else:
        kept = [attention[0, :, -1] for _ in range(LONG_LAYERS)]
    assert len(kept) == LONG_LAYERS
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


def measured(*arguments: str) -> dict[str, Any]:
    """Measure a cell in a process of its own."""
    command = [sys.executable, __file__, "--measure", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    cell: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return cell


def run_all() -> dict[str, dict[str, Any]]:
    """Measure each cell of the images."""
    numbers: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        for what, words in WHAT.items():
            if what == "eager" and side > EAGER_MOST:
                continue
            print(f"{length(side):,} patches: {words} …", flush=True)
            numbers.setdefault(what, {})[str(side)] = measured(what, str(side))
    return numbers


def run_keys() -> dict[str, dict[str, Any]]:
    """Measure each cell of made queries and keys."""
    numbers: dict[str, dict[str, Any]] = {}
    for keys in KEYS:
        for what, words in (OF_KEYS | OF_LAYERS).items():
            print(f"{keys:,} keys: {words} …", flush=True)
            numbers.setdefault(what, {})[str(keys)] = measured(what, str(keys))
    return numbers


def row(words: str, cells: dict[str, Any]) -> list[str]:
    """Return a line of the table; a cell that was not run is empty."""
    told = [words]
    for side in SIDES:
        cell = cells.get(str(side))
        told += [f"{cell['GB']:.2f}", f"{cell['s']:.1f}"] if cell else ["not run", ""]
    return told


def keys_table(numbers: dict[str, dict[str, Any]], lines: dict[str, str]) -> str:
    """Return the table of made queries and keys, whose first line is the bare product."""
    head, product = ["what"], numbers[next(iter(lines))]
    for keys in KEYS:
        head += [f"{keys:,} keys: peak GB beyond the operands", "seconds", "× the product"]
    rows = []
    for what, words in lines.items():
        told = [words]
        for size, cell in numbers[what].items():
            told += [f"{cell['GB']:.2f}", f"{cell['s']:.1f}", f"{cell['s'] / product[size]['s']:.2f}"]
        rows.append(told)
    return table(head, rows)


def main() -> None:
    """Measure, and write the page."""
    numbers, of_keys = run_all(), run_keys()
    described = made("long", ["torch", "timm"])
    rows = [row(words, numbers[what]) for what, words in WHAT.items()]
    eager = ["all maps at once in float32, as an eager model returns them (calculated, not run)"]
    for side in SIDES:
        eager += [f"{gigabytes(side):.2f}", ""]
    head = ["what"]
    for side in SIDES:
        head += [f"{length(side):,} patches: peak GB beyond the model", "seconds"]
    heads, groups = LONG_HEADS
    whole, kept = (rows * KEYS[-1] * 4 / 1e9 for rows in (KEYS[-1], LONG_LAYERS * heads))
    page = f"""# Long inputs

{__doc__.split(chr(10), 1)[1].strip()}

{table(head, [*rows, eager])}

Made queries and keys, not a model's: of one head in float32, with {FEATURES} features. A map of {KEYS[-1]:,} queries
has {whole:.0f} GB. The product of query and key is the least that a column takes, since each of its weights needs its
whole row; it is made in blocks of the same size.

{keys_table(of_keys, OF_KEYS)}

The last query's rows of {LONG_LAYERS} layers of {heads} heads ({groups} of keys), in bfloat16 with {2 * FEATURES}
features; the layers share their keys here. All rows are kept: at {KEYS[-1]:,} keys they take {kept:.2f} GB. The product
alone is that with keys that are in float32 already.

{keys_table(of_keys, OF_LAYERS)}

{facts(described)}
"""
    sizes = {str(side): gigabytes(side) for side in SIDES}
    write("long", page, {"made": described, "numbers": numbers, "keys": of_keys, "eager GB": sizes})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        what, size = sys.argv[2], int(sys.argv[3])
        way = measure_keys if what in OF_KEYS else measure_layers if what in OF_LAYERS else measure
        print(json.dumps(way(what, size)))
    else:
        main()
