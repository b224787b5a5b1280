"""``python -m anylocal_vit``: every attention map of a vision transformer as pictures, or over a data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anylocal.cli.command import check_folder, run
from anylocal.errors import OptionError
from anylocal_vit import _demo

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["survey"]:
        return run(lambda: _surveyed(given[1:]))
    options = _parser().parse_args(arguments)

    def command() -> list[Path]:
        if options.list:
            if options.model is None:
                raise OptionError("--list shows what a model has; name one with --model NAME.")
            print(_demo.listing(options.model))
            return []
        check_folder(options.out)
        if options.model is None:
            context = _demo.digits_scene()
        else:
            context = _demo.photo_scene(
                options.model, options.image, checkpoint=options.checkpoint, random_weights=options.random_weights
            )
        return _demo.run(context, options.out, options.query, options.layers)

    return run(command)


def _surveyed(arguments: Sequence[str]) -> list[Path]:
    # Here only: the pictures need none of what it needs.
    from anylocal_vit import _survey

    return _survey.main(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anylocal_vit",
        description="Capture every attention map of a timm model as it runs, draw them, and keep them in"
        " maps.safetensors: all heads of each layer (of windowed layers the windows), what one patch attends to, the"
        " rollout, entropy, distance, and what prefix tokens get. Without --model, a small ViT is trained on digits"
        " first (under a minute).",
    )
    parser.add_argument("--model", metavar="NAME", help="a timm model, such as vit_small_patch16_224")
    parser.add_argument("--image", metavar="FILE", help="a photograph (default: a flower)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("demo"), help="default: demo")
    parser.add_argument(
        "--query", metavar="ROW,COLUMN", type=_cell, help="the patch to ask (default: where the object is)"
    )
    parser.add_argument("--layers", metavar="PATTERN", help="only layers of these names, as in 'blocks.1?.attn'")
    parser.add_argument("--list", action="store_true", help="show which layers of the model have a map, and stop")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="FILE", help="weights from a file instead of the Hugging Face hub")
    weights.add_argument("--random-weights", action="store_true", help="an untrained model, which needs no network")
    return parser


def _cell(text: str) -> tuple[int, int]:
    row, comma, column = text.partition(",")
    if not (comma and row.strip().isdigit() and column.strip().isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no patch; write row,column as in 6,7")
    return int(row), int(column)


if __name__ == "__main__":
    sys.exit(main())
