"""A survey of 10,000 images: equal results by one process and by two that were killed, in the memory of 1,000 images.

The images are 48 × 48 pixels of noise in ten folders; the model is timm's `test_vit` with random weights, on the CPU.
First one process runs the survey. Then two processes run it under torchrun; when half of the shards are written they
are killed (SIGKILL, both of them and torchrun) and started again. Memory is the resident memory of the single process
(VmRSS), read after each shard.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from _report import facts, made, table, write

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNT: Final = 10_000
PIECE: Final = 250
SETTLED: Final = 1000
GROWTH: Final = 1.1
"""The goal: the most that memory may grow from the first thousand images on."""


def folder_of(root: Path, count: int) -> Path:
    """Write images, and return their folder."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(count):
        file = root / f"{number % 10}" / f"{number:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (48, 48, 3), np.uint8)).save(file, compress_level=1)
    return root


def command(data: Path, out: Path, *launcher: str) -> list[str]:
    """Return the command of a survey, run as a module by Python or by what launches several."""
    options = ["--model", "test_vit", "--random-weights", "--data", str(data), "--out", str(out)]
    return [sys.executable, *launcher, "-m", "anylocal_vit", "survey", *options, "--piece", str(PIECE), "--batch", "25"]


def pieces(out: Path) -> int:
    """Return how many shards are done."""
    return len(list((out / "pieces").glob("*.safetensors")))


def start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a survey in a group of its own, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(arguments, env=environment, stdout=nowhere, stderr=nowhere, start_new_session=True)


def held(process: subprocess.Popen[bytes]) -> float | None:
    """Return the megabytes that a process holds, None once it is gone."""
    try:
        text = Path(f"/proc/{process.pid}/status").read_text("ascii")
    except OSError:
        return None
    lines = [line for line in text.splitlines() if line.startswith("VmRSS")]
    return int(lines[0].split()[1]) / 1000 if lines else None


def alone(data: Path, out: Path) -> dict[int, float]:
    """Do the survey by one process; return the megabytes that it held, by the number of images done."""
    process = start(command(data, out))
    found: dict[int, float] = {}
    while process.poll() is None:
        done = pieces(out) * PIECE
        memory = held(process)
        if memory is not None and done not in found:
            found[done] = memory
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"The survey failed: {process.returncode}")
    return found


def killed(data: Path, out: Path) -> tuple[int, int]:
    """Run the survey with two processes, killed half-way; return the number of shards at that time and in the end."""
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    process = start(command(data, out, *launcher))
    while pieces(out) < COUNT // PIECE // 2:
        if process.poll() is not None:
            raise SystemExit(f"The survey stopped by itself: {process.returncode}")
        time.sleep(0.05)
    # torchrun's workers are groups of their own: each is looked for below it.
    for worker in [*_below(process.pid), process.pid]:
        os.kill(worker, signal.SIGKILL)
    process.wait()
    before = pieces(out)
    again = start(command(data, out, *launcher))
    if again.wait():
        raise SystemExit(f"The survey did not go on: {again.returncode}")
    return before, pieces(out)


def _below(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split()
    return [worker for child in map(int, children) for worker in (*_below(child), child)]


def rows(out: Path) -> Any:
    """Return the table of a survey."""
    from pyarrow import parquet

    return parquet.read_table(out / "survey.parquet")


def main() -> None:
    """Do both, compare them, and write the page."""
    if not Path("/proc/self/status").exists():
        print("This script reads /proc, which Linux has.")
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        print("images …", flush=True)
        data = folder_of(root / "data", COUNT)
        print("one process …", flush=True)
        memory = alone(data, root / "one")
        print("two processes, killed …", flush=True)
        before, after = killed(data, root / "two")
        one, two = rows(root / "one"), rows(root / "two")
        same = one.equals(two)
        numbers = int(one.schema.metadata[b"samples"]), int(two.schema.metadata[b"samples"])
    first = min((done for done in memory if done >= SETTLED), default=0)
    growth = max(value for done, value in memory.items() if done >= first) / memory[first]
    described = made("survey", ["torch", "timm", "torchmetrics", "pyarrow"])
    lines = [
        ["images in the result of one process", f"{numbers[0]:,}"],
        ["images in the result of two, killed and started again", f"{numbers[1]:,}"],
        ["shards done when they were killed, of all", f"{before} of {after}"],
        ["rows of the table", f"{len(one):,}"],
        ["both tables are bit-equal", "yes" if same else "NO"],
        [f"memory after {first:,} images", f"{memory[first]:.0f} MB"],
        ["peak memory from there to the end, as a multiple of that", f"{growth:.3f}"],
    ]
    met = same and numbers == (COUNT, COUNT) and growth <= GROWTH
    page = f"""# A survey of {COUNT:,} images

{__doc__.split(chr(10), 1)[1].strip()}

{table(["what", "found"], lines)}

The goal (equal tables, no image lost or counted twice, memory within {GROWTH - 1:.0%} from the first thousand images
on) is **{"met" if met else "missed"}**.

{facts(described)}
"""
    results = {"equal": same, "images": numbers, "shards": [before, after], "growth": growth}
    write("survey", page, {"made": described, **results, "MB": {str(done): value for done, value in memory.items()}})


if __name__ == "__main__":
    main()
