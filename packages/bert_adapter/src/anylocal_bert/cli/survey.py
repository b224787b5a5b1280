"""``python -m anylocal_bert survey``: statistics of every head over a collection of texts."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from anylocal.cli import survey
from anylocal.errors import DependencyError, OptionError
from anylocal_bert._adapter import adapter
from anylocal_bert._text import longest
from anylocal_bert.cli import demo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anylocal.attention import AttentionMaps

_METRICS = ("entropy", "sink", "agreement")


class Texts(Dataset[Any]):
    """Texts by index, or one column of a data set."""

    def __init__(self, source: Sequence[Any], column: str | None) -> None:
        self.source = source
        self.column = column

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> str | None:
        item = self.source[number]
        text = item if self.column is None else item[self.column]
        # Rows without a text are counted, and reported at the end.
        return text if isinstance(text, str) and text.strip() else None


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Run the command and return the files that it wrote."""
    options = _parser().parse_args(arguments)
    survey.check(options)
    device = survey.device_of(options)
    reader = demo.load(options.model)
    _check_length(reader, options.max_length)
    reader.model.to(device)
    source, column, digest = _source(options.data, options.column)

    def run(texts: list[str]) -> AttentionMaps:
        given = reader.tokenizer(
            texts, return_tensors="pt", padding=True, truncation=True, max_length=options.max_length
        ).to(device)
        with (
            adapter.capture_attention(reader.model, about=reader.tokenizer, modules=options.layers) as maps,
            torch.inference_mode(),
        ):
            reader.model(**given)
        return maps

    identity = {
        "model": options.model or "all-MiniLM-L6-v2",
        "layers": options.layers,
        "max_length": options.max_length,
        "data": digest,
    }
    job = survey.Job(Texts(source, column), lambda number: f"text {number}", identity, list, run, _METRICS)
    return survey.survey(job, options)


def _check_length(reader: demo.Reader, length: int) -> None:
    # Tokenizers do not truncate at all to fewer tokens than the special ones.
    least = reader.tokenizer.num_special_tokens_to_add() + 1
    if length < least:
        raise OptionError(
            f"--max-length is a number of tokens, {least} or more, as this tokenizer adds {least - 1} special ones;"
            f" got {length}."
        )
    most = longest(reader.model)
    if most is not None and length > most:
        raise OptionError(
            f"{type(reader.model).__name__} reads {most} tokens at most, and --max-length is {length}. Give"
            f" --max-length {most} or less."
        )


def _source(place: Path, column: str | None) -> tuple[Sequence[Any], str | None, str]:
    """Return the texts, the column that holds them, and a fingerprint of them."""
    if (place / "dataset_info.json").exists():
        rows, named = _rows(place, column)
        return rows, named, rows._fingerprint  # noqa: SLF001  # `datasets` itself tells them apart by it
    files = [place] if place.is_file() else sorted(place.rglob("*.txt"))
    if not files:
        raise OptionError(f"No text in {place}: give a file, a folder of .txt files, or a saved data set.")
    texts = [line for file in files for line in _text(file).splitlines() if line.strip()]
    return texts, None, hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(
            f"{file} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}. Save it as UTF-8, or"
            " convert it, from Latin-1 for example: iconv -f latin1 -t utf-8."
        ) from error


def _rows(folder: Path, column: str | None) -> tuple[Any, str]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        message = f"{folder} is a Hugging Face data set: pip install datasets."
        raise DependencyError(message, name=error.name) from error
    rows: Any = datasets.load_from_disk(str(folder))
    chosen = column or "text"
    if chosen not in rows.features:
        raise OptionError(f"Choose the column of texts by --column; the columns are {', '.join(rows.features)}.")
    return rows, chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anylocal_bert survey",
        description="Mean entropy, share of the first token and agreement of heads, for every head over all texts, as a"
        " Parquet table and pictures. An interrupted survey resumes; under torchrun, processes share the work.",
    )
    parser.add_argument("--model", metavar="NAME", help="a folder, or a name on the hub; default: a BERT of 6 layers")
    parser.add_argument(
        "--data", metavar="PATH", type=Path, required=True, help="a file or folder of texts, one a line, or a data set"
    )
    parser.add_argument("--column", metavar="NAME", help='the column of texts in a saved data set; default: "text"')
    parser.add_argument("--max-length", metavar="N", type=int, default=128, help="most tokens of a text; default: 128")
    parser.add_argument("--layers", metavar="PATTERN", help="only layers whose names match")
    survey.add_options(parser)
    return parser
