"""``python -m anylocal_vit``: every attention map of a vision transformer as pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anylocal._command import run
from anylocal_vit import _demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)

    def command() -> list[Path]:
        if options.model is None:
            scene = _demo.digits_scene()
        else:
            scene = _demo.photo_scene(
                options.model, options.image, checkpoint=options.checkpoint, random_weights=options.random_weights
            )
        return _demo.run(scene, options.out, options.query)

    return run(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anylocal_vit",
        description="Capture every attention map of a vision transformer as it runs, and draw them: all heads of each"
        " layer, what one patch attends to, and the rollout. Without --model, a small ViT is trained on digits first"
        " (under a minute).",
    )
    parser.add_argument("--model", metavar="NAME", help="a timm model, such as vit_small_patch16_224")
    parser.add_argument("--image", metavar="FILE", help="a photograph (default: a flower)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("demo"), help="default: demo")
    parser.add_argument(
        "--query", metavar="ROW,COLUMN", type=_cell, help="the patch to ask (default: where the object is)"
    )
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
