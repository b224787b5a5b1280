"""``python -m anylocal_vit survey``: statistics of every head over a folder of images."""

from __future__ import annotations

import argparse
import copy
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from anylocal.cli import survey
from anylocal.drawing import photograph
from anylocal.errors import DependencyError, OptionError
from anylocal_vit._adapter import adapter
from anylocal_vit.cli.models import add_options, load_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anylocal.attention import AttentionMaps

_METRICS = ("entropy", "distance", "prefix", "agreement")


class Images(Dataset[Any]):
    """Images from files, or from a column of rows that Hugging Face's `datasets` has saved, as the model's inputs.

    The model need not have weights, since only its preprocessing is asked for.
    """

    def __init__(self, source: Sequence[Any], model: torch.nn.Module, column: str | None) -> None:
        self.source = source
        self.model = model
        self.column = column

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> torch.Tensor | None:
        try:
            item = self.source[index]
            return photograph(self.model, item if self.column is None else item[self.column]).tensor[0]
        except Exception:  # noqa: BLE001  # decoders raise anything for damaged files
            # One damaged file of a million is no reason to stop; it is counted, and named at the end.
            return None


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Run the command, and return the files that it wrote."""
    options = _parser().parse_args(arguments)
    survey.check(options)
    device = survey.device_of(options)
    # Random weights must be the same in every process.
    torch.manual_seed(0)
    model = load_model(options)
    # Without weights, which processes that read images would be sent wherever they are not forked.
    skeleton = copy.deepcopy(model).to("meta")
    model = model.to(device)
    source, column, digest = _source(options.data, options.column)
    samples = Images(source, skeleton, column)

    def run(batch: torch.Tensor) -> AttentionMaps:
        with adapter.capture_attention(model, modules=options.layers) as maps, torch.inference_mode():
            model(batch.to(device))
        return maps

    weights = "random" if options.random_weights else options.checkpoint or "pretrained"
    identity = {"model": options.model, "weights": weights, "layers": options.layers, "data": digest}
    job = survey.Job(samples, lambda index: _name(source, index, column), identity, torch.stack, run, _METRICS)
    return survey.survey(job, options)


def _source(folder: Path, column: str | None) -> tuple[Sequence[Any], str | None, str]:
    """Return the images of a folder, the column that holds them, and a digest that identifies them."""
    if not folder.is_dir():
        raise OptionError(f"--data {folder} is not a folder; give one of images, or a data set saved to disk.")
    if (folder / "dataset_info.json").exists():
        rows, named = _rows(folder, column)
        return rows, named, rows._fingerprint  # noqa: SLF001  # by which `datasets` itself tells them apart
    endings = set(Image.registered_extensions())
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not files:
        raise OptionError(f"{folder} holds no image: no file ends as images do, in .jpg or .png.")
    digest = hashlib.sha256()
    for file in files:
        # Not encode(): names of files need not be UTF-8.
        digest.update(os.fsencode(f"{file.relative_to(folder)}\0{file.stat().st_size}\n"))
    return files, None, digest.hexdigest()


def _rows(folder: Path, column: str | None) -> tuple[Any, str]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        message = f"{folder} is a data set of Hugging Face: pip install datasets."
        raise DependencyError(message, name=error.name) from error
    rows: Any = datasets.load_from_disk(str(folder))
    images = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    chosen = column or (images[0] if len(images) == 1 else "")
    if chosen not in rows.features:
        raise OptionError(f"Choose the column of images with --column; the columns are {', '.join(rows.features)}.")
    return rows, chosen


def _name(source: Sequence[Any], index: int, column: str | None) -> str:
    return str(source[index]) if column is None else f"row {index}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anylocal_vit survey",
        description="Entropy, mean attention distance, attention to prefix tokens, and agreement with other heads, of"
        " every head over all images of a folder, as a Parquet table and pictures. An interrupted survey resumes where"
        " it stopped; under torchrun, processes share the work.",
    )
    add_options(parser, required=True)
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, required=True, help="images, also in subfolders, or a saved data set"
    )
    parser.add_argument("--column", metavar="NAME", help="the column of images in a saved data set")
    survey.add_options(parser)
    return parser
