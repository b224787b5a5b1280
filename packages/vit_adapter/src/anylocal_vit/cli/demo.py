"""From a model and an image to all attention maps, in pictures and in a file."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from anylocal import store
from anylocal.attention import AttentionMap, AttentionMaps, Patches, PlacedPatches
from anylocal.cli.command import summary, write
from anylocal.drawing import photograph
from anylocal.errors import OptionError, ShapeError
from anylocal.plot import entropy, heads
from anylocal.view import explore
from anylocal_vit import plot
from anylocal_vit._adapter import adapter
from anylocal_vit.cli import digits
from anylocal_vit.cli.models import load_model

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

Cell = tuple[int, int]

LARGEST = 4
"""The most gigabytes of maps that the command writes into one file."""

LARGEST_PAGE = "256MiB"
"""A page of this size opens in some seconds."""


@dataclass(frozen=True, eq=False)
class Example:
    """A model and the image that it is shown."""

    model: torch.nn.Module
    tensor: torch.Tensor
    pixels: npt.NDArray[np.uint8]
    title: str
    query: Cell | None = None


def digit() -> Example:
    """Train the small ViT and show it a digit."""
    model, accuracy = digits.train()
    print(f"It classifies {accuracy:.0%} of the held-out digits correctly.")
    image = digits.sample()
    title = f"A digit, read by a small ViT of {accuracy:.0%} accuracy"
    return Example(model, image, digits.pixels(image), title, digits.brightest_patch(image))


def photo(options: Namespace) -> Example:
    """Load a timm model and show it a photograph."""
    model = load_model(options)
    try:
        shown = photograph(model, _flower() if options.image is None else options.image)
    except OSError as error:
        raise OptionError(
            f"--image {options.image} could not be read: {error.strerror or error}. Give the path of a complete image"
            " file, or leave --image out for a flower."
        ) from error
    title = f"{options.model}, random weights" if options.random_weights else options.model
    return Example(model, shown.tensor, shown.pixels, title)


def _flower() -> npt.NDArray[np.uint8]:
    from sklearn.datasets import load_sample_image

    image: npt.NDArray[np.uint8] = load_sample_image("flower.jpg")
    return image


def run(example: Example, out: Path, query: Cell | None = None, layers: str | None = None) -> list[Path]:
    """Capture every map of an example, write the maps and their pictures, and return the files."""
    with adapter.capture_attention(example.model, modules=layers) as maps, torch.no_grad():
        example.model(example.tensor)
    print(f"{summary(maps)} Queries of the first layer: {maps[0].queries}.")
    for what, count in Counter(maps.unsupported.values()).items():
        print(f"{count} other layers have no map: {what}.")
    gigabytes = sum(math.prod(attention.shape) * attention.dtype.itemsize for attention in maps) / 1e9
    if gigabytes > LARGEST:
        raise OptionError(
            f"The maps are {gigabytes:.1f} GB, more than the {LARGEST} GB that are written; choose some with --layers"
            f" PATTERN, as in --layers {maps[-1].name!r}."
        )
    files = write(_pictures(example, maps, query or example.query), out)
    return [*files, store.save(maps, out / "maps.safetensors"), *_page(example, maps, out)]


def _page(example: Example, maps: AttentionMaps, out: Path) -> list[Path]:
    try:
        page = explore(maps, images=example.pixels, samples=0, title=example.title, limit=LARGEST_PAGE)
    except OptionError as error:
        # The pictures do not depend on the page.
        print(f"No interactive page: {error}")
        return []
    return [page.save(out / "attention.html")]


def _pictures(example: Example, maps: AttentionMaps, query: Cell | None) -> Iterator[tuple[str, Any]]:
    over = [attention for attention in maps if isinstance(attention.keys, (Patches, PlacedPatches))]
    if not over:
        raise ShapeError(f"The positions of {maps[-1].name!r} are not patches, so it cannot be drawn over the image.")
    last = over[-1]
    chosen = _query(last, query)  # refuses a query outside the grid before anything is drawn
    for number, attention in enumerate(maps):
        if attention.windows > 1 and isinstance(attention.keys, PlacedPatches):
            yield f"layer-{number:02}-windows", partial(_figure, plot.windows, attention, example.pixels, sample=0)
        else:
            yield f"layer-{number:02}-heads", partial(heads, attention, sample=0)
    yield "query", partial(_figure, plot.query, last, example.pixels, query=chosen, sample=0)
    if all(isinstance(m.keys, Patches) and m.queries == m.keys == maps[0].keys for m in maps):
        yield "rollout", partial(_figure, plot.rollout, maps, example.pixels, sample=0)
    yield "entropy", partial(_figure, entropy, maps)
    if any(hasattr(attention.queries, "grid") for attention in over):
        yield "distance", partial(_figure, plot.distance, maps)
    if any(getattr(attention.keys, "prefix", ()) for attention in over):
        yield "prefix", partial(_figure, plot.prefix, maps)


def _query(attention: AttentionMap, query: Cell | None) -> object:
    """Return the query to draw: by default the patch in the middle, or the first query where they are not patches."""
    queries = attention.queries
    if isinstance(queries, (Patches, PlacedPatches)):
        rows, columns = queries.grid
        chosen = query or (rows // 2, columns // 2)
        if isinstance(queries, Patches):
            queries.position(chosen)
        else:
            queries.find(*chosen)
        return chosen
    return queries.position(query) if query is not None else 0


def _figure(recipe: Any, *arguments: Any, **options: Any) -> Figure:
    figure = recipe(*arguments, **options).get_figure()
    assert isinstance(figure, Figure)
    return figure
