"""The main job from end to end: a model and an image in, every attention map as pictures out."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import timm
import torch
from matplotlib.figure import Figure

from anylocal import store
from anylocal.attention import AttentionMap, AttentionMaps, Patches, PlacedPatches
from anylocal.cli.command import summary, write
from anylocal.errors import OptionError, ShapeError, WeightsError
from anylocal.plot import entropy, heads
from anylocal.view import explore
from anylocal_vit import _digits, plot
from anylocal_vit._adapter import adapter
from anylocal_vit._photograph import photograph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

Cell = tuple[int, int]

LARGEST = 4
"""Gigabytes of maps that the command writes into one file."""

LARGEST_PAGE = "256MiB"
"""What browsers open in some seconds."""


@dataclass(frozen=True, eq=False)
class InputContext:
    """A model and what it looks at."""

    model: torch.nn.Module
    tensor: torch.Tensor
    pixels: npt.NDArray[np.uint8]
    title: str
    query: Cell | None = None


def digits_scene() -> InputContext:
    """Train the small ViT and show it a digit."""
    model, accuracy = _digits.train()
    print(f"It gets {accuracy:.0%} of the digits right that it was not trained on.")
    image = _digits.sample()
    title = f"A digit, read by a small ViT that gets {accuracy:.0%} right"
    return InputContext(model, image, _digits.pixels(image), title, _digits.brightest_patch(image))


def photo_scene(name: str, file: str | None, *, checkpoint: str | None, random_weights: bool) -> InputContext:
    """Load a timm model and a photograph.

    Raises
    ------
    OptionError
        If timm has no such model, or the file cannot be read.
    WeightsError
        If its weights cannot be loaded.
    ShapeError
        If the file is no image.
    """
    check_name(name)
    model = load_model(name, checkpoint=checkpoint, random_weights=random_weights).eval()
    try:
        photo = photograph(model, sample_photograph() if file is None else file)
    except OSError as error:
        raise OptionError(
            f"--image {file} could not be read: {error.strerror or error}. Give the path of a whole image file, or"
            " leave --image out for a flower."
        ) from error
    return InputContext(model, photo.tensor, photo.pixels, f"{name}, random weights" if random_weights else name)


def check_name(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises
    ------
    OptionError
        If timm has no such model.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.partition('.')[0][:12]}*")[:5] or timm.list_models("vit_*patch16_224")[:5]
        raise OptionError(f"timm has no model {name!r}. It has, for example: {', '.join(near)}.")


def load_model(name: str, *, checkpoint: str | None, random_weights: bool) -> torch.nn.Module:
    """Return a timm model with its weights from the hub, from a file, or without any.

    Raises
    ------
    WeightsError
        If the weights cannot be loaded.
    """
    try:
        model: torch.nn.Module = timm.create_model(
            name, pretrained=checkpoint is None and not random_weights, checkpoint_path=checkpoint or ""
        )
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise WeightsError(
            f"The weights of {name!r} could not be loaded: {reason[0] if reason else type(error).__name__}."
            " They come from the Hugging Face hub, which needs a network once; then they are kept. Offline, give a file"
            " with --checkpoint FILE, look at an untrained model with --random-weights, or leave --model out: the small"
            " ViT of the demo is trained here."
        ) from error
    return model


def sample_photograph() -> npt.NDArray[np.uint8]:
    """Return the photograph of a flower that comes with scikit-learn."""
    from sklearn.datasets import load_sample_image

    image: npt.NDArray[np.uint8] = load_sample_image("flower.jpg")
    return image


def run(context: InputContext, out: Path, query: Cell | None = None, layers: str | None = None) -> list[Path]:
    """Capture every map of the context, and write the maps and their pictures.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    OptionError
        If the maps are too large for one file.
    ShapeError
        If no layer relates patches of the image.
    """
    with adapter.capture_attention(context.model, modules=layers) as maps, torch.no_grad():
        context.model(context.tensor)
    print(f"{summary(maps)} Queries of the first layer: {maps[0].queries}.")
    for what, count in Counter(maps.unsupported.values()).items():
        print(f"{count} other layers have no map: {what}.")
    gigabytes = sum(math.prod(attention.shape) * attention.dtype.itemsize for attention in maps) / 1e9
    if gigabytes > LARGEST:
        raise OptionError(
            f"The maps are {gigabytes:.1f} GB, more than the {LARGEST} GB that are written; choose some with --layers"
            f" PATTERN, as in --layers {maps[-1].name!r}."
        )
    files = write(_pictures(context, maps, query or context.query), out)
    return [*files, store.save(maps, out / "maps.safetensors"), *_page(context, maps, out)]


def _page(context: InputContext, maps: AttentionMaps, out: Path) -> list[Path]:
    try:
        page = explore(maps, images=context.pixels, samples=0, title=context.title, limit=LARGEST_PAGE)
    except OptionError as error:
        # The pictures are there all the same.
        print(f"There is no interactive page: {error}")
        return []
    return [page.save(out / "attention.html")]


def _pictures(context: InputContext, maps: AttentionMaps, query: Cell | None) -> Iterator[tuple[str, Any]]:
    over = [attention for attention in maps if isinstance(attention.keys, (Patches, PlacedPatches))]
    if not over:
        raise ShapeError(f"The positions of {maps[-1].name!r} are no patches, so it cannot be drawn over the image.")
    last = over[-1]
    where = _asked(last, query)  # refuses a query outside of the grid before anything is drawn
    for number, attention in enumerate(maps):
        if attention.windows > 1 and isinstance(attention.keys, PlacedPatches):
            yield f"layer-{number:02}-windows", partial(_drawn, plot.windows, attention, context.pixels, sample=0)
        else:
            yield f"layer-{number:02}-heads", partial(heads, attention, sample=0)
    yield "query", partial(_drawn, plot.query, last, context.pixels, query=where, sample=0)
    if all(isinstance(m.keys, Patches) and m.queries == m.keys == maps[0].keys for m in maps):
        yield "rollout", partial(_drawn, plot.rollout, maps, context.pixels, sample=0)
    yield "entropy", partial(_drawn, entropy, maps)
    if any(hasattr(attention.queries, "grid") for attention in over):
        yield "distance", partial(_drawn, plot.distance, maps)
    if any(getattr(attention.keys, "prefix", ()) for attention in over):
        yield "prefix", partial(_drawn, plot.prefix, maps)


def _asked(attention: AttentionMap, query: Cell | None) -> object:
    """Return the query of the picture: the one in the middle, or the only one, where none is asked for."""
    queries = attention.queries
    if isinstance(queries, (Patches, PlacedPatches)):
        rows, columns = queries.grid
        where = query or (rows // 2, columns // 2)
        if isinstance(queries, Patches):
            queries.position(where)
        else:
            queries.find(*where)
        return where
    return queries.position(query) if query is not None else 0


def _drawn(recipe: Any, *arguments: Any, **options: Any) -> Figure:
    axes = recipe(*arguments, **options)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure


def listing(name: str) -> str:
    """Return what a timm model has: the layers with a map, and what is called attention without one.

    Raises
    ------
    OptionError
        If timm has no such model.
    TargetError
        If it has no map.
    """
    check_name(name)
    try:
        # Nothing runs, so there need be no weights, and no memory for them.
        with torch.device("meta"):
            model = timm.create_model(name)
    except NotImplementedError:
        model = timm.create_model(name)  # some models cannot be made without
    capture = adapter.capture_attention(model)
    lines = [f"{name} has {len(capture.layers)} layers with a map, by module and class:"]
    lines += [f"  {layer}  {kind}" for layer, kind in capture.layers.items()]
    if capture.unsupported:
        lines += [f"and {len(capture.unsupported)} without one:"]
        lines += [f"  {layer}  {what}" for layer, what in capture.unsupported.items()]
    return "\n".join(lines)
