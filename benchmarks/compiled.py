"""Capturing every map of a compiled model: the cost compared with the same compiled model, and the accuracy.

Both models are compiled with ``fullgraph=True`` by inductor and take turns in one process. The one without a capture is
compiled before the other's capture is opened, and kept: opening a capture normally drops everything that dynamo has
compiled, which is prevented here so that both can be timed side by side.
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import torch
import torch._dynamo
from _report import facts, made, table, write

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS: Final = 60
ERROR, COST = 1e-5, 1.05


def vit() -> tuple[Any, dict[str, torch.Tensor], Callable[..., Any]]:
    """Return timm's ViT-S/16 with one image."""
    import timm

    from anylocal_vit import adapter

    model = timm.create_model("vit_small_patch16_224")
    return model, {"x": torch.randn(1, 3, 224, 224)}, adapter.capture_attention


def bert() -> tuple[Any, dict[str, torch.Tensor], Callable[..., Any]]:
    """Return a BERT of base size with a text of 128 tokens."""
    from transformers import BertConfig, BertModel

    from anylocal_bert import adapter

    model = BertModel(BertConfig())
    return model, {"input_ids": torch.randint(0, 30_000, (1, 128))}, adapter.capture_attention


def output_of(result: Any) -> torch.Tensor:
    """Return the tensor of a model's result."""
    tensor: torch.Tensor = result if isinstance(result, torch.Tensor) else result.last_hidden_state
    return tensor


@torch.no_grad()
def measure(make: Callable[[], tuple[Any, dict[str, torch.Tensor], Callable[..., Any]]]) -> dict[str, float]:
    """Return times, graph breaks and errors of one model."""
    from anylocal.testing import perturb

    torch.manual_seed(0)
    model, inputs, capture_attention = make()
    perturb(model).eval()
    other = copy.deepcopy(model)
    with capture_attention(model) as eager:
        expected = output_of(model(**inputs))
        exact = [attention.tensor() for attention in eager]
    torch._dynamo.reset()
    alone: Any = torch.compile(model, fullgraph=True)
    alone(**inputs)
    torch._dynamo.utils.counters.clear()
    scope = capture_attention(other, limit=None)
    with mock.patch.object(torch._dynamo, "reset"):
        scope.open()
        captured: Any = torch.compile(other, fullgraph=True)
        result = output_of(captured(**inputs))
        maps = list(scope.maps)
        error = max(float((a.tensor() - b).abs().max()) for a, b in zip(maps, exact, strict=True))
        times: dict[str, list[float]] = {"alone": [], "captured": []}
        for round_ in range(ROUNDS):
            turns = [("alone", alone), ("captured", captured)]
            for name, run in turns if round_ % 2 else turns[::-1]:
                start = time.process_time()
                run(**inputs)
                times[name].append(time.process_time() - start)
            scope.clear()
        scope.close()
    ratios = [b / a for a, b in zip(times["alone"], times["captured"], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "ms alone": 1000 * statistics.median(times["alone"]),
        "ms captured": 1000 * statistics.median(times["captured"]),
        "ratio": quartiles[1],
        "ratio, first quartile": quartiles[0],
        "ratio, third quartile": quartiles[2],
        "graph breaks": float(sum(torch._dynamo.utils.counters["graph_break"].values())),
        "maps": float(len(maps)),
        "error of the maps": error,
        "difference of the output": float((result - expected).abs().max()),
    }


def main() -> None:
    """Measure, and write the page."""
    torch.set_num_threads(1)
    numbers = {}
    for name, make in {"ViT-S/16, 1 image": vit, "BERT of base size, 128 tokens": bert}.items():
        print(f"{name} …", flush=True)
        numbers[name] = measure(make)
    described = made("compiled", ["torch", "timm", "transformers"])
    rows = [
        [
            name,
            f"{n['ms alone']:.1f}",
            f"{n['ms captured']:.1f}",
            f"{n['ratio']:.3f} ({n['ratio, first quartile']:.3f} … {n['ratio, third quartile']:.3f})",
            f"{n['graph breaks']:.0f}",
            f"{n['maps']:.0f}",
            f"{n['error of the maps']:.1e}",
            f"{n['difference of the output']:.1e}",
        ]
        for name, n in numbers.items()
    ]
    head = ["model", "ms alone", "ms captured", "ratio", "graph breaks", "maps", "error of the maps", "of the output"]
    met = all(
        n["ratio"] <= COST and n["error of the maps"] <= ERROR and not n["graph breaks"] for n in numbers.values()
    )
    page = f"""# Compiled models

{__doc__.split(chr(10), 1)[1].strip()}

All maps are captured and none is read while the clock runs; the time is the process's CPU time, on one thread, the
median of {ROUNDS} forward passes each. Errors are the largest differences from the eager model's maps and output, in
float32, with every parameter perturbed. The goal (at most {COST} times the time, maps within {ERROR:.0e}, no graph
break) is **{"met" if met else "missed"}**.

{table(head, rows)}

{facts(described)}
"""
    write("compiled", page, {"made": described, "numbers": numbers})


if __name__ == "__main__":
    main()
