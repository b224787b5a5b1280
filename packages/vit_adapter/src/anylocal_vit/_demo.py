"""The main job from end to end: a model and an image in, every attention map as pictures out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from matplotlib.figure import Figure

from anylocal._command import summary, write
from anylocal.attention import AttentionMaps, Patches
from anylocal.errors import OptionError, ShapeError, WeightsError
from anylocal.plot import heads
from anylocal_vit import _digits, plot
from anylocal_vit._adapter import adapter
from anylocal_vit._photograph import photograph

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Cell = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Scene:
    """A model and what it looks at."""

    model: torch.nn.Module
    tensor: torch.Tensor
    pixels: npt.NDArray[np.uint8]
    query: Cell | None = None


def digits_scene() -> Scene:
    """Train the small ViT and show it a digit."""
    model, accuracy = _digits.train()
    print(f"It gets {accuracy:.0%} of the digits right that it was not trained on.")
    image = _digits.sample()
    return Scene(model, image, _digits.pixels(image), _digits.brightest_patch(image))


def photo_scene(name: str, file: str | None, *, checkpoint: str | None, random_weights: bool) -> Scene:
    """Load a timm model and a photograph.

    Raises
    ------
    OptionError
        If timm has no such model.
    WeightsError
        If its weights cannot be loaded.
    ShapeError
        If the file is no image.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.partition('.')[0][:12]}*")[:5] or timm.list_models("vit_*patch16_224")[:5]
        raise OptionError(f"timm has no model {name!r}. It has, for example: {', '.join(near)}.")
    model = load_model(name, checkpoint=checkpoint, random_weights=random_weights).eval()
    photo = photograph(model, sample_photograph() if file is None else file)
    return Scene(model, photo.tensor, photo.pixels)


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


def run(scene: Scene, out: Path, query: Cell | None = None) -> list[Path]:
    """Capture every map of the scene and write the pictures.

    Returns
    -------
    list of Path
        The files.
    """
    with adapter.capture_attention(scene.model) as maps, torch.no_grad():
        scene.model(scene.tensor)
    print(f"{summary(maps)} Queries of the first layer: {maps[0].queries}.")
    return write(_pictures(scene, maps, query or scene.query), out)


def _pictures(scene: Scene, maps: AttentionMaps, query: Cell | None) -> Iterator[tuple[str, Any]]:
    last = maps[-1]
    if not isinstance(last.queries, Patches) or not isinstance(last.keys, Patches):
        raise ShapeError(f"The positions of {last.name!r} are no patches, so it cannot be drawn over the image.")
    rows, columns = last.queries.grid
    where = query or (rows // 2, columns // 2)
    last.queries.position(where)  # refuses a query outside of the grid before anything is drawn
    for number, attention in enumerate(maps):
        yield f"layer-{number:02}-heads", partial(heads, attention, sample=0)
    yield "query", lambda: _over_image(plot.query, last, scene.pixels, query=where, sample=0)
    if all(isinstance(m.keys, Patches) and m.shape[2] == m.shape[3] for m in maps):
        yield "rollout", lambda: _over_image(plot.rollout, maps, scene.pixels, sample=0)


def _over_image(recipe: Any, attention: object, pixels: npt.NDArray[np.uint8], **options: Any) -> Figure:
    axes = recipe(attention, pixels, **options)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure
