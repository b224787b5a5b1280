"""Capturing every map on an accelerator: what it costs compared with the same model, and how exact it is.

The model is timm's ViT-S/16 with 64 images, in bfloat16, with every parameter perturbed, without gradients; fused
attention is a flash kernel there. It runs eagerly, compiled by inductor, and compiled with CUDA graphs
(`mode="reduce-overhead"`), with and without its 12 maps captured, none of them read while the clock runs; and unfused,
with hooks that keep the maps.

Each variant has its own process; the processes take turns. Time is measured between CUDA events. Memory is the peak of
a forward pass beyond the loaded model. Errors are the largest differences from the float64 softmax of the queries and
keys that the eager fused model's kernel received: compiled or unfused, a model computes slightly different ones in
bfloat16. The output is compared with that of the eager fused model.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from _report import facts, made, table, write
from _turns import Failure, Worker, serve

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICE: Final = "cuda"
BATCH: Final = 64
SIDE: Final = 224
LAYERS: Final = 12
ROUNDS: Final = 30
WARM: Final = 3
COST, ERROR = 1.05, 2e-6

Maps = list[torch.Tensor]


@dataclass(frozen=True)
class Way:
    """One way to run the model.

    Parameters
    ----------
    title : str
        How the table calls it.
    base : str
        The way that its time is compared with.
    mode : str, optional
        How it is compiled.
    captured, fused : bool
        Whether our scope is open, and whether attention is fused.
    """

    title: str
    base: str
    mode: str | None = None
    captured: bool = False
    fused: bool = True


WAYS: Final = {
    "eager": Way("fused", "eager"),
    "eager captured": Way("fused, **captured**", "eager", captured=True),
    "unfused": Way("unfused, hooks keep the maps", "eager", fused=False),
    "compiled": Way("compiled", "compiled", "default"),
    "compiled captured": Way("compiled, **captured**", "compiled", "default", captured=True),
    "graphs": Way("CUDA graphs", "graphs", "reduce-overhead"),
    "graphs captured": Way("CUDA graphs, **captured**", "graphs", "reduce-overhead", captured=True),
}


def model_and_images(*, fused: bool) -> tuple[Any, torch.Tensor]:
    """Return the model and its input, the same each time."""
    import timm

    from anylocal.testing import perturb

    torch.manual_seed(0)
    timm.layers.set_fused_attn(fused)
    model: Any = perturb(timm.create_model("vit_small_patch16_224")).eval()
    images = torch.randn(BATCH, 3, SIDE, SIDE)
    return model.to(DEVICE, torch.bfloat16), images.to(DEVICE, torch.bfloat16)


@torch.no_grad()
def make_reference(file: str) -> tuple[dict[str, Any], Callable[[], float]]:
    """Write the maps in float64 of what the kernels are given, and the output."""
    model, images = model_and_images(fused=True)
    maps, queries = [], []
    for block in model.blocks:
        # timm calls these on the way to the kernel, and here they do nothing.
        block.attn.q_norm.register_forward_hook(lambda _module, _inputs, output: queries.append(output.double()))
        block.attn.k_norm.register_forward_hook(
            lambda _module, _inputs, output: maps.append(exact(queries[-1], output))
        )
    output = model(images)
    torch.save({"maps": maps, "output": output.cpu()}, file)
    return {}, lambda: 0.0


def exact(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return the map in float64."""
    scores = query @ key.double().transpose(-2, -1) * float(query.shape[-1] ** -0.5)
    return scores.softmax(-1).cpu()


@torch.no_grad()
def prepare(way: Way, file: str) -> tuple[dict[str, Any], Callable[[], float]]:
    """Return what a way needs and gets, and what is timed."""
    model, images = model_and_images(fused=way.fused)
    loaded = torch.cuda.memory_allocated()
    call, clear, read = runner(way, model)
    for _ in range(WARM):
        clear()
        call(images)
    torch.cuda.reset_peak_memory_stats()
    clear()
    output = call(images)
    told = {"MB": (torch.cuda.max_memory_allocated() - loaded) / 1e6, **check(output, read(), file)}

    @torch.no_grad()
    def run() -> float:
        clear()
        return seconds(lambda: call(images))

    return told, run


def runner(way: Way, model: Any) -> tuple[Callable[..., torch.Tensor], Callable[[], None], Callable[[], Maps]]:
    """Return what runs the model, what forgets its maps, and what reads them."""
    # What is compiled is compiled with the scope open: to open one drops all that was compiled.
    clear, read = of_scope(model) if way.captured else of_hooks(model)
    call = model if way.mode is None else torch.compile(model, fullgraph=True, mode=way.mode)
    return call, clear, read


def of_scope(model: Any) -> tuple[Callable[[], None], Callable[[], Maps]]:
    """Open our scope, and return what forgets its maps, and what reads them."""
    from anylocal_vit import capture_attention

    scope = capture_attention(model).open()

    def clear() -> None:
        scope.clear()
        assert not scope.maps, "maps of the run before are still there"

    return clear, lambda: [attention.tensor() for attention in scope.maps]


def of_hooks(model: Any) -> tuple[Callable[[], None], Callable[[], Maps]]:
    """Keep the maps of an unfused model by hooks, and return what forgets them, and what reads them."""
    kept: Maps = []
    for block in model.blocks:
        if not block.attn.fused_attn:
            block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    return kept.clear, lambda: kept


def check(output: torch.Tensor, maps: Maps, file: str) -> dict[str, Any]:
    """Return how many maps there are, how wrong they are, and how far the output is off."""
    reference = torch.load(file, mmap=True)
    found: dict[str, Any] = {"maps": len(maps), "equal": torch.equal(output.cpu(), reference["output"])}
    found["difference"] = float((output.cpu().double() - reference["output"].double()).abs().max())
    if len(maps) == len(reference["maps"]):
        pairs = zip(maps, reference["maps"], strict=True)
        found["error"] = max(float((a.cpu().double() - b).abs().max()) for a, b in pairs)
    return found


def seconds(call: Callable[[], object]) -> float:
    """Return the seconds between the events before and after a call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def measure() -> dict[str, dict[str, Any]]:
    """Run all ways in turns."""
    found: dict[str, dict[str, Any]] = {}
    workers = {}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "reference.pt"))
        reference = Worker(sys.executable, __file__, "--way", "reference", file)
        reference.answer()
        reference.stop()
        for key in WAYS:
            print(f"{key} …", flush=True)
            worker = Worker(sys.executable, __file__, "--way", key, file)
            try:
                found[key] = {**worker.answer(), "times": []}
                workers[key] = worker
            except Failure as failure:
                found[key] = {"failure": str(failure)}
        for _ in range(ROUNDS):
            for key, worker in workers.items():
                found[key]["times"].append(worker.seconds())
        for worker in workers.values():
            worker.stop()
    return found


def ratios(found: dict[str, dict[str, Any]], key: str) -> list[float]:
    """Return the quartiles of the times, as multiples of those of the way that it is compared with."""
    pairs = zip(found[key]["times"], found[WAYS[key].base]["times"], strict=True)
    return statistics.quantiles([own / base for own, base in pairs], n=4)


def row(found: dict[str, dict[str, Any]], key: str) -> list[str]:
    """Return the line of a way."""
    told, way = found[key], WAYS[key]
    if "failure" in told or "failure" in found[way.base]:
        return [way.title, "–", "–", "–", "–", "–", f"none: `{told.get('failure', 'nothing to compare with')}`"]
    low, middle, high = ratios(found, key)
    return [
        way.title,
        f"{1000 * statistics.median(told['times']):.2f}",
        f"{middle:.3f} ({low:.3f} … {high:.3f})",
        f"{told['MB']:.0f}",
        f"{told['error']:.1e}" if "error" in told else "–",
        "bit-equal" if told["equal"] else f"{told['difference']:.1e} off",
        f"{told['maps']} of {LAYERS}" if way.captured or not way.fused else "–",
    ]


def verdict(found: dict[str, dict[str, Any]]) -> str:
    """Return whether the goals are met, in words."""
    told = []
    for key, way in WAYS.items():
        if way.captured:
            ran = "failure" not in found[key] and "failure" not in found[way.base]
            said = "not run" if not ran else "met" if ratios(found, key)[1] <= COST else "missed"
            told.append(f"{key}: at most {COST} times the time **{said}**")
    own = found["eager captured"]
    right = own.get("error", 1.0) <= ERROR and own.get("equal", False)
    told.append(f"eager: maps within {ERROR:.0e} and the output bit-equal **{'met' if right else 'missed'}**")
    return "; ".join(told)


def main() -> None:
    """Measure, and write the page, where there is an accelerator."""
    if not torch.cuda.is_available():
        print("No CUDA device: nothing is measured, and the table that was there, if any, stays as it is.")
        return
    found = measure()
    described = made("gpu", ["torch", "timm"]) | {"accelerator": torch.cuda.get_device_name()}
    described["CUDA"] = str(torch.version.cuda)
    head = ["way", "ms", "× without", "peak MB beyond the model", "largest error", "output", "maps"]
    page = f"""# On an accelerator

{(__doc__ or "").split(chr(10), 1)[1].strip()}

{table(head, [row(found, key) for key in WAYS])}

{ROUNDS} rounds; medians of ratios, with quartiles in parentheses, to the same model in the same mode without a capture,
in the same round. The unfused model is compared with the fused one. Goals: {verdict(found)}.

{facts(described)}
"""
    write("gpu", page, {"made": described, "numbers": found})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        _, _, chosen, target = sys.argv
        serve(lambda: make_reference(target) if chosen == "reference" else prepare(WAYS[chosen], target))
    else:
        main()
