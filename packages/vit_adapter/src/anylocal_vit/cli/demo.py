"""From a model and an image to all attention maps, in pictures and in a file."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from anylocal import store
from anylocal.attention import AttentionMap, AttentionMaps, Patches, PlacedPatches
from anylocal.cli.command import summary, write
from anylocal.drawing import Photograph, photograph
from anylocal.errors import DependencyError, OptionError, ShapeError
from anylocal.view import explore
from anylocal_vit import dinov2, plot
from anylocal_vit._adapter import adapter
from anylocal_vit.cli import digits
from anylocal_vit.cli.models import load_model

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

Cell = tuple[int, int]

LARGEST = 4
"""The most gigabytes of maps that the command writes into one file."""

LARGEST_PAGE = "256MiB"
"""A page of this size opens in some seconds."""

SIZES = (518, 224)
"""The heights and widths, in pixels, at which the real ViT is shown a photograph: its own, and a common one."""

PHOTOGRAPHS: dict[str, Cell] = {"astronaut": (4, 7), "chelsea": (6, 4)}
"""Photographs of scikit-image, and the patch whose attention is drawn, at 224 pixels: on the face, on an eye."""


MANY = 50_000_000
"""All heads of all layers of more weights than these are drawn for minutes."""

MASS = 0.6
"""The share of the attention whose patches are drawn, as in the pictures of DINO."""

MOST_PANELS = 192
"""More heads than these, of all layers, are too small in one picture."""


@dataclass(frozen=True, eq=False)
class Example:
    """A model and the image that it is shown.

    A brief one is one of several: its maps are not written, no picture is drawn for each layer, and of very large maps
    not every head.
    """

    model: torch.nn.Module
    tensor: torch.Tensor
    pixels: npt.NDArray[np.uint8]
    title: str
    query: Cell | None = None
    prefix: str = ""
    brief: bool = False


def examples(options: Namespace) -> Iterator[Example]:
    """Yield what the options ask for: without a model, the real ViT and its photographs, one after the other."""
    if options.model is not None:
        yield photo(options)
        return
    try:
        model = dinov2.load_timm()
    except DependencyError as error:
        if options.image is not None:
            raise
        print(f"No real ViT: {error}\nInstead, a small one is trained on digits.")
        yield digit(options.query)
        return
    chosen: Mapping[str, Cell | None] = PHOTOGRAPHS if options.image is None else {Path(options.image).stem: None}
    for name, place in chosen.items():
        for size in SIZES:
            shown = _shown(model, options.image or _photograph(name), size)
            cell = options.query or place
            query = cell and (_at(cell[0], size), _at(cell[1], size))
            title = f"DINOv2 ViT-S/14 looks at {name}, {size} × {size} pixels"
            yield Example(model, shown.tensor, shown.pixels, title, query, f"{name}-{size}-", brief=True)


def _at(index: int, size: int) -> int:
    """Return the row or column, of an image of that size, that is where that one is at the smallest size."""
    return (2 * index + 1) * size // (2 * min(SIZES))


def digit(query: Cell | None = None) -> Example:
    """Train the small ViT and show it a digit."""
    model, accuracy = digits.train()
    print(f"It classifies {accuracy:.0%} of the held-out digits correctly.")
    image = digits.sample()
    title = f"A digit, read by a small ViT of {accuracy:.0%} accuracy"
    return Example(model, image, digits.pixels(image), title, query or digits.brightest_patch(image))


def photo(options: Namespace) -> Example:
    """Load a timm model and show it a photograph."""
    model = load_model(options)
    shown = _shown(model, options.image or _photograph(next(iter(PHOTOGRAPHS))))
    title = f"{options.model}, random weights" if options.random_weights else options.model
    return Example(model, shown.tensor, shown.pixels, title, options.query)


def _shown(model: torch.nn.Module, source: str | npt.NDArray[np.uint8], size: int | None = None) -> Photograph:
    try:
        return photograph(model, source, size=size)
    except OSError as error:
        raise OptionError(
            f"--image {source} could not be read: {error.strerror or error}. Give the path of a complete image"
            " file, or leave --image out for the demo's own."
        ) from error


def _photograph(name: str) -> npt.NDArray[np.uint8]:
    try:
        import skimage.data
    except ModuleNotFoundError as error:
        message = 'The demo draws photographs of scikit-image: pip install "anylocal-vit[demo]", or give --image FILE.'
        raise DependencyError(message, name=error.name) from error
    image: npt.NDArray[np.uint8] = getattr(skimage.data, name)()
    return image


def run(example: Example, out: Path, layers: str | None = None) -> list[Path]:
    """Capture every map of an example, write the maps and their pictures, and return the files."""
    with adapter.capture_attention(example.model, modules=layers) as maps, torch.no_grad():
        example.model(example.tensor)
    print(f"{example.title}: {summary(maps)} Queries of the first layer: {maps[0].queries}.")
    for what, count in Counter(maps.unsupported.values()).items():
        print(f"{count} other layers have no map: {what}.")
    gigabytes = sum(math.prod(attention.shape) * attention.dtype.itemsize for attention in maps) / 1e9
    if gigabytes > LARGEST:
        raise OptionError(
            f"The maps are {gigabytes:.1f} GB, more than the {LARGEST} GB that are written; choose some with --layers"
            f" PATTERN, as in --layers {maps[-1].name!r}."
        )
    files = write([(example.prefix + name, draw) for name, draw in _pictures(example, maps)], out)
    if not example.brief:
        files.append(store.save(maps, out / "maps.safetensors"))
    return [*files, *_page(example, maps, out)]


def _weights(maps: AttentionMaps) -> int:
    return sum(math.prod(attention.shape) for attention in maps)


def _page(example: Example, maps: AttentionMaps, out: Path) -> list[Path]:
    try:
        page = explore(maps, images=example.pixels, samples=0, title=example.title, limit=LARGEST_PAGE)
    except OptionError as error:
        # The pictures do not depend on the page.
        print(f"No interactive page: {error}")
        return []
    return [page.save(out / f"{example.prefix}attention.html")]


def _pictures(example: Example, maps: AttentionMaps) -> Iterator[tuple[str, Any]]:
    over = [attention for attention in maps if isinstance(attention.keys, (Patches, PlacedPatches))]
    if not over:
        raise ShapeError(f"The positions of {maps[-1].name!r} are not patches, so it cannot be drawn over the image.")
    last, pixels = over[-1], example.pixels
    chosen = _query(last, example.query)  # refuses a query outside the grid before anything is drawn
    leading = "cls" if "cls" in getattr(last.queries, "prefix", ()) else chosen
    options: dict[str, Any] = {"query": leading, "sample": 0}
    alike = all(isinstance(each.keys, Patches) and each.queries == each.keys == maps[0].keys for each in maps)
    every = not example.brief or _weights(maps) <= MANY
    yield "over_heads", partial(plot.over_heads, last, pixels, **options)
    yield "over_heads-threshold", partial(plot.over_heads, last, pixels, threshold=MASS, **options)
    if alike:
        yield "over_layers", partial(plot.over_layers, maps, pixels, **options)
        if every and len(maps) * maps[0].shape[1] <= MOST_PANELS:
            yield "grid", partial(plot.grid, maps, pixels, **options)
    yield "query", partial(_figure, plot.query, last, pixels, query=chosen, sample=0)
    if alike:
        yield "rollout", partial(_figure, plot.rollout, maps, pixels, sample=0)
        if every:
            yield "model", partial(plot.model, maps, sample=0)
    if not example.brief:
        yield from _of_every_layer(example, maps)


def _of_every_layer(example: Example, maps: AttentionMaps) -> Iterator[tuple[str, Any]]:
    for number, attention in enumerate(maps):
        if attention.windows > 1 and isinstance(attention.keys, PlacedPatches):
            yield f"layer-{number:02}-windows", partial(_figure, plot.windows, attention, example.pixels, sample=0)
        else:
            yield f"layer-{number:02}-heads", partial(plot.heads, attention, sample=0)
    yield "entropy", partial(_figure, plot.entropy, maps)
    placed = [each for each in maps if isinstance(each.keys, (Patches, PlacedPatches))]
    if any(hasattr(attention.queries, "grid") for attention in placed):
        yield "distance", partial(_figure, plot.distance, maps)
    if any(getattr(attention.keys, "prefix", ()) for attention in placed):
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
