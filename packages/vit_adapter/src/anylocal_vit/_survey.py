"""``python -m anylocal_vit survey``: statistics of every head over a folder of images."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from anylocal.cli import survey
from anylocal.errors import DependencyError, OptionError
from anylocal_vit import _demo
from anylocal_vit._adapter import adapter
from anylocal_vit._photograph import photograph

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anylocal.attention import AttentionMaps

_METRICS = ("entropy", "distance", "prefix", "agreement")


class Images(Dataset[Any]):
    """The images of a folder and of the folders in it, or of a data set that Hugging Face's `datasets` has saved.

    Parameters
    ----------
    source : sequence
        Files, or rows.
    prepare : callable
        From a file or an image to what the model takes.
    column : str, optional
        Of rows, which one holds the image.
    """

    def __init__(self, source: Sequence[Any], prepare: Callable[[Any], torch.Tensor], column: str | None) -> None:
        self.source = source
        self.prepare = prepare
        self.column = column

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> torch.Tensor | None:
        try:
            item = self.source[number]
            return self.prepare(item if self.column is None else item[self.column])
        except Exception:  # noqa: BLE001  # of damaged files decoders raise anything
            # One damaged file of a million is no reason to stop; it is counted, and named at the end.
            return None


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Run the command, and return the files that it wrote.

    Raises
    ------
    OptionError, WeightsError, TargetError
        If there is no such model, it has no weights or no map, the data is not there, or an option makes no sense.
    """
    options = _parser().parse_args(arguments)
    survey.check(options)
    device = survey.device_of(options)
    _demo.check_name(options.model)
    # Of a model without weights, every process must have the same.
    torch.manual_seed(0)
    model = _demo.load_model(options.model, checkpoint=options.checkpoint, random_weights=options.random_weights)
    model.eval().to(device)
    source, column, digest = _source(options.data, options.column)
    samples = Images(source, lambda item: photograph(model, item).tensor[0], column)

    def run(batch: torch.Tensor) -> AttentionMaps:
        with adapter.capture_attention(model, modules=options.layers) as maps, torch.inference_mode():
            model(batch.to(device))
        return maps

    weights = "random" if options.random_weights else options.checkpoint or "pretrained"
    identity = {"model": options.model, "weights": weights, "layers": options.layers, "data": digest}
    job = survey.Job(samples, lambda number: _name(source, number, column), identity, torch.stack, run, _METRICS)
    return survey.survey(job, options)


def _source(folder: Path, column: str | None) -> tuple[Sequence[Any], str | None, str]:
    """Return the images of a folder, the column that holds them, and what tells them from others."""
    if not folder.is_dir():
        raise OptionError(f"--data {folder} is no folder; give one of images, or of a data set that was saved to disk.")
    if (folder / "dataset_info.json").exists():
        rows, named = _rows(folder, column)
        return rows, named, rows._fingerprint  # noqa: SLF001  # by which `datasets` itself tells them apart
    endings = set(Image.registered_extensions())
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not files:
        raise OptionError(f"There is no image in {folder}: none of its files ends as images do, in .jpg or .png.")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\n".encode())
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
        raise OptionError(f"Choose the column of images by --column; there are {', '.join(rows.features)}.")
    return rows, chosen


def _name(source: Sequence[Any], number: int, column: str | None) -> str:
    return str(source[number]) if column is None else f"row {number}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anylocal_vit survey",
        description="Mean attention distance, entropy, share of prefix tokens and agreement of heads, of every head"
        " over all images of a folder, as a Parquet table and pictures. Stopped and started again, it goes on; under"
        " torchrun, processes share the work.",
    )
    parser.add_argument("--model", metavar="NAME", required=True, help="a timm model, such as vit_small_patch16_224")
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, required=True, help="images, in folders or not, or a saved data set"
    )
    parser.add_argument("--column", metavar="NAME", help="of a saved data set, the column of images")
    parser.add_argument("--layers", metavar="PATTERN", help="only layers of these names, as in 'blocks.1?.attn'")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="FILE", help="weights from a file instead of the Hugging Face hub")
    weights.add_argument("--random-weights", action="store_true", help="an untrained model, which needs no network")
    survey.add_options(parser)
    return parser
