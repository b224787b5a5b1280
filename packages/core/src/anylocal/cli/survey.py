"""The adapters' `survey` commands: statistics of all maps over a data set, in shards that survive a kill.

The samples are cut into shards. The sums of every metric over a shard are one file, written completely or not at all,
and a process that is started again skips the shards that exist: no sample counts twice, none is lost. Several processes
(under torchrun, or started by hand on machines that share a disk) divide the shards and need not communicate; the one
that finds all shards complete adds them up, in their order, so the result does not depend on the number of processes.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from anylocal.errors import DependencyError, OptionError, StateError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from anylocal._maps.maps import AttentionMaps

try:
    import numpy as np
    import pyarrow as pa
    import torch
    from pyarrow import parquet
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file
    from torch.utils.data import DataLoader, Dataset
    from tqdm import tqdm

    from anylocal import metrics
    from anylocal._drawing.layers import draw_layers
    from anylocal._engine.files import atomic_write
    from anylocal.cli.command import check_folder
except ModuleNotFoundError as error:
    msg = f"A survey needs {error.name}, which is not installed: install the adapter's extra [survey]."
    raise DependencyError(msg, name=error.name) from error

Statistic = metrics._Statistic  # noqa: SLF001  # the base class of the metrics of heads, which is not public

METRICS: Final[Mapping[str, tuple[type[Statistic], str]]] = {
    "entropy": (metrics.AttentionEntropy, "entropy (nats)"),
    "distance": (metrics.AttentionDistance, "mean distance (pixels)"),
    "prefix": (metrics.PrefixMass, "attention to prefix tokens"),
    "sink": (metrics.SinkMass, "attention to the first key"),
    "agreement": (metrics.HeadAgreement, "agreement with other heads"),
}
"""By the name in the results: the metric, and the y label of its picture."""

Sums = dict[str, Statistic]


@dataclass(frozen=True, eq=False)
class Job:
    """The subject of a survey.

    Attributes
    ----------
    samples : torch.utils.data.Dataset
        Returns items for `collate`, or None for a sample that cannot be read.
    names : callable
        From the index of a sample to its name for the user.
    identity : mapping
        Identifies the survey: the model, the data. JSON.
    collate : callable
        From several samples to a batch.
    run : callable
        From a batch to the maps of its forward pass.
    metrics : sequence of str
        Names out of `METRICS`.
    """

    samples: Dataset[Any]
    names: Callable[[int], str]
    identity: Mapping[str, Any]
    collate: Callable[[list[Any]], Any]
    run: Callable[[Any], AttentionMaps]
    metrics: Sequence[str]

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]  # a Dataset need not have a length, and these have


def add_options(parser: ArgumentParser) -> None:
    """Add the options of every survey."""
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("survey"), help="default: survey")
    parser.add_argument("--batch", metavar="N", type=int, default=16, help="samples in a forward pass; default: 16")
    parser.add_argument("--piece", metavar="N", type=int, default=256, help="samples between two saves; default: 256")
    parser.add_argument("--workers", metavar="N", type=int, default=0, help="processes that read; default: none")
    parser.add_argument("--device", help='default: "cuda" if available')


def check(options: Namespace) -> None:
    """Refuse invalid values of the options, before a model is loaded.

    Raises
    ------
    OptionError
        If a number is too small, or the folder cannot be made.
    """
    for name in ("batch", "piece"):
        if getattr(options, name) < 1:
            raise OptionError(f"--{name} is a number of samples, 1 or more; got {getattr(options, name)}.")
    if options.workers < 0:
        raise OptionError(f"--workers is a number of processes, 0 or more; got {options.workers}.")
    check_folder(options.out)


def device_of(options: Namespace) -> torch.device:
    """Return the device of the model: each of several processes on one machine has its own accelerator.

    Raises
    ------
    OptionError
        If the requested device does not exist.
    """
    if options.device:
        try:
            # The name may be valid and the device missing, which fails only on use.
            return torch.empty(0, device=options.device).device
        except (RuntimeError, AssertionError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise OptionError(
                f"--device {options.device} cannot be used: {reason}."
                ' "cpu" always exists; without --device, it is the first CUDA device, or else the CPU.'
            ) from error
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu")


def survey(job: Job, options: Namespace) -> list[Path]:
    """Do this process's part of a survey, and write the results if it is the last.

    Returns
    -------
    list of Path
        The files; none while other processes have shards to do.

    Raises
    ------
    OptionError
        If no sample could be read.
    StateError
        If the folder holds another survey.
    """
    _begin(job, options)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    shards = range(math.ceil(len(job) / options.piece))
    own = [number for number in shards if number % world == rank]
    missing = [number for number in own if not _readable(_file(options.out, number))]
    _work(job, options, own, missing, f"rank {rank}" if world > 1 else "survey")
    if not all(_file(options.out, number).exists() for number in shards):
        return []
    return _finish(job, options.out, shards)


def _begin(job: Job, options: Namespace) -> None:
    """Write down the subject of the survey, or compare it with that of the survey that was begun."""
    asked = {**job.identity, "samples": len(job), "batch": options.batch, "piece": options.piece}
    file = options.out / "survey.json"
    if not file.exists():
        with atomic_write(file) as path:
            path.write_text(json.dumps(asked, indent=2), "utf-8")
    begun = json.loads(file.read_text("utf-8"))
    differing = [
        f"{name} {begun.get(name)!r}, not {value!r}" for name, value in asked.items() if begun.get(name) != value
    ]
    if differing:
        raise StateError(
            f"{options.out} holds another survey, of {'; '.join(differing)}. Choose another folder by --out."
        )


def _file(out: Path, number: int) -> Path:
    return out / "pieces" / f"{number:06}.safetensors"


def _readable(file: Path) -> bool:
    """Return whether a shard exists and is complete; a disk may damage it afterwards."""
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.metadata() is not None
    except (SafetensorError, OSError):
        return False


def _work(job: Job, options: Namespace, own: Sequence[int], missing: Sequence[int], title: str) -> None:
    batches = {number: _batches(len(job), number, options) for number in missing}
    loader = DataLoader(
        _Numbered(job.samples),
        batch_sampler=[batch for some in batches.values() for batch in some],
        num_workers=options.workers,
        collate_fn=_Collated(job.collate),
    )
    read = iter(loader)
    total = sum(len(batch) for number in own for batch in _batches(len(job), number, options))
    todo = sum(len(batch) for some in batches.values() for batch in some)
    with tqdm(total=total, initial=total - todo, desc=title, unit="sample") as bar:
        for number, some in batches.items():
            sums: Sums = {name: METRICS[name][0]() for name in job.metrics}
            skipped: list[int] = []
            for _ in some:
                batch, left_out, count = next(read)
                skipped += left_out
                if batch is not None:
                    maps = job.run(batch)
                    for metric in sums.values():
                        metric.update(maps)
                bar.update(count)
            _save(_file(options.out, number), sums, skipped)


def _batches(samples: int, number: int, options: Namespace) -> list[list[int]]:
    """Return the samples of each forward pass of a shard, the same in every process."""
    span = range(number * options.piece, min(samples, (number + 1) * options.piece))
    return [list(span[at : at + options.batch]) for at in range(0, len(span), options.batch)]


class _Numbered(Dataset[tuple[int, Any]]):
    """Samples with their indices, the samples that could not be read being None."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> tuple[int, Any]:
        return number, self.samples[number]


class _Collated:
    """Collates a batch, the indices of the samples that could not be read, and the count; a class can be pickled."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, numbered: list[tuple[int, Any]]) -> tuple[Any, list[int], int]:
        samples = [sample for _, sample in numbered if sample is not None]
        skipped = [number for number, sample in numbered if sample is None]
        return (self.collate(samples) if samples else None), skipped, len(numbered)


def _save(file: Path, sums: Sums, skipped: Sequence[int]) -> None:
    kept = {name: metric for name, metric in sums.items() if metric.layers}
    tensors = {
        f"{name}.{part}": getattr(metric, part).cpu() for name, metric in kept.items() for part in ("sums", "counts")
    }
    layers = {name: [(layer.name, layer.shape) for layer in metric.layers] for name, metric in kept.items()}
    with atomic_write(file) as path:
        # safetensors does not read a file without any tensor.
        save_file(
            {**tensors, "skipped": torch.tensor([len(skipped), *skipped])},
            path,
            metadata={"layers": json.dumps(layers)},
        )


def _load(file: Path, into: Sums) -> list[int]:
    """Add the sums of a shard, and return the indices of the samples that could not be read."""
    with safe_open(file, framework="pt") as opened:
        for name, layers in json.loads(opened.metadata()["layers"]).items():
            into[name].add(layers, *(opened.get_tensor(f"{name}.{part}") for part in ("sums", "counts")))
        skipped: list[int] = opened.get_tensor("skipped").tolist()[1:]
    return skipped


def _finish(job: Job, out: Path, shards: Sequence[int]) -> list[Path]:
    sums: Sums = {name: METRICS[name][0]() for name in job.metrics}
    skipped = [number for shard in shards for number in _load(_file(out, shard), sums)]
    kept = {name: metric for name, metric in sums.items() if metric.layers}
    if not kept:
        raise OptionError(f"None of the {len(job)} samples could be read, {job.names(0)!r} for one.")
    files = [_write_table(kept, len(job) - len(skipped), job.identity, out / "survey.parquet")]
    files += list(_draw(kept, len(job) - len(skipped), out))
    if skipped:
        with atomic_write(out / "skipped.txt") as path:
            # Names of files need not be UTF-8; they are written as they are.
            path.write_text("".join(f"{job.names(number)}\n" for number in skipped), "utf-8", "surrogateescape")
        print(f"{len(skipped)} of {len(job)} samples could not be read; they are named in skipped.txt.")
        files.append(out / "skipped.txt")
    return files


def _rows(sums: Sums) -> Iterator[tuple[str, int, str, int, int | None, float]]:
    for name, metric in sums.items():
        for number, (layer, mean) in enumerate(zip(metric.layers, metric.means(), strict=True)):
            for (head, *rest), value in np.ndenumerate(mean.numpy()):
                if not math.isnan(value):
                    yield name, number, layer.name, head, rest[0] if rest else None, float(value)


def _write_table(sums: Sums, samples: int, identity: Mapping[str, Any], file: Path) -> Path:
    schema = pa.schema(
        [
            ("metric", pa.string()),
            ("layer", pa.int32()),
            ("name", pa.string()),
            ("head", pa.int32()),
            # The prefix token, or the other head.
            ("other", pa.int32()),
            ("value", pa.float64()),
        ],
        metadata={"samples": str(samples), "survey": json.dumps(dict(identity))},
    )
    columns = zip(*_rows(sums), strict=True)
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
    with atomic_write(file) as path:
        parquet.write_table(table, path)
    return file


def _draw(sums: Sums, samples: int, out: Path) -> Iterator[Path]:
    import matplotlib.pyplot as plt

    for name, metric in sums.items():
        means = [_by_head(name, mean.numpy()) for mean in metric.means()]
        if all(mean is None for mean in means):
            continue
        figure, ax = plt.subplots(layout="constrained")
        draw_layers(ax, {"mean of heads": means}, ylabel=METRICS[name][1], title=f"mean of {samples} samples")
        with atomic_write(out / f"{name}.png") as path:
            figure.savefig(path, dpi=150, format="png")
        plt.close(figure)
        yield out / f"{name}.png"


def _by_head(name: str, mean: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Return a number for each head: the mean over the other heads, and the sum over all prefix tokens."""
    if name == "agreement":
        heads = len(mean)
        mean = (mean.sum(1) - mean.diagonal()) / (heads - 1) if heads > 1 else mean[:, 0] * np.nan
    if name == "prefix":
        mean = mean.sum(1) if mean.shape[1] else np.full(len(mean), np.nan)
    return None if np.isnan(mean).all() else mean
