"""The interactive page compared with BertViz's head view: the size of the file, and the time until it is drawn.

The maps are those of a base-size BERT, 12 layers of 12 heads, with every parameter perturbed, for texts of 32 to 512
tokens. Both tools create one HTML file, which headless Chromium opens. The time is wall-clock time from navigation to
the picture: in ours the mark that the page sets when everything is drawn, in BertViz the first line between two tokens.
They take turns. BertViz loads d3, jQuery and RequireJS from the network; here it gets npm's copies from disk, so that
its time includes no network.
"""

from __future__ import annotations

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

LENGTHS: Final = (32, 128, 197, 512)
ROUNDS: Final = 3
PATIENCE: Final = 120
"""Seconds after which a page counts as not drawn."""

GOAL: Final = {197: 2.0, 512: 6.0}
SCRIPTS: Final = {"d3": "d3@5.7.0", "jquery": "jquery@2.2.4", "require": "requirejs@2.3.6"}


@torch.no_grad()
def maps_of(length: int) -> Any:
    """Return the maps of a text with that number of tokens."""
    from transformers import BertConfig, BertModel

    from anylocal.testing import perturb
    from anylocal_bert import capture_attention

    torch.manual_seed(0)
    model = perturb(BertModel(BertConfig())).eval()
    with capture_attention(model) as maps:
        model(torch.randint(0, 30_000, (1, length)))
    return maps


def ours(length: int) -> str:
    """Return our page."""
    from anylocal.view import explore

    return explore(maps_of(length), limit=None).html


def bertviz(length: int) -> str:
    """Return BertViz's head view, with all layers."""
    from bertviz import head_view

    from anylocal_bert import bertviz as arguments

    page: str = head_view(**arguments(maps_of(length)), html_action="return").data
    return f"<!DOCTYPE html><meta charset='utf-8'>{page}"


PAGES: Final[dict[str, tuple[Callable[[int], str], str]]] = {
    "anylocal": (ours, "html[data-drawn]"),
    "BertViz head view": (bertviz, "svg line"),
}


def build(name: str, length: int, file: Path) -> tuple[float, float]:
    """Write a page in a process of its own; return the seconds that it took, the model's forward too, and its size."""
    command = [sys.executable, "-W", "ignore", __file__, "--build", name, str(length), str(file)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1]), file.stat().st_size / 1e6


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


def drawn(chromium: Browser, file: Path, selector: str, served: dict[str, Path]) -> float | None:
    """Return the seconds from the address to the picture, None where it is not drawn in time."""
    tab = chromium.new_page(viewport={"width": 1400, "height": 900})

    def answer(route: Route) -> None:
        path = next((path for name, path in served.items() if name in route.request.url), None)
        if path is None:
            route.abort()
        else:
            route.fulfill(path=path, content_type="text/javascript")

    tab.route("**/cdnjs.cloudflare.com/**", answer)
    start = time.perf_counter()
    try:
        tab.goto(file.as_uri(), timeout=PATIENCE * 1000)
        tab.wait_for_selector(selector, state="attached", timeout=PATIENCE * 1000)
    except Exception as error:  # noqa: BLE001  # a page that crashes the browser is a result as well
        print(f"  not drawn: {str(error).splitlines()[0]}")
        return None
    finally:
        tab.close()
    return time.perf_counter() - start


def measure(length: int, folder: Path, served: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Build both pages of a length, and open them in turns."""
    from anylocal.testing import browser

    built: dict[str, dict[str, Any]] = {}
    for name in PAGES:
        file = folder / f"{name}-{length}.html"
        seconds, size = build(name, length, file)
        built[name] = {"file": file, "seconds to make": seconds, "MB": size, "times": []}
        print(f"  {name}: {size:.1f} MB, made in {seconds:.1f} s", flush=True)
    for _ in range(ROUNDS):
        for name, (_, selector) in PAGES.items():
            times = built[name]["times"]
            # Once is enough of what was not drawn in two minutes.
            if None not in times:
                # A browser of its own each time: nothing is warm, and what crashed is gone.
                with browser() as chromium:
                    times.append(drawn(chromium, built[name]["file"], selector, served))
    for page in built.values():
        page.pop("file").unlink()
    return built


def row(length: int, built: dict[str, Any]) -> list[list[str]]:
    """Return the lines of the table of one length."""
    lines = []
    for name, page in built.items():
        times = [seconds for seconds in page["times"] if seconds is not None]
        spread = f"{statistics.median(times):.1f} ({min(times):.1f} … {max(times):.1f})" if times else ""
        told = spread or f"not within {PATIENCE}"
        lines.append([name, str(length), f"{page['MB']:.2f}", f"{page['seconds to make']:.1f}", told])
    return lines


def verdict(numbers: dict[int, dict[str, Any]]) -> str:
    """Return whether the goals are met, in words."""
    told = []
    for length, most in GOAL.items():
        times = numbers[length]["anylocal"]["times"]
        met = None not in times and statistics.median(times) <= most
        told.append(f"drawn within {most:.0f} s at {length} tokens: **{'met' if met else 'missed'}**")
    return "; ".join(told)


def main() -> None:
    """Measure every length, and write the page."""
    numbers = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        served = scripts(folder)
        if not served:
            print("npm is not available: BertViz will not find its scripts without a network.")
        for length in LENGTHS:
            print(f"{length} tokens …", flush=True)
            numbers[length] = measure(length, folder, served)
    described = made("page", ["torch", "transformers", "bertviz", "playwright"])
    head = ["page", "tokens", "MB", "seconds to make", "seconds until drawn, median (min … max)"]
    lines = [line for length, built in numbers.items() for line in row(length, built)]
    page = f"""# The interactive page

{__doc__.split(chr(10), 1)[1].strip()}

{table(head, lines)}

Each is opened {ROUNDS} times, in a new browser. Goals: {verdict(numbers)}.

{facts(described)}
"""
    write("page", page, {"made": described, "numbers": {str(length): built for length, built in numbers.items()}})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--build"]:
        _, _, kind, tokens, target = sys.argv
        maps_of(8)  # the imports are not part of it
        begun = time.perf_counter()
        text = PAGES[kind][0](int(tokens))
        Path(target).write_text(text, "utf-8")
        print(time.perf_counter() - begun)
    else:
        main()
