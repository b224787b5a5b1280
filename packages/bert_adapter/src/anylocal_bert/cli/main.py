"""``python -m anylocal_bert``: every attention map of a text as pictures, or statistics over many texts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anylocal.cli.command import check_folder, run
from anylocal_bert.cli import demo

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run(lambda: _survey(given[1:]) if given[:1] == ["survey"] else _demo(given))


def _demo(arguments: Sequence[str]) -> list[Path]:
    options = _parser().parse_args(arguments)
    check_folder(options.out)
    return demo.run(demo.load(options.model), options.text, options.out, options.word)


def _survey(arguments: Sequence[str]) -> list[Path]:
    # Imported late: the pictures need none of its libraries.
    from anylocal_bert.cli import survey

    return survey.main(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anylocal_bert",
        description="Capture every attention map of a text as the model runs, and draw them: all heads of each layer,"
        " and of all layers; the last layer with its tokens, and as lines; what one token attends to in every layer,"
        " and its attention rollout. Without --model, a real BERT of 6 layers reads the text.",
        epilog="python -m anylocal_bert survey computes statistics of every head over many texts; see its own --help.",
    )
    parser.add_argument("--text", default=demo.TEXT, help="default: %(default)s")
    parser.add_argument("--model", metavar="NAME", help="a folder, or a name on the Hugging Face hub")
    parser.add_argument("--word", help='the token to draw (default: "it")')
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("demo"), help="default: demo")
    return parser
