"""``python -m anylocal_bert``: every attention map of a text as pictures, or statistics over many texts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anylocal.cli.command import check_folder, run
from anylocal_bert import _demo

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["survey"]:
        return run(lambda: _surveyed(given[1:]))
    options = _parser().parse_args(arguments)

    def command() -> list[Path]:
        check_folder(options.out)
        return _demo.run(_demo.load(options.model), options.text, options.out, options.word)

    return run(command)


def _surveyed(arguments: Sequence[str]) -> list[Path]:
    # Here only: the pictures need none of what it needs.
    from anylocal_bert import _survey

    return _survey.main(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anylocal_bert",
        description="Capture every attention map of a text as the model runs, and draw them: all heads of each layer,"
        " and of all of them; the last layer with its tokens, and as lines; what one word attends to, and what reaches"
        " it through all layers. Without --model, a real BERT of 6 layers reads.",
    )
    parser.add_argument("--text", default=_demo.TEXT, help="default: %(default)s")
    parser.add_argument("--model", metavar="NAME", help="a folder, or a name on the Hugging Face hub")
    parser.add_argument("--word", help='the token to ask (default: "it")')
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("demo"), help="default: demo")
    return parser


if __name__ == "__main__":
    sys.exit(main())
