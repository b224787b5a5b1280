"""All attention maps of a model, by every method that we know of: cost and accuracy.

The models are timm's ViT-S/16 (`vit_small_patch16_224`) and transformers' base-size BERT, with every parameter
perturbed, in eval mode, without gradients, in float32, on one CPU thread. *Fused* is the model by default: its
attention is one kernel that never computes the map. *Unfused* is the same model with attention written out
(`timm.layers.set_fused_attn(False)` before it is built, `attn_implementation="eager"`), which is needed by methods that
can only see what the model computes. All ratios are to the fused model alone, in the same round.

Each method has its own process, so that one that changes torch or crashes does not affect the others. The processes
take turns. Time is CPU time. Memory is the peak beyond the loaded model: of the process in the first forward pass,
which includes libraries that are loaded then and memory that is freed and kept, and of the tensors in a later one, as
torch's allocator reports them to its profiler. Errors are the largest differences from the maps of the same weights in
float64, unfused. The output is compared, bit by bit, with that of the fused model alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import _maps
import _scopes
from _maps import CASES, PEERS, WAYS, Case, Way
from _report import facts, made, table, write
from _turns import Failure, Worker

COST: Final = 1.05
GOALS: Final = ("captured", "captured_anew")
"""The ways that must not cost more than that, give wrong maps or change the output."""

READ_COST: Final = 1.1
"""How much more all maps may take, captured and read, than the unfused model that makes them."""

ROW_COST: Final = 1.02
"""How much more one row of each map may take than the fused model alone."""

STARTING: Final = 3
"""How many processes load their models at once; only one runs while the clock does."""

SPREAD: Final = (
    "Ratios are medians, with quartiles in parentheses. The peers are the newest versions that could be installed into"
    " an environment of their own, which shares torch, timm and transformers with the others."
)
HOW_OPENED: Final = (
    "CPU time in ms of a scope on a model seen before in which nothing runs, as around each forward pass: medians of"
    f" {_scopes.OPENINGS} openings in turns, with quartiles in parentheses. Free memory, on which the limit depends, is"
    " read as the first value is recorded, and not included."
)
HEAD: Final = (
    "method",
    "× the model alone",
    "peak MB beyond the model",
    "of tensors",
    "largest error",
    "output",
    "maps",
)


def work(case: str, way: str, file: Path, python: str) -> Worker:
    """Return a process that runs a way, or makes the reference; only peers need the Python that has them."""
    needs_peers = way in WAYS and WAYS[way].peer
    return Worker(python if needs_peers else sys.executable, _maps.__file__, case, way, str(file))


def start(name: str, key: str, file: Path, python: str) -> tuple[Worker, dict[str, Any]]:
    """Start a way, and return what it tells of its first run."""
    print(f"  {key} …", flush=True)
    worker = work(name, key, file, python)
    try:
        return worker, {**worker.answer(), "times": []}
    except Failure as failure:
        return worker, {"failure": str(failure)}


def measure(name: str, python: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Run all ways of a case in turns, and return what each told, with its times."""
    case, file = CASES[name], folder / f"{name}.pt"
    reference = work(name, "reference", file, python)
    reference.answer()
    reference.stop()
    keys = [key for key, way in WAYS.items() if case.family in way.families]
    with ThreadPoolExecutor(STARTING) as pool:
        started = list(pool.map(lambda key: start(name, key, file, python), keys))
    found = {key: told for key, (_, told) in zip(keys, started, strict=True)}
    workers = {key: worker for key, (worker, _) in zip(keys, started, strict=True) if "failure" not in found[key]}
    for number in range(case.rounds + 1):
        print(f"  round {number} of {case.rounds}", flush=True)
        for key, worker in workers.items():
            took = worker.seconds()
            # The first is for what is only slow once.
            found[key]["times"] += [took] if number else []
    for worker in workers.values():
        worker.stop()
    file.unlink()
    return found


def ratios(found: dict[str, dict[str, Any]], key: str, to: str = "alone") -> list[float]:
    """Return the quartiles of a way's times, as multiples of those of another way in the same round."""
    pairs = zip(found[key]["times"], found[to]["times"], strict=True)
    return statistics.quantiles([own / other for own, other in pairs], n=4)


def row(found: dict[str, dict[str, Any]], key: str, way: Way) -> list[str]:
    """Return the line of a way."""
    told = found[key]
    if "failure" in told:
        return [way.title, *["–"] * 5, f"none: `{told['failure'].replace('|', '/')}`"]
    low, middle, high = ratios(found, key)
    spread = f"{middle:.2f} ({low:.2f} … {high:.2f})"
    error = f"{told['error']:.1e}" if "error" in told else "–"
    maps = "–" if way.prepare is _maps.alone else f"{told['maps']} of {_maps.LAYERS}"
    return [way.title, spread, f"{told['MB']:.0f}", f"{told['tensors']:.0f}", error, output(told), maps]


def output(told: dict[str, Any]) -> str:
    """Return what a way does to the output, in words."""
    if "equal" not in told:
        return "none"
    return "bit-equal" if told["equal"] else f"{told['difference']:.1e} off"


def section(case: Case, found: dict[str, dict[str, Any]]) -> str:
    """Return the tables of a case."""
    alone = statistics.median(found["alone"]["times"])
    parts = [f"## {case.title}", f"The fused model alone takes {alone * 1000:.0f} ms; {case.rounds} rounds."]
    for words, fused in (("The fused model, the default:", True), ("The unfused model:", False)):
        keys = [key for key in found if WAYS[key].fused is fused]
        parts += [words, table(HEAD, [row(found, key, WAYS[key]) for key in keys])]
    return "\n\n".join(parts)


def met(*, yes: bool) -> str:
    """Return a verdict."""
    return "met" if yes else "**missed**"


def goals(numbers: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the table of goals."""
    rows = []
    for name, found in numbers.items():
        for key in GOALS:
            told, most = found[key], CASES[name].goal
            if "failure" in told:
                rows.append([f"{CASES[name].title}: {WAYS[key].title}", *["**missed**"] * 3])
                continue
            cost, error = ratios(found, key)[1], told.get("error", float("inf"))
            rows.append(
                [
                    f"{CASES[name].title}: {WAYS[key].title}",
                    f"{cost:.3f}: {met(yes=cost <= COST)}",
                    f"{error:.1e} (goal {most:.0e}): {met(yes=error <= most and told['maps'] == _maps.LAYERS)}",
                    met(yes=told.get("equal", False)),
                ]
            )
    return table(("goal", f"at most {COST} × the time", "error", "output bit-equal"), rows)


def reading_goals(numbers: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the table of the goals of reading."""
    rows = []
    for name, found in numbers.items():
        case = CASES[name]
        needed = {"captured_read", "captured_reduced", "captured_rows", "alone", "alone_unfused", case.eager}
        if any("failure" in found[key] for key in needed):
            rows.append([f"{case.title}: reading", "**missed**: a way failed", "–"])
            continue
        batch, (heads, length) = case.batch, case.map_size
        layer = batch * heads * length**2 * 4 / 1e6
        to_model, to_way = (ratios(found, "captured_read", to) for to in ("alone_unfused", case.eager))
        most, own = found[case.eager]["tensors"] + layer, found["captured_reduced"]["tensors"]
        reduced_to_model = ratios(found, "captured_reduced", "alone_unfused")
        row_cost = ratios(found, "captured_rows")
        rows += [
            [
                f"{case.title}: all maps read, at most {READ_COST} × the unfused model alone",
                f"{wide(to_model)} ({to_way[1]:.2f} × the same with its maps)",
                met(yes=to_model[1] <= READ_COST),
            ],
            [
                f"{case.title}: all maps by `reduce=`, at most {READ_COST} × the unfused model alone",
                wide(reduced_to_model),
                met(yes=reduced_to_model[1] <= READ_COST),
            ],
            [
                f"{case.title}: all maps by `reduce=`, at most the tensors of {WAYS[case.eager].title} and one map",
                f"{own:.1f} MB of {most:.1f}",
                met(yes=own <= most),
            ],
            [
                f"{case.title}: one row of each map, at most {ROW_COST} × the model alone",
                wide(row_cost),
                met(yes=row_cost[1] <= ROW_COST),
            ],
        ]
    return table(("goal of reading", "measured", "met"), rows)


def wide(quartiles: list[float]) -> str:
    """Return a median with its quartiles."""
    low, middle, high = quartiles
    return f"{middle:.3f} ({low:.3f} … {high:.3f})"


def measure_scopes() -> dict[str, list[float]]:
    """Return how long scopes take to open and close, as a process of their own tells."""
    worker = Worker(sys.executable, _scopes.__file__)
    told = worker.answer()
    worker.stop()
    return told


def scopes(told: dict[str, list[float]]) -> str:
    """Return the section about opening and closing a scope."""
    rows, verdicts = [], []
    for name, title in _scopes.TITLES.items():
        row, most = [title], _scopes.GOALS_MS[name]
        for door, how in _scopes.DOORS.items():
            low, middle, high = told[f"{name} {door}"]
            row.append(f"{middle:.2f} ({low:.2f} … {high:.2f})")
            verdict = met(yes=middle <= most).strip("*")
            verdicts.append(f"{title}, {how}, at most {most} ms: {middle:.2f}, **{verdict}**")
        rows.append(row)
    return "\n\n".join(
        [
            "## Opening and closing a scope",
            HOW_OPENED,
            table(("model", *_scopes.DOORS.values()), rows),
            f"Goals: {'; '.join(verdicts)}.",
        ]
    )


def notes() -> str:
    """Return what each way computes."""
    return "\n".join(f"- {way.title} ({'fused' if way.fused else 'unfused'}): {way.note}" for way in WAYS.values())


def versions(numbers: dict[str, dict[str, dict[str, Any]]]) -> dict[str, str]:
    """Return the peers' versions, as their processes told them."""
    found = dict.fromkeys(PEERS, "missing")
    for case in numbers.values():
        found |= {WAYS[key].peer: told["version"] for key, told in case.items() if told.get("version")}
    return found


def page(
    numbers: dict[str, dict[str, dict[str, Any]]], opened: dict[str, list[float]], described: dict[str, str]
) -> str:
    """Return the page."""
    paragraphs = [
        "# All maps of a model, by every method",
        (__doc__ or "").split("\n", 1)[1].strip(),
        *(section(CASES[name], found) for name, found in numbers.items()),
        scopes(opened),
        "## Goals",
        goals(numbers),
        reading_goals(numbers),
        "## What each method computes",
        notes(),
        "## How it was made",
        SPREAD,
        facts(described),
    ]
    return "\n\n".join(paragraphs)


def main() -> None:
    """Measure all cases, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", metavar="PYTHON", default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--case", choices=CASES, help="measure one, and print its tables instead of writing the page")
    parser.add_argument("--scopes", action="store_true", help="only open and close scopes, and print their table")
    options, _ = parser.parse_known_args()
    if options.scopes:
        print(scopes(measure_scopes()))
        return
    numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.case] if options.case else CASES:
            print(f"{CASES[name].title} …", flush=True)
            numbers[name] = measure(name, options.peers, Path(folder))
    if options.case:
        print(section(CASES[options.case], numbers[options.case]), goals(numbers), reading_goals(numbers), sep="\n\n")
        return
    described = made("maps", ["torch", "timm", "transformers"]) | versions(numbers)
    opened = measure_scopes()
    write("maps", page(numbers, opened, described), {"made": described, "numbers": numbers, "scopes": opened})


if __name__ == "__main__":
    main()
