"""The interactive page compared with BertViz, CircuitsVis and attnview: its size, and how long it takes.

The maps of 197, 1,370 and 4,097 positions are those of DINOv2 ViT-S/14 with its real weights, 12 layers of 6 heads with
64 features each, for a photograph of 196, 518 and 896 pixels; those of 8,192 are of two layers of a Llama-shaped
decoder, causal, with 12 query heads on 4 key heads, perturbed at random. Each tool creates one HTML file with every
head, in a process of its own, whose largest memory beyond what it had before is in the table. The others are given the
finished maps. A tool that fails at a length, or needs more than a minute or 12 GB, is not asked for a longer one.

Headless Chromium opens the files. The time is wall-clock time from navigation to the picture: in ours to the mark that
the page sets when the overview, the query and a first picture of the map are drawn, and to that of the whole map; in
the others to the first element that they draw. A changed query is timed from the event to the end of the page's layout,
as the median of nine. BertViz loads d3, jQuery and RequireJS from the network; here it gets npm's copies from disk, so
that its time includes no network.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from _report import facts, made, table, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Route

LENGTHS: Final = (197, 1370, 4097, 8192)
PIXELS: Final = {197: 196, 1370: 518, 4097: 896}
ROUNDS: Final = 3
PATIENCE: Final = 60
"""Seconds after which a page counts as not drawn, and one of the others as not made."""

MEMORY: Final = 12 * 2**30
GOAL: Final[dict[str, dict[int, float]]] = {
    "MB": {197: 2.0, 1370: 30.0, 4097: 110.0},
    "seconds to make": {197: 0.5, 1370: 5.0, 4097: 10.0},
    "first": {1370: 2.0},
    "query": {1370: 0.05, 8192: 0.2},
}
SCRIPTS: Final = {"d3": "d3@5.7.0", "jquery": "jquery@2.2.4", "require": "requirejs@2.3.6"}


def model_of(length: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return a model, and an input of that many positions."""
    from anylocal.testing import perturb

    if length in PIXELS:
        import skimage.data

        from anylocal_vit import dinov2, photograph

        # It declares no types.
        photographs: Any = skimage.data
        model: Any = dinov2.load_timm()
        model.set_input_size(img_size=PIXELS[length])
        return model.eval(), photograph(model, photographs.astronaut(), size=PIXELS[length]).tensor
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "num_hidden_layers": 2,
    }
    config = LlamaConfig(**shape, intermediate_size=768, vocab_size=1000, max_position_embeddings=length)
    return perturb(LlamaModel(config)).eval(), torch.randint(0, 1000, (1, length))


@torch.no_grad()
def maps_of(length: int) -> Any:
    """Return the maps of that many positions."""
    from anylocal.attention import capture_attention

    model, given = model_of(length)
    with capture_attention(model) as maps:
        model(given)
    return maps


def ours(maps: Any) -> str:
    """Return our page."""
    from anylocal.view import explore

    return explore(maps).html


def bertviz(maps: list[torch.Tensor], names: list[str]) -> str:
    """Return BertViz's head view, with all layers."""
    from bertviz import head_view

    return f"<!DOCTYPE html><meta charset='utf-8'>{head_view(maps, names, html_action='return').data}"


def circuitsvis(maps: list[torch.Tensor], names: list[str]) -> str:
    """Return the view of all heads of CircuitsVis."""
    from circuitsvis.attention import attention_heads

    page = attention_heads(torch.cat(maps, 1)[0], names).local_src
    return f"<!DOCTYPE html><meta charset='utf-8'>{page}"


def attnview(maps: list[torch.Tensor], names: list[str]) -> str:
    """Return the report of attnview, with all layers."""
    from attnview import from_cache, render_html

    cache = {f"blocks.{at}.attn.hook_pattern": each for at, each in enumerate(maps)}
    return str(render_html(from_cache(cache, tokens=names)))


PEERS: Final[dict[str, tuple[Callable[[list[torch.Tensor], list[str]], str], str]]] = {
    "BertViz": (bertviz, "svg line"),
    "CircuitsVis": (circuitsvis, "[id^=circuits-vis] canvas, [id^=circuits-vis] img"),
    "attnview": (attnview, "#weights tr"),
}


def build(name: str, length: int, file: Path, peers: str) -> dict[str, Any]:
    """Write a page in a process of its own; return the seconds that it took, its size and memory, or why it failed."""
    own = name == "anylocal"
    python = sys.executable if own else peers
    command = [python, "-W", "ignore", __file__, "--build", name, str(length), str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=None if own else PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not made within {PATIENCE} s"}
    if done.returncode:
        last = ([*done.stderr.strip().splitlines(), "killed"])[-2 if done.stderr.strip() else -1]
        return {"failed": last.partition(":")[0] or last}
    return {**json.loads(done.stdout.splitlines()[-1]), "MB": file.stat().st_size / 1e6, "file": file}


def build_here(name: str, length: int, file: Path) -> dict[str, float]:
    """Write a page, and return what it took; the maps of the others lie beside it."""
    if name == "anylocal":
        ours(maps_of(197))  # the imports are not part of it
        given: tuple[Any, ...] = (maps_of(length),)
        make: Callable[..., str] = ours
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        make = PEERS[name][0]
        make([torch.rand(1, 2, 5, 5).softmax(-1)] * 2, list("abcde"))
        maps = torch.load(file.with_name(f"{length}.pt"))
        given = list(maps), [str(at) for at in range(length)]
    before = peak(reset=True)
    begun, worked = time.perf_counter(), time.process_time()
    text = make(*given)
    took = {"seconds to make": time.perf_counter() - begun, "processor seconds": time.process_time() - worked}
    file.write_text(text, "utf-8")
    return {**took, "peak MB": peak() - before}


def peak(*, reset: bool = False) -> float:
    """Return the largest memory of this process since the last reset, in MB; 0 where the system does not tell."""
    try:
        if reset:
            gc.collect()
            # What was freed, and is kept for later, would not count again.
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except (OSError, AttributeError):
        return 0.0
    return int(found[1]) / 1e3 if found else 0.0


def scripts(folder: Path) -> dict[str, Path]:
    """Return the scripts that BertViz loads, as npm has them; none where there is no npm or no network."""
    npm = shutil.which("npm")
    found = {}
    for name, package in SCRIPTS.items():
        if (
            npm is None
            or subprocess.run([npm, "pack", package], cwd=folder, capture_output=True, check=False).returncode
        ):
            return {}
        with tarfile.open(next(folder.glob(f"{package.partition('@')[0]}*.tgz"))) as archive:
            archive.extractall(folder / name, filter="data")
        wanted = "require.js" if name == "require" else f"{name}.min.js"
        found[name] = next((folder / name).rglob(wanted))
    return found


def drawn(chromium: Browser, name: str, file: Path, served: dict[str, Path]) -> dict[str, float]:
    """Return the seconds from the address to the picture, and until a changed query is drawn."""
    tab = chromium.new_page(viewport={"width": 1400, "height": 900})

    def answer(route: Route) -> None:
        path = next((path for name, path in served.items() if name in route.request.url), None)
        if path is None:
            route.abort()
        else:
            route.fulfill(path=path, content_type="text/javascript")

    tab.route("**/cdnjs.cloudflare.com/**", answer)
    start = time.perf_counter()
    selectors = (
        {"first": PEERS[name][1]} if name in PEERS else {"first": "html[data-sketched]", "whole": "html[data-drawn]"}
    )
    found = {}
    try:
        tab.goto(file.as_uri(), timeout=PATIENCE * 1000)
        for moment, selector in selectors.items():
            tab.wait_for_selector(selector, state="attached", timeout=PATIENCE * 1000)
            found[moment] = time.perf_counter() - start
        if name not in PEERS:
            found["query"] = statistics.median(tab.evaluate(CHANGED)) / 1000
    except Exception as error:  # noqa: BLE001  # a page that crashes the browser is a result as well
        print(f"  {name} not drawn: {str(error).splitlines()[0]}")
    finally:
        tab.close()
    return found


# The row is drawn in one go, with the words above it, some time after the event.
CHANGED: Final = """async () => {
  const [query, words, times] = [document.getElementById("query"), document.getElementById("asked"), []];
  for (let at = 0; at < 9; at += 1) {
    const drawn = new Promise((done) => {
      new MutationObserver((_, observer) => { observer.disconnect(); done(); }).observe(words, { childList: true });
    });
    const begun = performance.now();
    query.value = String(Math.floor(((at + 0.5) * query.max) / 9));
    query.dispatchEvent(new Event("input"));
    await drawn;
    document.body.getBoundingClientRect();
    times.push(performance.now() - begun);
  }
  return times;
}"""


def measure(length: int, folder: Path, served: dict[str, Path], peers: str, failed: dict[str, int]) -> dict[str, Any]:
    """Build the pages of a length, and open them in turns."""
    from anylocal.testing import browser

    built: dict[str, dict[str, Any]] = {}
    if set(PEERS) - set(failed):
        torch.save([layer.tensor() for layer in maps_of(length)], folder / f"{length}.pt")
    for name in ["anylocal", *PEERS]:
        if name in failed:
            continue
        built[name] = {**build(name, length, folder / f"{name}.html", peers), "opened": []}
        print(f"  {name}: {built[name]}", flush=True)
    (folder / f"{length}.pt").unlink(missing_ok=True)
    for _ in range(ROUNDS):
        for name, page in built.items():
            # Once is enough of what was not drawn in time.
            if "file" in page and {} not in page["opened"]:
                # A browser of its own each time: nothing is warm, and what crashed is gone.
                with browser() as chromium:
                    page["opened"].append(drawn(chromium, name, page["file"], served))
    for name, page in built.items():
        page.pop("file", None)
        if name in PEERS and ("failed" in page or {} in page["opened"]):
            failed[name] = length
    return built


VERSIONS: Final = """import sys
from importlib.metadata import distributions
print(*(f"{name} {found.version}" for name in sys.argv[1:] for found in distributions(name=name.lower())), sep=", ")
"""


def spread(page: dict[str, Any], moment: str, unit: float = 1.0) -> str:
    """Return a time as text, with the smallest and the largest; nothing where there is none."""
    times = [unit * each[moment] for each in page["opened"] if moment in each]
    if not times:
        return f"not within {PATIENCE}" if moment == "first" and page["opened"] else ""
    return f"{middle(times):.3g} ({min(times):.3g} … {max(times):.3g})"


def middle(times: list[float]) -> float:
    """Return the median."""
    return float(statistics.median(times))


def row(length: int, built: dict[str, Any]) -> list[list[str]]:
    """Return the lines of the table of one length."""
    lines = []
    for name, page in built.items():
        if "failed" in page:
            lines.append([name, f"{length:,}", page["failed"], *[""] * 6])
            continue
        numbers = [f"{page[key]:.3g}" for key in ("MB", "seconds to make", "processor seconds")]
        times = [spread(page, "first"), spread(page, "whole"), spread(page, "query", 1000)]
        lines.append([name, f"{length:,}", *numbers, f"{page['peak MB']:.0f}", *times])
    return lines


def verdict(numbers: dict[int, dict[str, Any]]) -> str:
    """Return whether the goals are met, in words."""
    told = []
    names = {
        "MB": "MB",
        "seconds to make": "s to make it",
        "first": "s to the first picture",
        "query": "s to change the query",
    }
    for what, goals in GOAL.items():
        for length, most in goals.items():
            page = numbers[length]["anylocal"]
            found = page[what] if what in page else middle([each.get(what, math.inf) for each in page["opened"]])
            told.append(
                f"{length:,} positions within {most:g} {names[what]}: **{'met' if found <= most else 'missed'}**"
            )
    return "; ".join(told)


def main() -> None:
    """Measure every length, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", metavar="PYTHON", default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--other", action="append", help="another Python, which this script does not need")
    options = parser.parse_args()
    numbers: dict[int, dict[str, Any]] = {}
    failed: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        served = scripts(folder)
        if not served:
            print("npm is not available: BertViz will not find its scripts without a network.")
        for length in LENGTHS:
            print(f"{length} positions …", flush=True)
            numbers[length] = measure(length, folder, served, options.peers, failed)
    told = subprocess.run([options.peers, "-c", VERSIONS, *PEERS], capture_output=True, text=True, check=False).stdout
    described = {**made("page", ["torch", "timm", "transformers", "playwright"]), "others": told.strip() or "none"}
    head = [
        "page",
        "positions",
        "MB",
        "seconds to make",
        "of the processor",
        "peak MB of Python",
        "seconds to the first picture",
        "to the whole map",
        "ms to change the query",
    ]
    lines = [line for length, built in numbers.items() for line in row(length, built)]
    page = f"""# The interactive page

{__doc__.split(chr(10), 1)[1].strip()}

{table(head, lines)}

Each is opened {ROUNDS} times, in a new browser: median (min … max). Goals: {verdict(numbers)}.

{facts(described)}
"""
    write("page", page, {"made": described, "numbers": {str(length): built for length, built in numbers.items()}})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--build"]:
        _, _, kind, positions, target = sys.argv
        print(json.dumps(build_here(kind, int(positions), Path(target))))
    else:
        main()
