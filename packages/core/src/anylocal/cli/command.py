"""Common to the commands of all adapters: pictures to files, errors to one line."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt
from tqdm import tqdm

from anylocal.errors import AnylocalError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from matplotlib.figure import Figure

    from anylocal._maps.maps import AttentionMaps

DOTS = 150
"""Dots per inch: sharp on a screen, at a few hundred kilobytes."""


def run(command: Callable[[], Iterable[Path]]) -> int:
    """Run a command that writes files, print their names, and return the exit status."""
    mpl.use("Agg")
    try:
        files = list(command())
    except AnylocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for file in files:
        print(file)
    return 0


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before a model is loaded or trained.

    Raises
    ------
    OptionError
        If it or a parent is a file, or its permissions forbid writing.
    """
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if existing.is_file():
        raise OptionError(
            f"--out {folder} cannot be a folder, as {existing} is a file. Choose another one by --out FOLDER."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OptionError(f"--out {folder}: {existing} may not be written to. Choose another folder by --out FOLDER.")


def write(pictures: Iterable[tuple[str, Callable[[], Figure]]], folder: Path) -> list[Path]:
    """Draw each picture and write it as PNG, with a progress bar."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in tqdm(list(pictures), desc="drawing", unit="picture"):
        files.append(folder / f"{name}.png")
        figure = draw()
        figure.savefig(files[-1], dpi=DOTS)
        # pyplot keeps every figure until it is closed; a model of many layers would fill the memory.
        plt.close(figure)
    return files


def summary(maps: AttentionMaps) -> str:
    """Return the number of layers and the shapes of their maps, in two sentences."""
    fused = sum(attention.fused for attention in maps)
    heads = " or ".join(map(str, sorted({attention.shape[1] for attention in maps})))
    shapes = ", ".join(sorted({" × ".join(map(str, attention.shape)) for attention in maps}))
    return (
        f"Captured {len(maps)} layers of {heads} heads, {fused} of them fused (the model never made their maps; they"
        f" are computed from what the kernel was given).\nShapes (batch × heads × queries × keys): {shapes}."
    )
